"""Learners of a small model, what they learn from, and what three updates make of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.items import counts, items_of
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import pack
from lfpc_jax.model import spec
from lfpc_jax.model.parameters import Trainable, merged
from lfpc_jax.shapes import TrainShapes
from support import ported, random_groups, reference

REWARDS = {3: (1.0, 0.0, 2.0), 4: (0.0, 1.0, None, 1.0), 2: (1.0, 0.0)}
PACKED = TrainShapes(96, 2, places=40, windows=24, span=8)
SHARED = replace(PACKED, shared=True)
MANY = replace(SHARED, rows=1, row_tokens=64, windows=4, span=4)


SGD, LAST, ADAM = optax.sgd(1.0), optax.trace(0.0), optax.adam(1e-2, eps=1e-3)
"""`LAST` holds the last gradient. The epsilon keeps Adam from blowing up the rounding of gradients
that are 0, such as that of the keys' biases."""


def learner(cfg, objective=None, trainable=None, mesh=None, optimizer=SGD, **more):
    return Learner(
        cfg,
        optimizer,
        objective=objective or Objective(),
        trainable=trainable or Trainable(),
        allowed=np.arange(cfg.text.vocab) < reference.IMAGE,
        mesh=mesh or make_mesh(devices=jax.devices()[:1]),
        **more,
    )


def copied(params):
    return jax.tree.map(jnp.array, params)


def scored(seed=0, sizes=(3, 2, 4)):
    groups = random_groups.groups(seed, sizes)
    return [random_groups.rewarded(group, REWARDS[len(group.trajectories)]) for group in groups]


def items(found, aggregate="token", all_of_them=False):
    number, tokens = np.array([*map(counts, found)]).sum(axis=0).tolist()
    return items_of(
        found, aggregate=aggregate, episodes=number, tokens=tokens, all_of_them=all_of_them
    )


def packed(cfg, found, shapes=PACKED, shards=1, **more):
    return pack(
        items(found, **more), shapes, ported.processor(cfg), shards=shards,
        image_token=cfg.image_token,
    )  # fmt: skip


def scores(made, params, mini_batch):
    """Log-probabilities by micro-batch; the parameters are laid out."""
    placed = made.place(mini_batch)
    return made.logprobs(params, placed, made.embeddings(params, placed))


def ids_of(rows):
    """The ids that count."""
    return np.take_along_axis(np.asarray(rows.tokens.ids), np.asarray(rows.at), axis=1)


def every(values, mini_batch):
    """Of the tokens that count, as one vector."""
    pairs = zip(values, mini_batch.rows, strict=True)
    return np.concatenate([np.asarray(x)[np.asarray(rows.weights) > 0] for x, rows in pairs])


def off_policy(advantage, ids):
    """How far the old log-probabilities, and the reference's, lie off the policy's."""
    return 0.4 * np.sin(7 * np.float32(advantage) + 3.0 * ids), 0.3 * np.cos(5.0 * ids)


def with_others(made, mini_batch, state):
    """Old and reference log-probabilities by token, so that ratios clip."""
    own = scores(made, made.laid_out(made.computing(state)), mini_batch)
    others = []
    for logprobs, rows in zip(own, mini_batch.rows):
        off = off_policy(rows.advantages, ids_of(rows))
        others.append([np.asarray(logprobs) + np.float32(x * (rows.weights > 0)) for x in off])
    old, reference = zip(*others)
    mini_batch = mini_batch.having("old", old)
    return mini_batch.having("reference", reference) if made.objective.kl else mini_batch


def close(ours, theirs, tolerance):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs)):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        scale = np.linalg.norm(b)
        error = np.linalg.norm(a - b) / (scale or 1.0)
        assert error <= tolerance, (jax.tree_util.keystr(path), error, scale)


def three_steps(
    cfg, params, shapes=PACKED, mesh=None, trainable=None, lay=packed, unstacked=False, found=None
):
    made = learner(cfg, mesh=mesh, trainable=trainable, optimizer=ADAM, unstacked=unstacked)
    placed = jax.device_put(copied(params), spec.shardings(cfg, made.mesh))
    state = made.start(placed, jax.random.key(0))
    mini_batch = lay(cfg, found or scored(), shapes, made.all_shards)
    for _ in range(3):
        placed = made.place(with_others(made, mini_batch, state))
        state, _, _ = made.update(state, placed)
    assert int(state.updates) == 3
    return jax.device_get(merged(made.computing(state), "float32")[0])
