"""Opens a Hugging Face folder and checks it: every key is there, in one file only, complete and of
the right shape.

The checks read only headers, so nothing is allocated. An error is a `ValueError` that names the
file and the key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from lfpc_jax.checkpoint import keys, sums, tensorfile
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.sums import FileSums
from lfpc_jax.checkpoint.tensorfile import TensorFile
from lfpc_jax.jsonfile import read_object
from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_COMPARED_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class Tensor:
    """A tensor: its file, and its key as the file spells it."""

    file: TensorFile
    key: str

    @property
    def dtype(self) -> np.dtype:
        return self.file.dtype(self.key)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.entries[self.key].shape

    @property
    def nbytes(self) -> int:
        return self.file.entries[self.key].nbytes

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.file.read(self.key, start, stop)

    def __str__(self) -> str:
        return f"{self.file.path}: key {self.key!r}"


@dataclass(frozen=True)
class HFFolder:
    """The tensors of a folder by canonical name; `origin` says how it spells them."""

    path: Path
    tensors: Mapping[str, Tensor]
    origin: Origin

    @property
    def nbytes(self) -> int:
        """The size of all tensors that become parameters: all but a repeated embedding."""
        repeated = keys.UNEMBEDDING if self.origin.repeats_embedding else None
        return sum(tensor.nbytes for name, tensor in self.tensors.items() if name != repeated)


def open_folder(path: str | Path, cfg: ModelConfig) -> HFFolder:
    """Opens and checks the weights of `path` against the parameters that `cfg` demands."""
    path = Path(path)
    known = sums.read(path)
    tensors: dict[str, Tensor] = {}
    for tensor in _tensors(path, known):
        name = keys.canonical(tensor.key)
        if name in tensors:
            raise ValueError(
                f"{tensor}: duplicate: {tensors[name]} is the same parameter; remove one of them"
            )
        tensors[name] = tensor
    specs = jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param)
    repeats_embedding = cfg.tied and keys.UNEMBEDDING in tensors
    _check_names(path, tensors, specs, cfg)
    for param in specs:
        _check_param(tensors, param)
    if repeats_embedding:
        _check_equal(tensors[keys.UNEMBEDDING], tensors[keys.EMBEDDING])
    return HFFolder(path, tensors, _origin(tensors, repeats_embedding))


def _origin(tensors: Mapping[str, Tensor], repeats_embedding: bool) -> Origin:
    return Origin(
        dtypes=tuple(sorted({t.dtype.name for t in tensors.values()})),
        layout="new" if any(keys.is_new(t.key) for t in tensors.values()) else "old",
        repeats_embedding=repeats_embedding,
    )


def weight_files(folder: Path) -> tuple[str, ...]:
    """The names of the files that hold a folder's weights; if there is an index, it comes first."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(f"{folder}: has both {SINGLE} and {INDEX}; remove the one that is stale")
    if index.is_file():
        return (INDEX, *sorted(set(_weight_map(index).values())))
    if single.is_file():
        return (SINGLE,)
    raise ValueError(
        f"{folder}: has neither {SINGLE} nor {INDEX}; save the model's weights as safetensors"
    )


def _tensors(folder: Path, known: Mapping[str, FileSums] | None) -> Iterator[Tensor]:
    if weight_files(folder)[0] == INDEX:
        yield from _indexed(folder / INDEX, known)
    else:
        file = tensorfile.open_file(folder / SINGLE, known)
        yield from (Tensor(file, key) for key in file.entries)


def _indexed(index: Path, known: Mapping[str, FileSums] | None) -> Iterator[Tensor]:
    """The tensors of all shards; each must have exactly the keys that the index promises."""
    weight_map = _weight_map(index)
    for name in sorted(set(weight_map.values())):
        promised = [key for key, shard in weight_map.items() if shard == name]
        if not (index.parent / name).is_file():
            raise ValueError(
                f"{index.parent / name}: the shard is missing; {INDEX} says that it has key "
                f"{promised[0]!r} and {len(promised) - 1} more. Download it again"
            )
        file = tensorfile.open_file(index.parent / name, known)
        for key in promised:
            if key not in file.entries:
                raise ValueError(f"{file.path}: lacks key {key!r}, which {INDEX} places there")
        for key in file.entries:
            if key not in weight_map:
                raise ValueError(f"{file.path}: key {key!r} is not in {INDEX}")
            if weight_map[key] != name:
                raise ValueError(
                    f"{file.path}: duplicate key {key!r}: {INDEX} places it in {weight_map[key]}"
                )
            yield Tensor(file, key)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index, unique_keys=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index}: has no 'weight_map'; copy the file again")
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index}: key {key!r} lies in {name!r}, expected a file beside it")
    return weight_map


def _check_names(
    folder: Path, tensors: Mapping[str, Tensor], specs: list[spec.Param], cfg: ModelConfig
) -> None:
    expected = {name for param in specs for name in param.hf_names}
    allowed = expected | ({keys.UNEMBEDDING} if cfg.tied else set())
    for name, tensor in tensors.items():
        if name not in allowed:
            raise ValueError(
                f"{tensor}: unknown; config.json describes {cfg.text.layers} text and "
                f"{cfg.vision.depth} vision layers of Qwen2.5-VL, which have no such parameter"
            )
    missing = sorted(expected - tensors.keys())
    if missing:
        untied = " (config.json says that embeddings are not tied)" if not cfg.tied else ""
        raise ValueError(
            f"{folder}: lacks key {missing[0]!r}"
            + (untied if missing[0] == keys.UNEMBEDDING else "")
            + (f" and {len(missing) - 1} more" if missing[1:] else "")
            + "; is it the folder of config.json's model?"
        )


def _check_param(tensors: Mapping[str, Tensor], param: spec.Param) -> None:
    first = tensors[param.hf_names[0]]
    for name in param.hf_names:
        tensor = tensors[name]
        if tensor.shape != param.hf_shape:
            raise ValueError(
                f"{tensor}: has shape {tensor.shape}, config.json demands {param.hf_shape}"
            )
        if tensor.dtype != first.dtype:
            raise ValueError(
                f"{tensor}: is {tensor.dtype}, but {first} is {first.dtype}; layers are stacked "
                "into one array and need one dtype: save the model in one dtype"
            )


def _check_equal(copy: Tensor, embedding: Tensor) -> None:
    """A tied model's `lm_head.weight` is not loaded, so it must equal the embedding."""
    if (copy.shape, copy.dtype) != (embedding.shape, embedding.dtype):
        raise ValueError(
            f"{copy}: is {copy.dtype} {copy.shape}, {embedding} is {embedding.dtype} "
            f"{embedding.shape}, yet config.json ties them; set tie_word_embeddings to false"
        )
    rows, width = copy.shape
    step = max(1, _COMPARED_AT_ONCE // (width * copy.dtype.itemsize))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        ours, theirs = (t.read(start, stop).view(np.uint8) for t in (copy, embedding))
        if not np.array_equal(ours, theirs):
            raise ValueError(
                f"{copy}: differs from {embedding} in rows {start} to {stop - 1}, yet config.json "
                "ties them; set tie_word_embeddings to false, or remove the key"
            )
