"""A small learner's updates: what it learns from, and how likely it finds that."""

import jax
import numpy as np
import optax

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.shapes import TrainShapes
from support import random_groups

WHOLE = Trainable()
SHAPES = TrainShapes(128, 4, places=128, windows=48, span=48)  # one micro-batch holds all


def learner_of(cfg, objective, rate, trainable=WHOLE):
    return Learner(
        cfg,
        optax.sgd(rate),
        objective=objective,
        trainable=trainable,
        allowed=np.ones(cfg.text.vocab, bool),
        mesh=make_mesh(devices=jax.devices()[:1]),
    )


def groups():
    """Two with something to learn and one, the last, without."""
    first, second, third = random_groups.groups(0, (3, 3, 2))
    return (
        random_groups.rewarded(first, (0.0, 0.0, 3.0)),
        random_groups.rewarded(second, (1.0, 0.0, 1.0)),
        random_groups.rewarded(third, (1.0, 1.0)),
    )


def scores(learner, state, placed):
    params = learner.computing(state)
    return learner.logprobs(params, placed, learner.embeddings(params, placed))
