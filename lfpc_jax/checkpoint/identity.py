"""Which model a folder holds: what an evaluation or a selection compares before it resumes.

Names, sizes and times of change do not distinguish models, but bytes do. The identity covers all
bytes through their checksums. For a Hugging Face folder these are computed, which reads the weights
once more. Folders that this package wrote list them in their manifest, which loading has verified.
The same weights in other files have another identity: for example a run's checkpoint and its
export, or a checkpoint that was written twice.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from lfpc_jax.checkpoint import folder, manifest, store, sums, training

_ASSETS = (".json", ".jinja", ".txt")
_OF_WEIGHTS = (folder.INDEX, sums.FILE)


def model_identity(weights: Path, assets: Path) -> dict[str, str]:
    """A digest of the weights and one of the assets (config, tokenizer, chat template and processor
    files).

    The folder `weights` is a Hugging Face folder, one that `to-orbax` wrote, or a checkpoint
    RUN/checkpoints/STEP. Of a checkpoint only the model counts, not the optimizer's state or the
    position in the data.
    """
    return {"weights": _weights(weights), "assets": _assets(assets)}


def _weights(path: Path) -> str:
    if store.is_store(path):
        return _digest(store.listed(path))
    if training.is_checkpoint(path):
        return _digest(training.listed(path))
    return _digest(manifest.describe(path, folder.weight_files(path)))


def _assets(path: Path) -> str:
    names = [
        file.name
        for file in path.iterdir()
        if file.suffix in _ASSETS and file.name not in _OF_WEIGHTS and not file.name.startswith(".")
    ]
    return _digest(manifest.describe(path, names))


def _digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:32]
