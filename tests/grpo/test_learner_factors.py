"""Updates of a part of the model: a frozen tower, LoRA's factors, their dropout, a base of int8."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.model import int8, spec
from lfpc_jax.model.parameters import PROJECTIONS, LoRA, Trainable, join, merged
from support.learners import (
    LAST,
    MANY,
    close,
    copied,
    every,
    learner,
    packed,
    scored,
    scores,
    three_steps,
    with_others,
)

pytestmark = pytest.mark.compiles


@pytest.mark.long
@pytest.mark.parametrize(
    "projections", [("k", "up"), pytest.param(("q", "down"), marks=pytest.mark.slow)]
)
def test_a_loop_over_layers_changes_nothing_with_factors(model, projections):
    """There, keys and values are one product unless either has factors."""
    _, cfg, params = model
    trainable = Trainable(lora=LoRA(rank=2, projections=projections))
    loop = three_steps(cfg, params, trainable=trainable, unstacked=True)
    close(loop, three_steps(cfg, params, trainable=trainable), 1e-5)
    assert np.abs(loop["text"][projections[0]]["w"] - params["text"][projections[0]]["w"]).max() > 0


def test_a_frozen_tower_stays_and_the_rest_learns(model):
    _, cfg, params = model
    after = three_steps(cfg, params, trainable=Trainable(vision=False))
    close(after["vision"], params["vision"], 0.0)
    moved = np.abs(np.asarray(after["text"]["gate"]["w"]) - params["text"]["gate"]["w"]).max()
    assert moved > 1e-3


@pytest.mark.long
def test_lora_starts_at_the_model_and_changes_its_projections_alone(model):
    _, cfg, params = model
    trainable = Trainable(lora=LoRA(rank=2, projections=("q", "down", "o")))
    made = learner(cfg, trainable=trainable)
    state = made.start(copied(params), jax.random.key(1))
    close(jax.device_get(merged(made.computing(state), "float32")[0]), params, 0.0)
    after = three_steps(cfg, params, trainable=trainable)
    changed = {
        path[-2].key
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(params))
        if not np.array_equal(a, b)
    }
    assert changed == {"q", "down", "o"}
    delta = np.asarray(after["text"]["down"]["w"] - params["text"]["down"]["w"])
    assert np.linalg.matrix_rank(delta[0], tol=1e-4 * np.linalg.norm(delta[0])) == 2


@pytest.mark.long
def test_lora_of_the_tower_changes_its_projections_too(model):
    _, cfg, params = model
    after = three_steps(cfg, params, trainable=Trainable(lora=LoRA(2, 4.0, ("q",), vision=True)))
    changed = {
        jax.tree_util.keystr(path[:-1])
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(params))
        if not np.array_equal(a, b)
    }
    tower = {f"['vision']['layers']['{name}']" for name in ("qkv", "proj", "gate", "up", "down")}
    assert changed == {"['text']['q']"} | tower


@pytest.mark.long
def test_dropout_changes_gradients_alone_and_their_mean_stays(model):
    """While a factor is 0, nothing that a value is dropped for changes the loss. The gradient of
    that factor is linear in what is dropped, so its mean is the one without dropout."""
    _, cfg, params = model
    found, gradients = packed(cfg, scored()), {}
    for rate in (0.0, 0.5):
        trainable = Trainable(lora=LoRA(2, 4.0, ("q",), vision=True, dropout=rate))
        made = learner(cfg, trainable=trainable, optimizer=LAST)
        state = made.start(copied(params), jax.random.key(1))
        placed = made.place(with_others(made, found, state))
        for number in (0, 0, *range(1, 48)) if rate else (0,):
            begun = replace(jax.tree.map(jnp.copy, state), updates=jnp.int32(number))
            after, metrics, _ = made.update(begun, placed)
            gradient = np.asarray(after.moments.trace["text"]["q"]["lora"]["b"])
            gradients.setdefault(rate, []).append((float(metrics["loss"]), gradient))
    [(loss, whole)] = gradients[0.0]
    losses, drawn = zip(*gradients[0.5])
    assert losses == (pytest.approx(loss, rel=1e-5),) * 49
    np.testing.assert_array_equal(drawn[0], drawn[1])
    spread = np.linalg.norm(np.std(drawn[1:], axis=0)) / 48**0.5
    assert spread > 0.01 * np.linalg.norm(whole), "something is dropped"
    assert np.linalg.norm(np.mean(drawn[1:], axis=0) - whole) < 2 * spread


@pytest.mark.long
def test_the_tower_drops_the_same_in_both_passes(model, monkeypatch):
    """Its gradient is the slope of the loss along it. No two micro-batches drop the same."""
    _, cfg, params = model
    trainable = Trainable(lora=LoRA(2, 4.0, ("q",), vision=True, dropout=0.5))
    made = learner(cfg, trainable=trainable, optimizer=LAST)
    state = made.start(copied(params), jax.random.key(1))
    mini_batch = packed(cfg, scored(), MANY)
    assert min(len(mini_batch.rows), len(mini_batch.bins)) > 1
    placed = made.place(with_others(made, mini_batch, state))
    numbers, drops = [], made._drops

    def watched(trained, key, micro_batch):
        numbers.append(micro_batch)
        return drops(trained, key, micro_batch)

    monkeypatch.setattr(made, "_drops", watched)
    gradient = made.update(jax.tree.map(jnp.copy, state), placed)[0].moments.trace["vision"]
    rows, pictures = ([2 * n for n in range(len(mini_batch.rows))],
                      [2 * n + 1 for n in range(len(mini_batch.bins))])  # fmt: skip
    assert sorted(numbers) == sorted([*rows, *pictures, *pictures])
    norm = float(optax.global_norm(gradient))

    def loss(step):
        tower = jax.tree.map(lambda x, g: x + step / norm * g, state.trained["vision"], gradient)
        moved = replace(state, trained={**state.trained, "vision": tower})
        return float(made.update(jax.tree.map(jnp.copy, moved), placed)[1]["loss"])

    assert (loss(0.03) - loss(-0.03)) / 0.06 == pytest.approx(norm, rel=0.02)


@pytest.mark.long
def test_lora_changes_its_layers_alone(model):
    _, cfg, params = model
    last = cfg.text.layers - 1
    after = three_steps(cfg, params, trainable=Trainable(lora=LoRA(rank=2, layers=(last,))))
    for name in PROJECTIONS:
        moved = np.abs(np.asarray(after["text"][name]["w"]) - params["text"][name]["w"])
        assert [bool(layer.any()) for layer in moved] == [False] * last + [True]


@pytest.mark.long
@pytest.mark.parametrize("vision", [False, True])
def test_factors_compute_what_their_merged_weights_do(model, vision):
    _, cfg, params = model
    trainable = Trainable(lora=LoRA(rank=3, vision=vision))
    made = learner(cfg, trainable=trainable)
    state = made.start(copied(params), jax.random.key(1))
    noisy = jax.tree.map(
        lambda x: x + 0.05 * jax.random.normal(jax.random.key(2), x.shape), state.trained
    )
    mini_batch = packed(cfg, scored())
    both = join(noisy, state.frozen)
    factors, merge, without = (
        every(scores(made, tree, mini_batch), mini_batch)
        for tree in (both, merged(both, "float32")[0], params)
    )
    np.testing.assert_allclose(factors, merge, atol=2e-4)
    assert np.abs(factors - without).max() > 1e-2


@pytest.mark.long
@pytest.mark.parametrize("unstacked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_base_of_int8_learns_as_its_weights_do(model, unstacked):
    """Factors on integers, and on the float32 weights that these stand for: log-probabilities, loss
    and gradients. An update leaves the arrays of the base where they are, for others to hold."""
    _, cfg, params = model
    held = int8.rounded_tree(copied(params), spec.spec_tree(cfg), "float32", int8.Rounding())
    text = {
        name: part if not isinstance(part, dict) else
        {**{key: x for key, x in part.items() if key != "scale"},
         "w": int8.whole(part["w"], part["scale"])}
        for name, part in held["text"].items()
    }  # fmt: skip
    found = []
    for base, params in (("int8", held), ("same", {**held, "text": text})):
        trainable = Trainable(lora=LoRA(rank=3, vision=True, base=base))
        made = learner(cfg, trainable=trainable, optimizer=LAST, unstacked=unstacked)
        state = made.start(copied(params), jax.random.key(1))
        noisy = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size)).reshape(x.shape),
                             state.trained)  # fmt: skip
        state = replace(state, trained=noisy)
        mini_batch = made.place(with_others(made, packed(cfg, scored()), state))
        before = jax.tree.leaves(state.frozen)
        after, metrics, logprobs = made.update(state, mini_batch)
        assert all(x is y for x, y in zip(jax.tree.leaves(after.frozen), before, strict=True))
        computing = jax.tree.leaves(made.computing(after))
        assert all(any(x is y for y in computing) for x in before)
        found.append((after.moments.trace, metrics["loss"], every(logprobs, mini_batch)))
    (slopes, loss, logprobs), (wanted, other, same) = found
    np.testing.assert_allclose(logprobs, same, atol=1e-4)
    assert float(loss) == pytest.approx(float(other), rel=1e-4)
    close(slopes, wanted, 1e-4)


def test_whole_weights_are_no_base_of_int8(model):
    _, cfg, params = model
    made = learner(cfg, trainable=Trainable(lora=LoRA(base="int8")))
    with pytest.raises(AssertionError, match="int8"):
        made.start(copied(params), jax.random.key(0))
