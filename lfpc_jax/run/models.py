"""Loads the model that a command's argument names: a model folder of any kind, or a run."""

import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import folder, huggingface, store, sums
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.checkpoint.folder import HFFolder
from lfpc_jax.checkpoint.identity import model_identity
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.model import config
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.spec import spec_tree
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.run import progress
from lfpc_jax.run.folder import check_has_weights, checkpoint_of, load_run, run_of


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model. `assets` is the folder of its config, tokenizer and processor files, and
    `folder` that of its weights, None if none were read. `origin` says how its weights were named
    and typed at first. `step` is the step of its run, or None if it is not a run's."""

    cfg: ModelConfig
    params: Tree
    assets: Path
    origin: Origin
    step: int | None = None
    folder: Path | None = None

    @cached_property
    def identity(self) -> dict[str, str]:
        """Digests that distinguish this model from all others; see `checkpoint.identity`. To
        compute them, all weights are read once."""
        assert self.folder is not None, "a model without weights"
        with progress.waiting(f"which model {self.folder} holds"):
            return model_identity(self.folder, self.assets)

    def without_weights(self) -> "LoadedModel":
        return replace(self, params=None)


def load_model(path: Path, *, dtype: str | None = None, mesh: Mesh | None = None) -> LoadedModel:
    """Loads a Hugging Face folder, a folder that `convert.py to-orbax` wrote, or a training run:
    RUN (its newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best. The default dtype is
    float32 on a CPU and bfloat16 elsewhere. Weights that are not finite raise ValueError."""
    loaded = _loaded(path, dtype or tuning().dtype, mesh)
    with progress.waiting(f"looking for NaN in {path}"):
        check_finite(loaded.params, spec_tree(loaded.cfg), where=loaded.folder or path)
    return loaded


def _loaded(path: Path, dtype: str, mesh: Mesh | None) -> LoadedModel:
    if run := run_of(path):
        with progress.waiting(f"restoring {path}"):
            cfg, params, saved = load_run(path, run, dtype=dtype, mesh=mesh)
        return LoadedModel(cfg, params, run.assets, run.origin, saved.step, saved.path)
    if store.is_store(path):
        with progress.waiting(f"verifying {path}"):
            stored = store.open_store(path)
        cfg = config.from_folder(stored.assets, dtype=dtype)
        with progress.waiting("restoring"):
            params = store.restore(stored, cfg, dtype=dtype, mesh=mesh)
        return LoadedModel(cfg, params, stored.assets, stored.origin, folder=path)
    check_has_weights(path)
    cfg = config.from_folder(path, dtype=dtype)
    opened = folder.open_folder(path, cfg)
    return LoadedModel(cfg, params_of(opened, cfg, dtype, mesh), path, opened.origin, folder=path)


def params_of(opened: HFFolder, cfg: ModelConfig, dtype: str | None, mesh: Mesh | None) -> Tree:
    """The parameters of an opened folder, compared with its checksums while they are read. Says so
    in a line if it has none."""
    with progress.bar("loading", opened.nbytes, of_bytes=True, every=2.0) as advance:
        params = huggingface.load(opened, cfg, dtype=dtype, mesh=mesh, advance=advance)
    if not opened.summed and jax.process_index() == 0:
        print(
            f"note: {opened.path} has no {sums.FILE}, as exports have; a flipped bit in its "
            "weights would not be noticed",
            file=sys.stderr,
        )
    return params


def assets_of(path: Path) -> Path:
    """The folder of the config, tokenizer and processor files of the model that a path names."""
    if run := run_of(path):
        return run.assets
    check_has_weights(path)
    return store.assets_of(path) if store.is_store(path) else path


def identity_of(path: Path) -> dict[str, str]:
    """`LoadedModel.identity` of the model that a path names, without loading its weights."""
    run = run_of(path)
    return model_identity(checkpoint_of(path, run).path if run else path, assets_of(path))


def asking_of(path: Path) -> Asking | None:
    """How to ask the model that a path names, or None if it does not say. No weights are read."""
    run = run_of(path)
    return run.asking if run else Asking.read(assets_of(path))
