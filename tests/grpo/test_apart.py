"""Tokens that another policy drew: how far it lies from the trainer's, and what stops for it."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.updater import REFUSALS, Apart, NotFinite, Updater, UpdateSettings
from lfpc_jax.model.parameters import LoRA, Trainable
from support import ported
from support.updates import SHAPES, groups, learner_of, scores

pytestmark = pytest.mark.compiles


def distance(made, state, groups):
    """The mean distance of the tokens' log-probabilities from the sampler's, by hand."""
    apart = weight = 0.0
    for placed in made._packed(groups):
        for logprobs, rows in zip(scores(made.learner, state, placed), placed.rows):
            apart += (rows.weights * np.abs(logprobs - rows.sampler)).sum()
            weight += rows.weights.sum()
    return float(apart / weight)


@pytest.mark.parametrize(
    ("settings", "order", "judged"),
    [
        ({}, (0,), (0,)),  # in the update itself
        ({"old": "sampler"}, (0,), (0,)),
        ({"old": "sampler"}, (0, 1), (0,)),
        ({"epochs": 2, "old": "sampler"}, (0,), (0,)),
        ({"epochs": 2}, (0,), (0,)),
        ({}, (0, 1), (1, 0)),  # the second before the first update
        ({}, (1, 0), (0, 1)),
    ],
)
def test_tokens_of_another_policy_are_not_trained_on(start, monkeypatch, settings, order, judged):
    """The episodes' log-probabilities were made up: as if the sampler had other weights. Nothing
    changes, to the bit, nor is it a refusal of what is not finite; a wider limit lets them pass,
    and asks nothing of later mini-batches, whose policy has moved."""
    batches = [[groups()[number]] for number in order]
    made, state = start(**settings)
    distances = [distance(made, state, [[groups()[number]]]) for number in judged]
    expected = max(distances)
    assert expected > 0.5
    assert min(distances) < 0.98 * expected or len(judged) == 1
    before = jax.device_get(state)
    with pytest.raises(Apart, match="apart in the mean") as raised:
        replace(made, most_apart=0.99 * expected)(state, batches)
    assert raised.value.mean == pytest.approx(expected, rel=1e-4)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(raised.value.state), before)
    asked, update = [], made.learner.update

    def watched(*args, most_apart):
        asked.append(most_apart)
        return update(*args, most_apart=most_apart)

    monkeypatch.setattr(made.learner, "update", watched)
    wider, count = 1.01 * expected, len(batches) * made.settings.epochs
    after, metrics = replace(made, most_apart=wider)(raised.value.state, batches)
    assert int(after.updates) == count
    assert "from_drawn" not in metrics
    assert asked == [wider] + [math.inf] * (count - 1)


@pytest.fixture(scope="module")
def with_dropout(one_layer):
    return learner_of(one_layer[0], Objective(), 0.5, Trainable(lora=LoRA(4, 64.0, dropout=0.5)))


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "mini_batches"), [({}, 1), ({"old": "sampler"}, 1), ({}, 2), ({"epochs": 2}, 1)]
)
def test_dropout_is_no_other_policy(one_layer, with_dropout, settings, mini_batches):
    """What an update computes with LoRA's dropout lies far from the sampler's, who drops nothing.
    How far the policies lie apart is measured without it, and limits nothing of the update."""
    (cfg, params), learner = one_layer, with_dropout
    state = learner.start(jax.tree.map(jnp.array, params), jax.random.key(0))
    noisy = [
        x + 0.3 * jax.random.normal(jax.random.key(number), x.shape)
        for number, x in enumerate(jax.tree.leaves(state.trained))
    ]
    state = replace(state, trained=jax.tree.unflatten(jax.tree.structure(state.trained), noisy))
    made = Updater(learner, UpdateSettings(**settings), SHAPES, ported.processor(cfg))
    batches = [[one] for one in groups()[:mini_batches]]
    expected = distance(made, state, batches)
    with pytest.raises(Apart) as raised:
        replace(made, most_apart=0.999 * expected)(state, batches)
    assert raised.value.mean == pytest.approx(expected, rel=1e-4)
    after, metrics = replace(made, most_apart=1.001 * expected)(raised.value.state, batches)
    assert int(after.updates) == mini_batches * made.settings.epochs
    if not settings and mini_batches == 1:
        assert metrics["change_kl"] == 0, "of one policy with itself, dropped alike"


def test_what_is_not_finite_is_refused_as_such_not_taken_for_another_policy(start):
    """Three in a row, though nothing of a NaN lies within a limit."""
    made, state = start()
    norm = state.trained["norm"]
    state = replace(state, trained={**state.trained, "norm": norm.at[0].set(np.nan)})
    one, *_ = groups()
    for _ in range(REFUSALS - 1):
        state, metrics = replace(made, most_apart=1e-3)(state, [[one]])
        assert metrics.keys() == {"empty", "refused", "fill", "windows_fill"}
        assert (metrics["empty"], metrics["refused"]) == (0.0, 1.0)
    with pytest.raises(NotFinite):
        replace(made, most_apart=1e-3)(state, [[one]])


def test_what_is_not_finite_hides_no_other_policy(start, monkeypatch):
    """One mini-batch has a NaN among its log-probabilities, and its update will be refused; the
    other's tokens were drawn with other weights, and so nothing is trained."""
    first, second, _ = groups()
    made, state = start()
    expected = distance(made, state, [[first]])
    logprobs = made.learner.logprobs

    def broken(*args):
        return [found * jnp.nan for found in logprobs(*args)]

    monkeypatch.setattr(made.learner, "logprobs", broken)  # those of the second, before any update
    with pytest.raises(Apart) as raised:
        replace(made, most_apart=0.99 * expected)(state, [[first], [second]])
    assert raised.value.mean == pytest.approx(expected, rel=1e-4)
    assert int(raised.value.state.updates) == 0
    state = raised.value.state
    after, metrics = replace(made, most_apart=1.01 * expected)(state, [[first], [second]])
    assert (int(after.updates), int(after.ever_refused), metrics["refused"]) == (1, 1, 0.5)


