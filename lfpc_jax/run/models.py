"""Loads the model that a command is given: a Hugging Face folder, an Orbax folder, or a run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import folder, huggingface, store
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.checkpoint.identity import model_identity
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.model import config
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.spec import spec_tree
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.run import progress
from lfpc_jax.run.folder import checkpoint_of, load_run, run_of


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """`assets` holds config, tokenizer and processor files. `origin` holds the names and dtypes of
    the weights where they came from, and `step` the step of their run, if they are of a run.
    `folder` holds the weights themselves; it is None if none were read."""

    cfg: ModelConfig
    params: Tree
    assets: Path
    origin: Origin
    step: int | None = None
    folder: Path | None = None

    @cached_property
    def identity(self) -> dict[str, str]:
        """Digests that distinguish this model from every other; see `checkpoint.identity`. All
        weights are read once for them."""
        assert self.folder is not None, "a model without weights"
        with progress.waiting(f"which model {self.folder} holds"):
            return model_identity(self.folder, self.assets)


def load_model(path: Path, *, dtype: str | None = None, mesh: Mesh | None = None) -> LoadedModel:
    """A Hugging Face folder, one that `convert.py to-orbax` wrote, or a training run's: RUN (its
    newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best. By default float32 on a CPU,
    bfloat16 elsewhere. Weights that are not finite are refused."""
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
    cfg = config.from_folder(path, dtype=dtype)
    opened = folder.open_folder(path, cfg)
    with progress.bar("loading", opened.nbytes, of_bytes=True, every=2.0) as advance:
        params = huggingface.load(opened, cfg, dtype=dtype, mesh=mesh, advance=advance)
    return LoadedModel(cfg, params, path, opened.origin, folder=path)


def assets_of(path: Path) -> Path:
    """The folder with the config, tokenizer and processor files of the model that a path names."""
    if run := run_of(path):
        return run.assets
    return store.assets_of(path) if store.is_store(path) else path


def identity_of(path: Path) -> dict[str, str]:
    """As `LoadedModel.identity`, of the model that a path names; its weights are not loaded."""
    run = run_of(path)
    return model_identity(checkpoint_of(path, run).path if run else path, assets_of(path))


def asking_of(path: Path) -> Asking | None:
    """How the model that a path names is to be asked; None if its folder does not say. No weights
    are read."""
    run = run_of(path)
    return run.asking if run else Asking.read(assets_of(path))
