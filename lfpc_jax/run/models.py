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
from lfpc_jax.model import config, int8
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Base
from lfpc_jax.model.spec import spec_tree
from lfpc_jax.model.tuning import tuning
from lfpc_jax.remote import hub
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.run import progress
from lfpc_jax.run.config_files import CONFIGS
from lfpc_jax.run.folder import RunFolder, check_has_weights, checkpoint_of, load_run, run_of

_OF_MODELS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "LICENSE*", "README.md")
"""Files of a model on the Hub that are fetched; others hold the same weights in other formats."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A loaded model. `assets` is the folder of its config, tokenizer and processor files, and
    `folder` that of its weights, None if none were read. `origin` says how its weights were named
    and typed at first. `step` is the step of its run, or None if it is not a run's. `rounding` says
    what int8 took of its weights, if they are held so."""

    cfg: ModelConfig
    params: Tree
    assets: Path
    origin: Origin
    step: int | None = None
    folder: Path | None = None
    rounding: int8.Rounding | None = None

    @cached_property
    def identity(self) -> dict[str, str]:
        """Digests that distinguish this model from all others; see `checkpoint.identity`. To
        compute them, all weights are read once."""
        assert self.folder is not None, "a model without weights"
        with progress.waiting(f"which model {self.folder} holds"):
            return model_identity(self.folder, self.assets)

    def without_weights(self) -> "LoadedModel":
        return replace(self, params=None)


def located(path: Path) -> Path:
    """The folder of the model that a name stands for: the one here; from anywhere, a micro model of
    the package, as `configs/micro/warm`; or one on the Hub, which is fetched if need be."""
    if path.exists():
        return path
    shipped = CONFIGS.parent / path
    if path.parts[:1] == (CONFIGS.name,) and shipped.is_dir():
        return shipped
    name = hub.HubName.parse(path)
    return path if name is None else hub.fetched(name, "model", _OF_MODELS)


def here(path: Path) -> Path:
    """As `located`, for what needs no weights: nothing is fetched. A name that would have to be
    fetched is returned as it is."""
    try:
        with hub.fetching_nothing():
            return located(path)
    except hub.NotHere:
        return path


def shown_path(path: Path) -> str:
    """What a record says of a model: where its folder is, or its name on the Hub."""
    return str(path) if hub.HubName.parse(path) else str(path.absolute())


def load_model(
    path: Path, *, dtype: str | None = None, mesh: Mesh | None = None, base: Base = "same"
) -> LoadedModel:
    """Loads a Hugging Face folder, a folder that `lfpc convert to-orbax` wrote, or a training run:
    RUN (its newest checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best. The default dtype is
    float32 on a CPU and bfloat16 elsewhere. With the `base` int8 the text's projections are rounded
    to that. Tensors of a Hugging Face folder are rounded as they are read; what the other kinds of
    folders hold is restored whole before. Weights that are not finite raise ValueError."""
    path = located(path)
    rounding = int8.Rounding() if base == "int8" else None
    loaded = replace(_loaded(path, dtype or tuning().dtype, mesh, rounding), rounding=rounding)
    tree = spec_tree(loaded.cfg)
    if rounding is not None and not int8.is_held(loaded.params):
        rounded = int8.rounded_tree(loaded.params, tree, loaded.cfg.dtype, rounding)
        loaded = replace(loaded, params=rounded)
    with progress.waiting(f"looking for NaN in {path}"):
        specs = tree if rounding is None else int8.specs(tree)
        check_finite(loaded.params, specs, where=loaded.folder or path)
    return loaded


def _loaded(
    path: Path, dtype: str, mesh: Mesh | None, rounding: int8.Rounding | None
) -> LoadedModel:
    if run := run_of(path):
        return _of_run(path, run, dtype, mesh)
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
    params = params_of(opened, cfg, dtype, mesh, rounding)
    return LoadedModel(cfg, params, path, opened.origin, folder=path)


def _of_run(path: Path, run: RunFolder, dtype: str, mesh: Mesh | None) -> LoadedModel:
    """The model of a run's checkpoint. If the run held its base as int8, the weights that its
    factors are added to are those of the model that it began from, which is read again."""
    weights = None
    if run.trainable.rounds_base:
        began = located(run.began_from)
        if not began.exists():
            raise ValueError(
                f"{run.path}: holds its base as int8, so its factors are added to the weights that "
                f"it began from, {began}, which is not there; put it back"
            )
        weights = _loaded(began, dtype, mesh, None).params
    with progress.waiting(f"restoring {path}"):
        cfg, params, saved = load_run(path, run, dtype=dtype, mesh=mesh, weights=weights)
    return LoadedModel(cfg, params, run.assets, run.origin, saved.step, saved.path)


def params_of(
    opened: HFFolder,
    cfg: ModelConfig,
    dtype: str | None,
    mesh: Mesh | None,
    rounding: int8.Rounding | None = None,
) -> Tree:
    """The parameters of an opened folder, compared with its checksums while they are read. Says so
    in a line if it has none. With `rounding` some are rounded to int8; see `huggingface.load`."""
    with progress.bar("loading", opened.nbytes, of_bytes=True, every=2.0) as advance:
        params = huggingface.load(
            opened, cfg, dtype=dtype, mesh=mesh, advance=advance, rounding=rounding
        )
    say_if_unsummed(opened.path)
    return params


def say_if_unsummed(path: Path) -> None:
    """Prints a line if a folder has no checksums with which its weights could be compared."""
    if not (path / sums.FILE).is_file() and jax.process_index() == 0:
        print(
            f"note: {path} has no {sums.FILE}, as exports have; a flipped bit in its weights would "
            "not be noticed",
            file=sys.stderr,
        )


def assets_of(path: Path) -> Path:
    """The folder of the config, tokenizer and processor files of the model that a path names."""
    path = located(path)
    if run := run_of(path):
        return run.assets
    check_has_weights(path)
    return store.assets_of(path) if store.is_store(path) else path


def identity_of(path: Path) -> dict[str, str]:
    """`LoadedModel.identity` of the model that a path names, without loading its weights."""
    path = located(path)
    run = run_of(path)
    return model_identity(checkpoint_of(path, run).path if run else path, assets_of(path))


def asking_of(path: Path) -> Asking | None:
    """How to ask the model that a path names, or None if it does not say. No weights are read."""
    path = located(path)
    run = run_of(path)
    return run.asking if run else Asking.read(assets_of(path))
