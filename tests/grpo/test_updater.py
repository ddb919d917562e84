"""A step through its updates: whose log-probabilities, which mini-batches, what stops it."""

from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.grpo import updater as step
from lfpc_jax.grpo.items import counts
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import pack
from lfpc_jax.grpo.updater import REFUSALS, NotFinite, Updater, UpdateSettings
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.report.figures import FIGURES
from support import ported, random_groups
from support.updates import SHAPES, groups, learner_of, scores

pytestmark = pytest.mark.compiles


@pytest.mark.long
def test_one_mini_batch_is_its_own_old_policy(start):
    """And so its loss is the mean of the advantages, by tokens."""
    made, state = start()
    one, _, flat = groups()
    state, metrics = made(state, [[one, flat]])
    assert int(state.updates) == 1
    assert metrics["change_kl"] == 0
    assert metrics["clipped_high"] == metrics["clipped_low"] == 0
    tokens = [int(t.sampled.sum()) for t in one.trajectories]
    expected = -np.dot(tokens, one.advantages) / (sum(tokens) + counts(flat)[1])
    assert abs(expected) > 0.01
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_later_updates_are_held_against_the_policy_before_the_first(start, learner, epochs):
    """A second mini-batch, or the first one again: its KL is from there to after one update."""
    one, other, _ = groups()
    batches = [[one], [other]] if epochs == 1 else [[one]]
    made, state = start(epochs=epochs)
    [placed] = made._packed(batches[-1:])
    [before] = scores(learner, state, placed)
    once, _ = start()[0](state, [[one]])
    [after] = scores(learner, once, placed)
    away = np.asarray(after - before)
    expected = float((placed.rows[0].weights * (np.exp(away) - 1 - away)).sum())
    made, state = start(epochs=epochs)
    state, metrics = made(state, batches)
    assert int(state.updates) == 2
    assert expected > 1e-6
    assert metrics["change_kl"] == pytest.approx(expected / 2, rel=1e-3)  # the first one's is 0


def test_the_samplers_own_log_probabilities_on_request(start):
    one, *_ = groups()
    made, state = start(old="sampler")
    _, metrics = made(state, [[one]])
    assert metrics["sampler_apart"] == 0  # the old ones are the sampler's
    assert metrics["change_kl"] > 0.01  # the episodes' were made up
    made, state = start()
    _, metrics = made(state, [[one]])
    assert metrics["sampler_apart"] > 0.1


@pytest.mark.parametrize(
    ("settings", "mini_batches", "kl", "passes"),
    [
        ({}, 1, False, 0),  # the update's own forward is the old policy
        ({}, 3, False, 2),  # of the first mini-batch, too
        ({"epochs": 2}, 1, False, 0),
        ({"epochs": 2}, 2, False, 1),
        ({"old": "sampler"}, 1, False, 0),
        ({"old": "sampler"}, 2, False, 0),
        ({"old": "sampler", "epochs": 2}, 2, False, 0),
        ({"old": "sampler"}, 2, True, 2),
        ({"objective": Objective(kind="sft")}, 2, False, 0),  # imitation has no ratio
        ({}, 1, True, 1),
        ({}, 2, True, 3),
    ],
)
def test_nothing_is_packed_or_computed_for_nothing(
    start, learner, monkeypatch, settings, mini_batches, kl, passes
):
    """A mini-batch is packed and placed once, whatever is computed of it."""
    calls = Counter()

    def counted(name, function):
        def call(*args, **named):
            calls[name] += 1
            return function(*args, **named)

        return call

    def logprobs(params, mini_batch, embeddings):
        return [rows.sampler for rows in mini_batch.rows]

    def update(state, mini_batch, *, most_apart):
        assert all((rows.reference is not None) == kl for rows in mini_batch.rows)
        known = [rows.old is not None for rows in mini_batch.rows]
        ratio = made.settings.objective.kind == "grpo"
        first = calls["updates"] == 1 and made.settings.old == "trainer"
        assert known == [ratio and not first] * len(known)
        return state, {"refused": 0.0, "loss": 0.0}, [rows.sampler for rows in mini_batch.rows]

    monkeypatch.setattr(step, "pack", counted("packs", pack))
    monkeypatch.setattr(learner, "place", counted("placed", learner.place))
    monkeypatch.setattr(learner, "embeddings", counted("encodings", lambda *_: ()))
    monkeypatch.setattr(learner, "logprobs", counted("passes", logprobs))
    monkeypatch.setattr(learner, "update", counted("updates", update))
    made, state = start(**settings)
    if kl:
        made = replace(made, reference=state.trained)
    made(state, [[groups()[0]]] * mini_batches)
    assert calls["updates"] == mini_batches * made.settings.epochs
    assert (calls["packs"], calls["placed"]) == (mini_batches, mini_batches)
    assert (calls["passes"], calls["encodings"]) == (passes, passes)


