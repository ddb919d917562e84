"""Altered episodes that go on from their first call, against the same ones sampled anew."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, altered
from lfpc_jax.model import spec
from support import small
from support.engines import engine

pytestmark = [pytest.mark.compiles, pytest.mark.long]

RECORDS = [small.record(i, targets=(((10.0, 10.0, 50.0, 40.0),),)) for i in range(6)]
ALTERS = {name: alteration(name, RECORDS) for name in ALTERATIONS}
ROLLOUTS = 3


def alike(found, wanted) -> None:
    """The same ids, turns, ends and pictures. Neighbours that decode beside a row change the last
    bits of its log-probabilities, whatever it goes on from."""
    assert found.record is wanted.record
    for a, b in zip(found.trajectories, wanted.trajectories, strict=True):
        assert (a.rollout, a.end, a.answer, a.turns) == (b.rollout, b.end, b.answer, b.turns)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.sampled, b.sampled)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
        np.testing.assert_allclose(a.policy_logprobs, b.policy_logprobs, atol=1e-5)
    for of_a, of_b in zip(found.crops, wanted.crops, strict=True):
        assert len(of_a) == len(of_b)
        assert all(np.array_equal(x, y) for x, y in zip(of_a, of_b))


def anew(made, names, seed):
    """The groups by alteration and record, each alteration in a run of its own."""
    groups = {}
    for name in ("", *names):
        with altered(made, ALTERS[name] if name else None):
            for group in made.run(RECORDS, rollouts=ROLLOUTS, seed=seed):
                groups[name, group.record.id] = group
    return groups


def going_on(made, names, seed):
    alters = {name: ALTERS[name] for name in names}
    groups = {}
    for name, group in made.run_altered(RECORDS, lambda _: alters, rollouts=ROLLOUTS, seed=seed):
        assert (name, group.record.id) not in groups
        assert not name or ("", group.record.id) in groups, "the unaltered group comes first"
        groups[name, group.record.id] = group
    return groups


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_every_alteration_is_what_a_run_of_its_own_gives(shared, seed):
    found, wanted = going_on(shared, ALTERATIONS, seed), anew(shared, ALTERATIONS, seed)
    assert found.keys() == wanted.keys()
    for key, group in wanted.items():
        alike(found[key], group)
    with_crops = [key for key, group in wanted.items() if any(group.crops)]
    assert len(with_crops) >= 10
    plain = {record: group.trajectories for (name, record), group in wanted.items() if not name}
    others = [
        not np.array_equal(t.ids, plain[record][t.rollout].ids)
        for (name, record), group in wanted.items()
        for t in group.trajectories
        if name
    ]
    assert 5 <= sum(others) < len(others)
    assert shared.slots.programs.late == []


def test_the_first_turn_is_not_sampled_again(shared):
    def counted(run, *given):
        before = shared.stats.sampled, shared.stats.prompts, shared.stats.rollouts
        groups = run(shared, *given)
        after = shared.stats.sampled, shared.stats.prompts, shared.stats.rollouts
        return groups, *(b - a for a, b in zip(before, after))

    names = ("noise", "blank")
    groups, sampled, prompts, rollouts = counted(going_on, names, 0)
    _, sampled_anew, prompts_anew, _ = counted(anew, names, 0)
    assert prompts_anew == 3 * prompts
    shared_tokens = resumed = 0
    for group in (groups["", record.id] for record in RECORDS):
        for t, crops in zip(group.trajectories, group.crops):
            first = next((turn for turn in t.turns if turn.crop is not None), None)
            until = len(t.ids) if first is None else first.stop
            shared_tokens += int(t.sampled[:until].sum())
            resumed += first is not None
            for name in names:  # bit for bit up to the call
                other = groups[name, group.record.id].trajectories[t.rollout]
                np.testing.assert_array_equal(other.logprobs[:until], t.logprobs[:until])
                np.testing.assert_array_equal(other.ids[:until], t.ids[:until])
            assert bool(crops) == (first is not None)
    assert sampled_anew - sampled == len(names) * shared_tokens
    assert rollouts == len(RECORDS) * ROLLOUTS + len(names) * resumed


@pytest.mark.long
@pytest.mark.parametrize(
    "how", ["small", *(pytest.param(how, marks=pytest.mark.slow) for how in ("copies", "mesh"))]
)
def test_whatever_the_slots(how):
    shapes = {
        "copies": small.SHAPES,
        "small": replace(small.SHAPES, slots=2, prefixes=1, members=2, chunk=3, observation_text=8),
        "mesh": replace(small.SHAPES, slots=4, prefill_rows=2, extend_rows=2),
    }[how]
    params, mesh = small.params(), make_mesh(2, 1, 1, devices=jax.devices()[:2])
    if how == "mesh":
        params = jax.device_put(params, spec.shardings(small.config(), mesh))
    options = {"copies": {"copies": True}, "small": {}, "mesh": {"mesh": mesh}}[how]
    made = engine(shapes, params=params, **options)
    names = ("noise", "truth")
    found, wanted = going_on(made, names, 1), anew(made, names, 1)
    assert found.keys() == wanted.keys()
    for key, group in wanted.items():
        alike(found[key], group)


def test_each_record_has_alterations_of_its_own(shared):
    """A group of no rollout with a call is the unaltered one."""
    named = {record.id: dict([pair]) for record, pair in zip(RECORDS, ALTERS.items())}
    run = shared.run_altered(RECORDS, lambda record: named.get(record.id, {}), rollouts=1, seed=3)
    groups = {(name, group.record.id): group for name, group in run}
    wanted = {(name, record) for record, alters in named.items() for name in alters}
    assert groups.keys() == wanted | {("", record.id) for record in RECORDS}
    [*without] = [key for key in wanted if not groups["", key[1]].crops[0]]
    assert without
    for name, record in without:
        alike(groups[name, record], groups["", record])


def test_a_run_may_be_left_and_its_engine_used_again(shared):
    wanted = anew(shared, ("noise",), 0)
    groups = shared.run_altered(
        RECORDS, lambda _: {"noise": ALTERS["noise"]}, rollouts=ROLLOUTS, seed=0
    )
    next(groups)
    groups.close()
    for key, group in going_on(shared, ("noise",), 0).items():
        alike(group, wanted[key])
