"""The files of a model folder beside its weights: config, tokenizer, processor, chat template,
licence."""

import json
import shutil
from pathlib import Path

from lfpc_jax.checkpoint import sums
from lfpc_jax.jsonfile import read_object

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}
_DTYPE_KEYS = ("dtype", "torch_dtype")


def copy(source: str | Path, target: Path) -> None:
    """Copies every file but weights, their index and checksums, and hidden files; folders are not
    copied."""
    for path in sorted(Path(source).iterdir()):
        of_weights = (
            path.suffix in _WEIGHTS or path.name.endswith(".index.json") or path.name == sums.FILE
        )
        if path.is_file() and not of_weights and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def declare_dtype(folder: Path, dtype: str) -> None:
    """Replaces every dtype that config.json names by the one that the weights now have."""
    path = folder / "config.json"
    raw = read_object(path)
    for section in (raw, raw.get("text_config"), raw.get("vision_config")):
        for key in _DTYPE_KEYS:
            if isinstance(section, dict) and key in section:
                section[key] = dtype
    path.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