@pytest.mark.parametrize(("mini_batches", "at"), [(1, 0), (2, 0), (2, 1)])
def test_a_sampler_that_gave_no_number_is_no_sampler_of_this_policy(start, mini_batches, at):
    """In the update itself, and before the first."""
    batches = [[one] for one in groups()[:mini_batches]]
    group = batches[at][0]
    strange, *others = group.trajectories
    nothing = np.where(strange.sampled, np.nan, strange.logprobs)
    strange = replace(strange, logprobs=nothing, policy_logprobs=nothing)
    broken = replace(group, trajectories=(strange, *others))
    batches[at] = [broken]
    made, state = start()
    before = jax.device_get(state)
    with pytest.raises(Apart, match="inf apart") as raised:
        replace(made, most_apart=1e3)(state, batches)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(raised.value.state), before)


def test_episodes_that_others_drew_in_part_are_not_held_against_their_sampler(start, learner):
    """The last episode's log-probabilities are far off, since an older policy drew its beginning,
    or its prompt was computed by one."""
    made, state = start()
    one, *_ = groups()
    *fresh, last = one.trajectories
    fresh = [replace(t, versions=((3, 0), (3, int(t.sampled.sum())))) for t in fresh]
    far = np.where(last.sampled, last.logprobs - 40, 0).astype(np.float32)
    for versions in (((2, 1), (3, int(last.sampled.sum()) - 1)), ((2, 0), (3, 4))):
        old = replace(last, logprobs=far, versions=versions)
        group = replace(one, trajectories=(*fresh, old))
        [placed] = made._packed([[group]], 3)
        [rows], [logprobs] = placed.rows, scores(learner, state, placed)
        counted = np.asarray(rows.fresh) * np.asarray(rows.weights)
        of_fresh = sum(int(t.sampled.sum()) for t in fresh)
        assert np.count_nonzero(counted) == of_fresh < np.count_nonzero(rows.weights)
        away = np.abs(np.asarray(logprobs) - np.asarray(rows.sampler))
        expected = float((counted * away).sum() / counted.sum())
        assert 0.1 < expected < 20
        with pytest.raises(Apart) as raised:
            replace(made, most_apart=0.99 * expected)(state, [[group]], version=3)
        assert raised.value.mean == pytest.approx(expected, rel=1e-4)
        state = raised.value.state
        state, metrics = replace(made, most_apart=1.01 * expected)(state, [[group]], version=3)
        assert metrics["refused"] == 0
        assert metrics["sampler_apart"] > expected + 1, "the metric is of all tokens"
    stale = tuple(replace(t, versions=((2, 9),)) for t in group.trajectories)
    _, metrics = replace(made, most_apart=1e-3)(
        state, [[replace(group, trajectories=stale)]], version=3
    )
    assert metrics["refused"] == 0, "nothing to compare"
