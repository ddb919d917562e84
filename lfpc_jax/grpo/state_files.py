"""The training state as a run's checkpoints hold it, and batches that are saved for debugging."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.checkpoint.training import Saved
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.packing import MiniBatch
from lfpc_jax.model.parameters import join

log = logging.getLogger(__name__)


def checkpoint_items(state: TrainState) -> dict[str, Tree]:
    """The state as the items of a checkpoint."""
    counts = {
        "updates": state.updates,
        "refused": state.refused,
        "ever_refused": state.ever_refused,
    }
    return {
        "trained": state.trained,
        "frozen": state.frozen,
        "optimizer": {"moments": state.moments, **counts},
    }


def restore_state(saved: Saved, learner: Learner) -> TrainState:
    """The state that a checkpoint holds. Raises if a weight is not finite."""
    like = checkpoint_items(learner.abstract_state())
    items = {name: training.restore(saved, name, tree) for name, tree in like.items()}
    for name, specs in zip(("trained", "frozen"), learner.specs):
        check_finite(items[name], specs, where=saved.path / name)
    return TrainState(items["trained"], items["frozen"], **items["optimizer"])


def begin_state(
    learner: Learner, params: Tree | None, saved: Saved | None, *, seed: int, reference: bool
) -> tuple[TrainState, Tree | None]:
    """The state that a run starts or resumes with, and with `reference` a copy of the parameters
    that it began from, which has the state's own arrays of what is frozen. Takes the memory of
    `params`, which a resumed run needs for that copy only."""
    copy = None
    if params is not None:
        state = learner.start(params, jax.random.key(seed))
        if reference:
            copy = learner.computing(state)
        if saved is None:
            return state, copy
        del state  # there is no room for two
    assert saved is not None
    state = restore_state(saved, learner)
    return state, copy if copy is None else join(state.frozen, copy)


def save_batch(file: Path, mini_batch: MiniBatch) -> None:
    """Writes this process's micro-batches as a NumPy archive, with names as
    `rows[0].tokens.ids` and `pictures[0].pixels`."""
    whole = {"rows": mini_batch.rows, "pictures": (*mini_batch.pictures(),)}
    arrays: dict[str, Any] = {
        f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf)
        for name, part in whole.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    }
    np.savez(file, allow_pickle=False, **arrays)
    log.error("saved the batch as %s", file)
