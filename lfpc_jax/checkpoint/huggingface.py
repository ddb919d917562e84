"""Loads and saves Hugging Face folders, one tensor at a time.

Stacked leaves are allocated as zeros on their devices and filled layer by layer with donated
updates, so that loading takes the memory of the weights and about one tensor. Every process reads
only the rows that its devices hold.

Deviation: programs that only copy numbers treat them as unsigned integers. XLA's CPU backend would
convert bfloat16 to float32 and back, which changes the payload of NaNs.
"""

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import assets, keys, staging, sums, tensorfile
from lfpc_jax.checkpoint.demand import check_tree
from lfpc_jax.checkpoint.folder import INDEX, SINGLE, HFFolder, Tensor
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.distributed import sharding
from lfpc_jax.model import int8, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.spec import Param

Advance = Callable[[int], None]
"""Called with the number of bytes that were done since the last call."""

SHARD_BYTES = 5 * 10**9


def _ignore(_: int) -> None:
    pass


# ---------------------------------------------------------------- load


def load(
    folder: HFFolder,
    cfg: ModelConfig,
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    advance: Advance = _ignore,
    rounding: int8.Rounding | None = None,
) -> Tree:
    """An opened folder's parameters, sharded over `mesh`, in `dtype` or in the stored dtype. With
    `rounding`, those that `int8` names are rounded as they come, so that no device ever has them
    whole, and what that takes is noted there."""
    tree = spec.spec_tree(cfg) if rounding is None else int8.specs(spec.spec_tree(cfg))
    specs, treedef = jax.tree.flatten(tree, is_leaf=spec.is_param)
    targets = {p: _target(folder.tensors[p.hf_names[0]], p, dtype, mesh) for p in specs}
    scales = {p.hf: p for p in specs if p.held == "scale"}
    stacked = [p for p in specs if p.stack]
    single = sorted((p for p in specs if not p.stack), key=lambda p: -math.prod(p.shape))

    def put(param: Param, name: str) -> jax.Array:
        array = _put(folder.tensors[name], param, mesh).block_until_ready()
        advance(folder.tensors[name].nbytes)
        return array

    # The largest tensors come first, while little else is in memory, and small ones follow: JAX
    # frees the source of a finished transfer only when the next transfer begins.
    leaves = {param: _cast(put(param, param.hf), targets[param]) for param in single}
    leaves |= zip(stacked, _zeros([targets[p] for p in stacked]))
    for param in stacked:
        if param.held == "scale":
            continue  # comes with its weight
        parts = [param, scales[param.hf]] if param.held == "int8" else [param]
        for layer, name in enumerate(param.hf_names):
            made: tuple[jax.Array, ...] = (put(param, name),)
            if rounding is not None and param.held == "int8":
                *made, squares = _rounder(mesh)(*made, param, targets[parts[1]].dtype)
                rounding.add((name,), squares)
            for part, array in zip(parts, made, strict=True):
                write = _writer(targets[part].sharding)
                leaves[part] = write(leaves[part], np.int32(layer), array)
                leaves[part].block_until_ready()
    return jax.tree.unflatten(treedef, [leaves[p] for p in specs])


def _target(tensor: Tensor, param: Param, dtype: Any, mesh: Mesh | None) -> jax.ShapeDtypeStruct:
    target = tensor.dtype if dtype is None else np.dtype(dtype)
    if target.name not in ("float32", "bfloat16"):
        raise ValueError(
            f"{tensor}: would be loaded as {target.name}; parameters are float32 or bfloat16: ask "
            "for one of them"
        )
    place = _place(param.array_axes, param.array_shape, mesh)
    return jax.ShapeDtypeStruct(param.array_shape, param.dtype_in(target), sharding=place)


@cache
def _rounder(mesh: Mesh | None) -> Callable[..., Any]:
    """`int8.rounded`, whose sums every process has."""
    everywhere = NamedSharding(mesh, PartitionSpec()) if mesh else None
    places = (None, None, everywhere)
    return jax.jit(int8.rounded, static_argnums=(1, 2), out_shardings=places)


def _put(tensor: Tensor, param: Param, mesh: Mesh | None) -> jax.Array:
    """A tensor in our layout on its devices; the transposed view is copied only by the transfer.

    The rows of the file are our dimension `param.inputs`, the first of the output dimensions.
    """
    rows, shape = param.inputs, param.shape
    step = param.hf_shape[0] // shape[rows]
    read: dict[tuple[int, int], np.ndarray] = {}

    def region(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        start, stop, _ = index[rows].indices(shape[rows])
        if (start, stop) not in read:
            part = replace(param, shape=(*shape[:rows], stop - start, *shape[rows + 1 :]))
            read[start, stop] = part.from_hf(tensor.read(start * step, stop * step))
        return read[start, stop][(*index[:rows], slice(None), *index[rows + 1 :])]

    return jax.make_array_from_callback(shape, _place(param.axes, shape, mesh), region)


def _place(axes: sharding.Axes, shape: tuple[int, ...], mesh: Mesh | None) -> Sharding:
    if mesh is None:
        return jnp.zeros(()).sharding
    return sharding.sharding(axes, shape, mesh)


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))


def _zeros(targets: list[jax.ShapeDtypeStruct]) -> list[jax.Array]:
    places = [target.sharding for target in targets]
    make = jax.jit(lambda: [jnp.zeros(t.shape, t.dtype) for t in targets], out_shardings=places)
    return make()


