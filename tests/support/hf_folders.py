"""Hugging Face folders of small random models, as transformers writes them, and their tensors."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from support import reference

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEXT = {  # heads, widths and vocabulary that a mesh of eight can split
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
Tensors = dict[str, torch.Tensor]


def write(
    folder: Path,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    sharded: bool = False,
    layout: str = "old",
) -> Path:
    model = reference.random_model(reference.random_config(3, tied=tied, **TEXT), 0).to(dtype)
    model.save_pretrained(folder, max_shard_size="60KB" if sharded else "5GB")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    if layout == "new":
        respell(folder, _new)
    return folder


def _new(key: str) -> str:
    for old, new in (("visual.", "model.visual."), ("model.", "model.language_model.")):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def respell(folder: Path, name: Callable[[str], str]) -> None:
    for path in folder.glob("*.safetensors"):
        save({name(key): tensor for key, tensor in load_file(path).items()}, path)
    if (folder / INDEX).is_file():
        edit_index(folder, lambda weights: {name(k): file for k, file in weights.items()})


def edit_index(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit(path: Path, change: Callable[[Tensors], Tensors]) -> None:
    save(change(load_file(path)), path)


def save(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def tensors(folder: Path) -> Tensors:
    """All of a folder's tensors, read by the safetensors package."""
    found: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard = load_file(path)
        assert not found.keys() & shard.keys()
        found |= shard
    return found


def assert_same_bytes(a: Path, b: Path) -> None:
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        other = theirs[key]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), key
        assert torch.equal(tensor.view(torch.uint8), other.view(torch.uint8)), key
