"""Weights published from a mesh of updates whose devices lie in another order than the rollouts':
what the engine sampled with is what the trainer has."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rollout import small

from lfpc_jax.distributed.mesh import meshed, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.items import Scored, items_of
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import pack
from lfpc_jax.grpo.trained import Trained
from lfpc_jax.grpo.update import Learner
from lfpc_jax.model import spec
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.shapes import TrainShapes


def test_the_engine_samples_from_the_trainers_weights_in_any_order_of_devices():
    """Four devices in the order 0, 2, 1, 3, for which half of the arrays came out scrambled."""
    cfg, dialogue = small.config(), small.dialogue()
    devices = jax.devices()[:4]
    train = meshed(np.array(devices)[[0, 2, 1, 3]].reshape(1, 4, 1))
    rollout = rollout_mesh(2, devices=devices)
    shapes = replace(small.SHAPES, prefill_rows=2, extend_rows=2)
    learner = Learner(
        cfg, optax.sgd(1.0), objective=Objective(), how=Trained(),
        allowed=allowed_ids(dialogue.tokenizer, cfg.text.vocab), mesh=train, unstacked=True,
    )  # fmt: skip
    params = jax.device_put(small.params(), spec.shardings(cfg, train))
    state = learner.start(jax.tree.map(jnp.copy, params), jax.random.key(0))
    engine = Engine(
        cfg, dialogue, shapes, Rules(max_turns=3, episode_tokens=40), mesh=own_mesh(rollout)
    )
    publish = Publisher(partial(spec.abstract, cfg, cfg.dtype), train, rollout)
    engine.load(publish(learner.params(state, cfg.dtype)))
    groups = [*engine.run([small.record(i) for i in range(2)], rollouts=2, seed=0)]

    scored = [Scored(group, np.array([1.0, -1.0])) for group in groups]
    counts = np.array([one.counted for one in scored]).sum(axis=0).tolist()
    items = items_of(scored, aggregate="token", episodes=counts[0], tokens=counts[1])
    rows = TrainShapes.of(shapes, max_turns=3, rows=1, row_tokens=0, windows=0)
    batch, real = pack(items, rows, dialogue.processor, shards=4, image_token=cfg.image_token)
    placed = learner.place(batch)
    found = learner.own(learner.scores(learner.computing(state), placed, real)[0])
    drawn = batch.weights > 0
    assert drawn.sum() == counts[1] > 40
    assert found[drawn] == pytest.approx(batch.sampler[drawn], abs=2e-4)
