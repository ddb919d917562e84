"""Which model a folder holds: what an evaluation or a selection compares before it goes on.

A name, a size and a time of change do not tell one model from another; the bytes do. All of them
count, through the checksums that `manifest` keeps: of a Hugging Face folder they are computed, at
the price of reading its weights once more, of what we wrote ourselves they stand in its manifest,
which loading has verified. The same weights in other files are another identity: a run's and its
export's, or a checkpoint that was written a second time.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from lfpc_jax.checkpoint import folder, manifest, store, training

_ASSETS = (".json", ".jinja", ".txt")


def model_identity(weights: Path, assets: Path) -> dict[str, str]:
    """A digest of the `weights` and one of the `assets` (config, tokenizer, chat template and
    processor files).

    `weights` is a Hugging Face folder, one of `to-orbax`, or a run's RUN/checkpoints/STEP, of which
    only the model counts: neither the optimizer's state nor the place in the data.
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
        if file.suffix in _ASSETS and file.name != folder.INDEX and not file.name.startswith(".")
    ]
    return _digest(manifest.describe(path, names))


def _digest(files: Any) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:32]