def programs_of(learner, monkeypatch):
    """How often each program of a micro-batch is called from now on."""
    calls = Counter()
    for name in ("_encode", "_score", "_learn", "_backward", "_apply"):
        program = getattr(learner, name)

        def call(*args, name=name, program=program):
            calls[name.strip("_")] += 1
            return program(*args)

        monkeypatch.setattr(learner, name, call)
    return calls


@pytest.mark.long
def test_the_programs_of_a_step(start, learner, monkeypatch):
    """Of two mini-batches, the second is scored before the first update. Each update encodes its
    pictures once and goes back through the tower once for each micro-batch of them."""
    first, second, _ = groups()
    made, state = start()
    made = replace(made, shapes=replace(SHAPES, rows=1, windows=9, span=9))
    packed = [*made._packed([[first], [second]])]
    rows, pictures = ([len(getattr(each, name)) for each in packed] for name in ("rows", "bins"))
    assert min(rows[0], pictures[0]) > 1, "several micro-batches"
    calls = programs_of(learner, monkeypatch)
    made(state, [[first], [second]])
    assert calls == {
        "encode": sum(pictures) + pictures[1],
        "score": rows[1],
        "learn": sum(rows),
        "backward": sum(pictures),
        "apply": 2,
    }


@pytest.mark.long
def test_a_frozen_tower_is_never_differentiated_nor_encoded_twice_before(one_layer, monkeypatch):
    """The reference's embeddings are the policy's."""
    cfg, params = one_layer
    first, second, _ = groups()
    learner = learner_of(cfg, Objective(kl=0.1), 0.5, Trainable(vision=False))
    state = learner.start(jax.tree.map(jnp.array, params), jax.random.key(0))
    made = Updater(
        learner, UpdateSettings(objective=learner.objective), SHAPES, ported.processor(cfg),
        learner.computing(state),
    )  # fmt: skip
    assert "vision" not in state.trained
    calls = programs_of(learner, monkeypatch)
    made(state, [[first], [second]])
    before, updates = 2, 2  # the reference's of the first, and of the second all have one
    assert calls == {"encode": before + updates, "score": 1 + 2, "learn": 2, "apply": 2}


@pytest.mark.parametrize("dropped", [False, True])
def test_a_second_epoch_s_old_policy_is_what_a_pass_before_would_give(
    start, learner, monkeypatch, dropped
):
    """The first update's own log-probabilities, by token. With dropout there is a pass: what an
    update computes is not the policy then."""
    first, *_ = groups()
    made, state = start(epochs=2)
    made = replace(made, shapes=replace(SHAPES, rows=1, places=20))
    [placed] = made._packed([[first]])
    assert len({rows.at.shape for rows in placed.rows}) == 2
    expected, old = scores(learner, state, placed), []
    calls, update = programs_of(learner, monkeypatch), learner.update

    def watched(state, mini_batch, **named):
        old.append([rows.old for rows in mini_batch.rows])
        return update(state, mini_batch, **named)

    monkeypatch.setattr(learner, "update", watched)
    monkeypatch.setattr(learner, "dropout", 0.1 if dropped else 0.0)
    monkeypatch.setattr(learner, "_drops", lambda *_: {})
    made(state, [[first]])
    assert calls["score"] == (len(placed.rows) if dropped else 0)
    assert [known[0] is None for known in old] == [not dropped, False]
    for known, scored in zip(old[1], expected, strict=True):
        np.testing.assert_allclose(known, scored, atol=1e-5)


