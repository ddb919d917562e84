"""Prompts in memory once against a copy in every row: the same episodes, whatever is drawn."""

from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import attention_decode, attention_reach, spec
from lfpc_jax.model import cache as kv
from lfpc_jax.model.attention import ChosenKernel
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.trajectory import Picture
from support import small
from support.engines import engine, run

pytestmark = pytest.mark.compiles

RECORDS = [
    small.record(0),
    small.record(7, picture=Picture()),
    small.record(2, picture=small.picture(90, 60, 200)),
    small.record(3),
]
ROLLOUTS = 5


def equal(found, wanted) -> None:
    """The same ids, and log-probabilities within 2e-5."""
    assert found.keys() == wanted.keys()
    for name, t in found.items():
        np.testing.assert_array_equal(t.ids, wanted[name].ids, str(name))
        assert (t.end, t.turns) == (wanted[name].end, wanted[name].turns)
        np.testing.assert_allclose(t.logprobs, wanted[name].logprobs, atol=2e-5)
        np.testing.assert_allclose(t.policy_logprobs, wanted[name].policy_logprobs, atol=2e-5)


@pytest.fixture(scope="module")
def copied():
    """The episodes of an engine that copies every prompt into every row."""
    return run(engine(copies=True), RECORDS, ROLLOUTS)


def test_the_episodes_crop_err_and_answer(copied):
    """Rows are extended with pictures and without, and refilled."""
    turns = [turn for t in copied.values() for turn in t.turns]
    assert len(copied) == len(RECORDS) * ROLLOUTS
    assert sum(turn.crop is not None for turn in turns) >= 5
    assert sum(turn.fault is not None for turn in turns) >= 5
    assert len({len(t.ids) for t in copied.values()}) >= 10


def drawn(seed: int):
    """Shapes and options that an engine may have; every third has two devices."""
    rng = np.random.default_rng((25, seed))
    slots = int(rng.integers(1, 8))
    shapes = replace(
        small.SHAPES,
        slots=slots,
        chunk=int(rng.integers(1, 17)),
        members=int(rng.integers(1, ROLLOUTS + 1)),
        prefixes=int(rng.integers(1, 3)) if seed % 2 else int(rng.integers(1, slots + 1)),
        observation_text=int(rng.choice([8, 48])),
        prefill_rows=int(rng.integers(1, 3)),
        extend_rows=int(rng.integers(1, 4)),
        own=int(rng.choice([0, 320])),
    )
    options = {"refill": bool(rng.random() < 0.7), "unstacked": seed % 2 == 1}
    return shapes, options, seed % 3 == 2


def made(shapes, mesh=None, **options) -> Engine:
    if mesh is None:
        return engine(shapes, **options)
    params = jax.device_put(small.params(), spec.shardings(small.config(), mesh))
    return engine(shapes, params=params, mesh=mesh, **options)


@pytest.mark.long
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 15))]
)
def test_any_shapes_roll_out_what_copies_do(copied, seed):
    shapes, options, sharded = drawn(seed)
    mesh = make_mesh(2, devices=jax.devices()[:2]) if sharded else None
    tried = made(shapes, mesh, **options)
    equal(run(tried, RECORDS, ROLLOUTS), copied)
    assert tried.stats.prompts >= len(RECORDS) * -(-ROLLOUTS // shapes.members)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 24))
def test_copies_of_any_shapes_roll_out_the_same(copied, seed):
    shapes, options, sharded = drawn(seed)
    mesh = make_mesh(2, devices=jax.devices()[:2]) if sharded else None
    equal(run(made(shapes, mesh, copies=True, **options), RECORDS, ROLLOUTS), copied)


def test_prompts_lie_in_scarce_rows_for_as_long_as_they_are_needed(copied, monkeypatch):
    """Two rows for prompts, of which a group of five rollouts needs three: rows are used again, but
    never while a rollout continues what is in them. A group counts once where one row serves it."""
    shapes = replace(small.SHAPES, slots=3, prefixes=2, members=2)
    scarce = engine(shapes)
    slots = scarce.slots
    times, continued, reused = Counter(), {}, Counter()
    prefill, begin, decode = slots.prefill, slots.begin, slots.decode

    def prefilled(prompts):
        for prompt in prompts:
            assert 0 <= prompt.row < 2
            times[prompt.row] += 1
        prefill(prompts)

    def begun(beginnings):
        for b in beginnings:
            continued[b.row] = b.prompt, times[b.prompt]
        begin(beginnings)

    def decoded(rows, *rest):
        for row in rows:
            assert continued[row.row] == (row.prompt, times[row.prompt]), (
                "what it continues is gone"
            )
            reused[row.prompt] += 1
        return decode(rows, *rest)

    for name, function in (("prefill", prefilled), ("begin", begun), ("decode", decoded)):
        monkeypatch.setattr(slots, name, function)
    equal(run(scarce, RECORDS, ROLLOUTS), copied)
    assert scarce.stats.prompts == sum(times.values()) == len(RECORDS) * 3
    assert min(times.values()) >= 4
    assert min(reused.values()) >= 4


def test_a_group_is_prefilled_once_where_members_suffice(copied):
    enough = engine(replace(small.SHAPES, slots=3, prefixes=1, members=ROLLOUTS))
    equal(run(enough, RECORDS, ROLLOUTS), copied)
    assert enough.stats.prompts == len(RECORDS)
    assert enough.stats.rollouts == len(RECORDS) * ROLLOUTS


def test_rows_that_decode_in_place_roll_out_the_same(copied, monkeypatch):
    """As on accelerators, where the keys of a cache have another layout, too."""
    monkeypatch.setattr(kv, "positions_last", lambda cfg: False)
    found = engine(replace(small.SHAPES, slots=6, members=4))
    assert found.slots.programs.in_place
    equal(run(found, RECORDS, ROLLOUTS), copied)


@pytest.fixture
def reaching(monkeypatch):
    """Engines decode with the kernel for TPUs, in its interpreter."""
    monkeypatch.setattr(kv, "positions_last", lambda cfg: False)
    monkeypatch.setattr(attention_decode, "kernel", lambda cfg: ChosenKernel("reach", "tested"))
    interpreted = partial(attention_reach.reach, interpret=True)
    monkeypatch.setattr(attention_reach, "reach", interpreted)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unstacked": True},
        pytest.param({"copies": True}, marks=pytest.mark.slow),
        {"mesh": (2, 1, 2)},
    ],
    ids=str,
)
def test_rows_that_are_read_as_far_as_they_reach_roll_out_the_same(options, copied, reaching):
    sides = options.get("mesh")
    mesh = None if sides is None else make_mesh(*sides, devices=jax.devices()[:4])
    shapes = replace(small.SHAPES, slots=6, members=4)
    params = small.params()
    if mesh is not None:
        params = jax.device_put(params, spec.shardings(small.config(), mesh))
    found = engine(shapes, params=params, **options | {"mesh": mesh})
    assert found.slots.programs.reaches
    assert len(found.slots.spans.sizes) == 1
    equal(run(found, RECORDS, ROLLOUTS), copied)
