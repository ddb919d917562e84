"""A step through its updates: whose log-probabilities, which mini-batches, what stops it."""

import math
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo import updater as step
from lfpc_jax.grpo.advantage import with_advantages
from lfpc_jax.grpo.items import counts, items_of
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import pack
from lfpc_jax.grpo.updater import REFUSALS, Apart, NotFinite, Updater, UpdateSettings, weighed
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.report.figures import FIGURES
from lfpc_jax.shapes import TrainShapes
from support import ported, random_groups, reference

pytestmark = pytest.mark.compiles

WHOLE = Trainable()
SHAPES = TrainShapes(128, 4, places=128, windows=48, span=48)  # one micro-batch holds all


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    hf_config = reference.random_config(5, tied=True, num_hidden_layers=1)
    hf = reference.random_model(hf_config, 5)
    cfg = ported.read_config(hf_config, tmp_path_factory.mktemp("config"), dtype="float32")
    return cfg, ported.parameters(hf, cfg)


def learner_of(cfg, objective, rate, trainable=WHOLE):
    return Learner(
        cfg,
        optax.sgd(rate),
        objective=objective,
        trainable=trainable,
        allowed=np.ones(cfg.text.vocab, bool),
        mesh=make_mesh(devices=jax.devices()[:1]),
    )


@pytest.fixture(scope="module")
def learner(model):
    return learner_of(model[0], Objective(), 0.5)


@pytest.fixture
def start(model, learner):
    """An updater and a state at the model's parameters."""

    def started(**settings):
        cfg, params = model
        state = learner.start(jax.tree.map(jnp.array, params), jax.random.key(0))
        made = Updater(learner, UpdateSettings(**settings), SHAPES, ported.processor(cfg))
        return made, state

    return started


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


def test_a_frozen_tower_is_never_differentiated_nor_encoded_twice_before(model, monkeypatch):
    """The reference's embeddings are the policy's."""
    cfg, params = model
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
def with_dropout(model):
    return learner_of(model[0], Objective(), 0.5, Trainable(lora=LoRA(4, 64.0, dropout=0.5)))


@pytest.mark.parametrize(
    ("settings", "mini_batches"), [({}, 1), ({"old": "sampler"}, 1), ({}, 2), ({"epochs": 2}, 1)]
)
def test_dropout_is_no_other_policy(model, with_dropout, settings, mini_batches):
    """What an update computes with LoRA's dropout lies far from the sampler's, who drops nothing.
    How far the policies lie apart is measured without it, and limits nothing of the update."""
    (cfg, params), learner = model, with_dropout
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


def test_a_reference_holds_the_policy_near(model):
    """Away from it by one update, its KL is over 0, and its gradient leads back."""
    cfg, params = model
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


def test_a_group_is_left_out_where_it_has_no_gradient():
    one, _, flat = groups()
    masked = replace(one, advantages=np.array([1.0, np.nan, -1.0]))
    assert counts(masked)[0] == 2
    kept = items_of([masked, flat], aggregate="token", episodes=4, tokens=40)
    assert [item.trajectory.rollout for item in kept] == [0, 2]
    every = items_of([masked, flat], aggregate="sequence", episodes=4, tokens=40, all_of_them=True)
    assert len(every) == 4
    for item in every:
        assert float(item.weights.sum()) == pytest.approx(1 / 4, rel=1e-6)
        assert (item.weights > 0).tolist() == item.trajectory.sampled.tolist()


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_means_over_micro_batches_are_verls(aggregate, size):
    """Each micro-batch's `masked_mean`, over the number of them, as gradients accumulate there; an
    episode without a reward is masked, and a micro-batch of such alone is none."""
    found = [
        random_groups.rewarded(random_groups.group(np.random.default_rng(seed), name, 4), rewards)
        for seed, (name, rewards) in enumerate(
            {"a": (1.0, 0.0, 2.0, None), "b": (None, None, 0.0, 1.0), "c": (1.0,) * 4}.items()
        )
    ]
    losses, rng = {}, np.random.default_rng(0)
    means = []
    for one in found:
        name = one.record.id
        for first in range(0, 4, size):
            parts = []
            for t in one.trajectories[first : first + size]:
                losses[name, t.rollout] = rng.standard_normal(len(t.ids)) * t.sampled
                if not np.isnan(one.advantages[t.rollout]):
                    parts.append((losses[name, t.rollout].sum(), t.sampled.sum()))
            if parts and aggregate == "token":
                means.append(sum(a for a, _ in parts) / sum(n for _, n in parts))
            elif parts:
                means.append(np.mean([a / n for a, n in parts]))
    every = Objective(kl=0.1)  # episodes without an advantage have a gradient, too
    settings = UpdateSettings(aggregate=aggregate, micro_batch_mean=size, objective=every)
    items = weighed(found, settings)
    ours = sum(
        float((item.weights * losses[item.trajectory.record, item.trajectory.rollout]).sum())
        for item in items
    )
    assert len(items) == 9
    assert ours == pytest.approx(np.mean(means), rel=1e-5)
    assert sum(float(item.weights.sum()) for item in items) == pytest.approx(1, rel=1e-6)
    if size == 4 and aggregate == "token":
        whole = weighed(found, UpdateSettings(objective=every))
        apart = [np.abs(a.weights - b.weights).max() for a, b in zip(items, whole)]
        assert max(apart) > 1e-4, "the mean over the mini-batch is another"


@pytest.mark.parametrize("size", [0, 2])
def test_a_constant_length_and_no_deviation_are_dr_grpo(size):
    """Its objective in numbers: the sum over an episode's tokens of A times the token's term, over
    a constant, in the mean over episodes; a token weighs the same in an episode of any length."""
    rewards = {"a": (1.0, 0.0, 0.25, 0.25), "b": (3.0, 0.0, 0.0, 0.0)}
    found = [
        with_advantages(
            replace(
                random_groups.group(np.random.default_rng(seed), name, 4),
                rewards=tuple({"total": reward} for reward in mine),
            ),
            "none",
        )
        for seed, (name, mine) in enumerate(rewards.items())
    ]
    assert found[0].advantages.tolist() == [0.625, -0.375, -0.125, -0.125]
    assert found[1].advantages.tolist() == [2.25, -0.75, -0.75, -0.75]
    settings = UpdateSettings(
        aggregate="constant", constant_length=32, micro_batch_mean=size, deviation="none"
    )
    items = weighed(found, settings)
    assert len(items) == 8
    lengths = {int(item.trajectory.sampled.sum()) for item in items}
    assert len(lengths) > 1, "episodes of several lengths"
    for item in items:
        assert set(np.unique(item.weights)) == {np.float32(0), np.float32(1 / (8 * 32))}
        assert (item.weights > 0).tolist() == item.trajectory.sampled.tolist()


def test_the_report_s_panels_are_of_what_an_update_says(start):
    """Three of them had names that nothing wrote."""
    made, state = start()
    _, metrics = made(state, [[groups()[0]]])
    [figure] = [one for one in FIGURES if one.key == "update"]
    named = {name.removeprefix("update/") for name in figure.names}
    others = {"entropy", "reference_kl", "learning_rate", "staleness"}
    assert named - metrics.keys() == others, "terms, the rate, and what steps ahead add"


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