def test_fill_is_of_all_mini_batches_and_without_pictures_there_is_none_of_windows(start):
    made, state = start()
    first, second, flat = groups()
    [one], [other] = made._packed([[first]]), made._packed([[second]])
    _, metrics = made(state, [[first], [second], [flat]])
    tokens = sum((rows.tokens.segments > 0).sum() for each in (one, other) for rows in each.rows)
    assert metrics["fill"] == pytest.approx(tokens / (2 * 4 * 128))
    windows = sum((images.picture > 0).sum() for each in (one, other) for images in each.pictures())
    assert metrics["windows_fill"] == pytest.approx(windows / (2 * 48))
    rng = np.random.default_rng(0)
    blind = random_groups.rewarded(
        random_groups.group(rng, "blind", 3, picture=False), (1.0, 0.0, 0.0)
    )
    _, metrics = made(start()[1], [[blind]])
    assert "windows_fill" not in metrics
    assert 0 < metrics["fill"] < 1


def test_flat_groups_count_in_the_mean_unless_dropped(start):
    one, _, flat = groups()
    losses = []
    for drop in (False, True):
        made, state = start(drop_flat=drop)
        losses.append(made(state, [[one, flat]])[1]["loss"])
    share = counts(one)[1] / (counts(one)[1] + counts(flat)[1])
    assert losses[0] == pytest.approx(losses[1] * share, rel=1e-4)


@pytest.mark.parametrize("old", ["trainer", "sampler"])
def test_flat_groups_change_nothing_of_what_is_watched(start, old):
    """Nobody computes their log-probabilities: means are over the tokens that are there."""
    one, _, flat = groups()
    found = []
    for batch in ([one], [one, flat]):
        made, state = start(old=old)
        found.append(made(state, [batch])[1])
    assert found[0]["sampler_apart" if old == "trainer" else "change_kl"] > 0.01
    for name in ("clipped_low", "clipped_high", "change_kl", "sampler_kl", "sampler_apart"):
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-5), name


def test_nothing_to_learn_is_no_update(start):
    made, state = start()
    before = jax.device_get(state.trained)
    state, metrics = made(state, [[groups()[2]]])
    assert int(state.updates) == 0
    assert metrics == {"empty": 1.0}
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.trained), before)
    one, *_, flat = groups()
    made, state = start(old="sampler", epochs=2)
    state, metrics = made(state, [[one], [flat], [flat]])
    assert int(state.updates) == 2
    assert metrics["empty"] == pytest.approx(2 / 3), "of a step's three mini-batches"


def test_a_reference_holds_the_policy_near(one_layer):
    """Away from it by one update, its KL is over 0, and its gradient leads back."""
    cfg, params = one_layer
    objective = Objective(kl=5.0)
    learner = learner_of(cfg, objective, 1e-3)
    state = learner.start(jax.tree.map(jnp.array, params), jax.random.key(0))
    near = learner.computing(state)
    settings = UpdateSettings(objective=objective)
    made = Updater(learner, settings, SHAPES, ported.processor(cfg), near)
    one, _, flat = groups()
    state, first = made(state, [[one, flat]])
    assert first["reference_kl"] == pytest.approx(0, abs=1e-6)
    kls = []
    for _ in range(3):
        state, metrics = made(state, [[flat]])  # the KL term alone has a gradient
        kls.append(metrics["reference_kl"])
    assert kls[0] > kls[1] > kls[2] > 0


def test_updates_in_a_row_that_are_not_finite_stop_with_the_batch(start):
    made, state = start()
    broken = replace(groups()[0], advantages=np.array([np.inf, -1.0, 1.0]))
    with pytest.raises(NotFinite, match="3 updates in a row") as caught:
        made(state, [[broken]] * (REFUSALS + 1))
    [batch] = caught.value.mini_batch.rows
    assert batch.tokens.ids.shape == (4, 128)
    assert isinstance(batch.old, np.ndarray)
    sampled = batch.weights > 0
    assert sampled.any()
    assert np.abs(batch.old - batch.sampler)[sampled].max() > 0.1
    assert np.isfinite(batch.old).all()
    assert batch.reference is None


def test_the_report_s_panels_are_of_what_an_update_says(start):
    """Three of them had names that nothing wrote."""
    made, state = start()
    _, metrics = made(state, [[groups()[0]]])
    [figure] = [one for one in FIGURES if one.key == "update"]
    named = {name.removeprefix("update/") for name in figure.names}
    others = {"entropy", "reference_kl", "learning_rate", "staleness"}
    assert named - metrics.keys() == others, "terms, the rate, and what steps ahead add"