def _cast(tensor: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    if tensor.dtype == target.dtype:
        return tensor
    cast = jax.jit(lambda x: x.astype(target.dtype), out_shardings=target.sharding)
    return cast(tensor)


@cache
def _writer(place: Sharding) -> Callable[..., jax.Array]:
    """The program `(leaf, layer, tensor) -> leaf`, which updates the leaf in place."""

    def write(leaf: jax.Array, layer: jax.Array, tensor: jax.Array) -> jax.Array:
        update = _bits(tensor.astype(leaf.dtype))
        bits = jax.lax.dynamic_update_index_in_dim(_bits(leaf), update, layer, 0)
        return jax.lax.bitcast_convert_type(bits, leaf.dtype)

    return jax.jit(write, out_shardings=place, donate_argnums=0)


# ---------------------------------------------------------------- save


def save(
    params: Tree,
    folder: str | Path,
    *,
    cfg: ModelConfig,
    assets_from: str | Path,
    origin: Origin,
    dtype: Any = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    advance: Advance = _ignore,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes a folder that `from_pretrained` opens, in `dtype` or in the parameters' dtype, with
    the checksums of its weights.

    All files but weights are copied from the folder `assets_from`; `texts` (file name -> content)
    replaces some of them. Keys are spelled as in `origin`. If the dtype is not that of `origin`,
    config.json is changed to name the new one.
    """
    units = _units(params, cfg, origin, dtype)
    with staging.staged(folder, overwrite=overwrite) as staged:
        _write_shards(units, staged, shard_bytes, advance)
        if jax.process_index() == 0:
            assets.copy(assets_from, staged)
            for name, text in (texts or {}).items():
                (staged / name).write_text(text, encoding="utf-8")
            dtypes = sorted({unit.plan.dtype.name for unit in units})
            if tuple(dtypes) != origin.dtypes and len(dtypes) == 1:
                assets.declare_dtype(staged, dtypes[0])


@dataclass(frozen=True)
class _Unit:
    """A tensor to be written."""

    key: str
    plan: tensorfile.Planned
    param: Param
    leaf: jax.Array
    layer: int

    def fetch(self) -> np.ndarray:
        """Copies it to the host. With several processes, all must call this."""
        place = self.leaf.sharding
        mesh = place.mesh if isinstance(place, NamedSharding) else None
        program = _fetcher(replace(self.param, hf=""), self.plan.dtype, mesh)
        bits = program(self.leaf, np.int32(self.layer)).addressable_data(0)
        return np.asarray(bits).view(self.plan.dtype)


def _units(params: Tree, cfg: ModelConfig, origin: Origin, dtype: Any) -> list[_Unit]:
    """All tensors of the folder, wide dtypes first, as the format's alignment demands."""
    check_tree(params, cfg, where="parameters")
    specs = jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param)
    pairs = list(zip(specs, jax.tree.leaves(params)))
    if origin.repeats_embedding:
        pairs += [(replace(p, hf=keys.UNEMBEDDING), x) for p, x in pairs if p.hf == keys.EMBEDDING]
    units = []
    for param, leaf in pairs:
        plan = tensorfile.Planned(np.dtype(dtype or leaf.dtype), param.hf_shape)
        for layer, name in enumerate(param.hf_names):
            units.append(_Unit(keys.spelled(name, origin.layout), plan, param, leaf, layer))
    return sorted(units, key=lambda unit: -unit.plan.dtype.itemsize)


@cache
def _fetcher(param: Param, dtype: np.dtype, mesh: Mesh | None) -> Callable[..., jax.Array]:
    """The program `(leaf, layer) -> the bits of the file's tensor`, replicated on all devices."""

    def fetch(leaf: jax.Array, layer: jax.Array) -> jax.Array:
        bits = _bits(leaf)
        if param.stack:
            bits = jax.lax.dynamic_index_in_dim(bits, layer, 0, keepdims=False)
        if leaf.dtype != dtype:
            bits = _bits(jax.lax.bitcast_convert_type(bits, leaf.dtype).astype(dtype))
        return param.to_hf(bits)

    return jax.jit(fetch, out_shardings=NamedSharding(mesh, PartitionSpec()) if mesh else None)


def _write_shards(units: list[_Unit], folder: Path, shard_bytes: int, advance: Advance) -> None:
    shards = _split(units, shard_bytes)
    weight_map: dict[str, str] = {}
    written: dict[str, sums.FileSums] = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if shards[1:] else SINGLE
        weight_map |= {unit.key: name for unit in shard}
        tensors = _stream(shard, advance)
        if jax.process_index():
            deque(tensors, maxlen=0)  # all processes fetch together, but only the first writes
        else:
            plan = {unit.key: unit.plan for unit in shard}
            written[name] = tensorfile.write_file(folder / name, plan, tensors)
    if jax.process_index():
        return
    sums.write(folder, written)
    if shards[1:]:
        total = sum(unit.plan.nbytes for unit in units)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _stream(shard: list[_Unit], advance: Advance) -> Iterator[np.ndarray]:
    for unit in shard:
        yield unit.fetch()
        advance(unit.plan.nbytes)


def _split(units: list[_Unit], shard_bytes: int) -> list[list[_Unit]]:
    """Consecutive shards of at most `shard_bytes`; a larger tensor is a shard alone."""
    shards: list[list[_Unit]] = [[]]
    room = shard_bytes
    for unit in units:
        if shards[-1] and unit.plan.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(unit)
        room -= unit.plan.nbytes
    return shards
