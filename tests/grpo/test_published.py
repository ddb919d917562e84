"""Weights published from a mesh of updates whose devices lie in another order than the rollouts':
what the engine sampled with is what the trainer has."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.distributed.mesh import make_mesh, meshed, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.items import counts, items_of
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import pack
from lfpc_jax.model import int8, spec
from lfpc_jax.model.layers import linear
from lfpc_jax.model.parameters import LoRA, Trainable, whole
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.shapes import TrainShapes
from support import small

pytestmark = pytest.mark.compiles


def noisy(tree, deviation):
    def one(x):
        return x + deviation * jax.random.normal(jax.random.key(2), x.shape)

    return jax.tree.map(one, tree)


@pytest.mark.long
@pytest.mark.parametrize(
    "lora", [None, pytest.param(LoRA(rank=2), marks=pytest.mark.slow), LoRA(rank=2, base="int8")]
)
def test_the_engine_samples_from_the_trainers_weights_in_any_order_of_devices(lora):
    """Four devices in the order 0, 2, 1, 3, for which half of the arrays came out scrambled."""
    cfg, dialogue = small.config(), small.dialogue()
    devices = jax.devices()[:4]
    train = meshed(np.array(devices)[[0, 2, 1, 3]].reshape(1, 4, 1))
    rollout = rollout_mesh(2, devices=devices)
    shapes = replace(small.SHAPES, prefill_rows=2, extend_rows=2)
    learner = Learner(
        cfg, optax.sgd(1.0), objective=Objective(), trainable=Trainable(lora=lora),
        allowed=allowed_ids(dialogue.tokenizer, cfg.text.vocab), mesh=train, unstacked=True,
    )  # fmt: skip
    params = jax.device_put(small.params(), spec.shardings(cfg, train))
    params = jax.tree.map(jnp.copy, params)
    if learner.trainable.rounds_base:
        params = int8.rounded_tree(params, spec.spec_tree(cfg), cfg.dtype, int8.Rounding())
    state = learner.start(params, jax.random.key(0))
    engine = Engine(
        cfg, dialogue, shapes, Rules(max_turns=3, episode_tokens=40), mesh=own_mesh(rollout)
    )
    state = replace(state, trained=noisy(state.trained, 0.05 if lora else 0.0))
    publish = Publisher(partial(whole, cfg, learner.trainable), train, rollout)
    engine.load(publish(learner.computing(state)))
    groups = [*engine.run([small.record(i) for i in range(2)], rollouts=2, seed=0)]

    scored = [replace(group, advantages=np.array([1.0, -1.0])) for group in groups]
    number, tokens = np.array([*map(counts, scored)]).sum(axis=0).tolist()
    items = items_of(scored, aggregate="token", episodes=number, tokens=tokens)
    rows = TrainShapes.of(shapes, max_turns=3, rows=1)
    packed = pack(items, rows, dialogue.processor, shards=4, image_token=cfg.image_token)
    placed = learner.place(packed)
    params = learner.laid_out(learner.computing(state))
    logprobs = learner.logprobs(params, placed, learner.embeddings(params, placed))
    count = 0
    for batch, found in zip(packed.rows, map(learner.local_rows, logprobs), strict=True):
        drawn = batch.weights > 0
        count += drawn.sum()
        assert found[drawn] == pytest.approx(batch.sampler[drawn], abs=2e-4)
    assert count == tokens > 40


def test_young_factors_are_sampled_with_as_they_are_trained():
    """As after eight updates at the paper's rate: merged into a bfloat16 weight, 97 % of what they
    have learned was rounded away, and rollouts were the first model's."""
    cfg, mesh = replace(small.config(), dtype="bfloat16"), make_mesh(devices=jax.devices()[:1])
    learner = Learner(
        cfg, optax.sgd(1.0), objective=Objective(),
        trainable=Trainable(lora=LoRA(projections=("down",))),
        allowed=np.ones(cfg.text.vocab, bool), mesh=mesh,
    )  # fmt: skip
    state = learner.start(jax.tree.map(jnp.copy, small.params()), jax.random.key(0))
    factors = state.trained["text"]["down"]["lora"]
    young = {"a": factors["a"], "b": noisy(factors["b"], 8e-6)}
    state = replace(state, trained={"text": {"down": {"lora": young}}})

    publish = Publisher(
        partial(whole, cfg, learner.trainable), mesh, rollout_mesh(devices=[*mesh.devices.flat])
    )
    params = publish(learner.computing(state))
    projection = jax.tree.map(lambda x: x[0].astype(jnp.float32), params["text"]["down"])
    before = np.asarray(state.frozen["text"]["down"]["w"][0].astype(jnp.float32))
    x = np.random.default_rng(0).normal(size=(64, len(before))).astype(np.float32)
    a, b = (np.asarray(young[name][0], np.float64) for name in "ab")
    learned = np.asarray(linear(jnp.asarray(x), projection), np.float64) - np.float64(x) @ before
    wanted = np.float64(x) @ a @ b
    assert np.linalg.norm(learned - wanted) < 0.05 * np.linalg.norm(wanted)


def test_on_one_chip_rollouts_hold_the_arrays_of_the_updates():
    """What is frozen is in memory once; what is trained is copied, since an update takes it."""
    cfg, devices = small.config(), jax.devices()[:1]
    trainable = Trainable(lora=LoRA(rank=2))
    train, rollout = make_mesh(devices=devices), rollout_mesh(1, devices=devices)
    learner = Learner(
        cfg, optax.sgd(1.0), objective=Objective(), trainable=trainable,
        allowed=np.ones(cfg.text.vocab, bool), mesh=train,
    )  # fmt: skip
    state = learner.start(jax.tree.map(jnp.copy, small.params()), jax.random.key(0))
    params = Publisher(partial(whole, cfg, trainable), train, rollout)(learner.computing(state))
    at = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    frozen, trained = (
        [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]
        for tree in (state.frozen, state.trained)
    )
    assert at >= {*frozen}
    assert not at & {*trained}
    assert len(at) == len(frozen) + len(trained)
