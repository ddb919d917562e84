"""Beginnings and embeddings that are kept: the same episodes, and nothing is computed twice."""

from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.model import spec
from lfpc_jax.rollout.kept import KeptArrays, KeptRows
from lfpc_jax.trajectory import Picture
from support import small
from support.engines import RULES, engine, run, same

PICTURES = [small.picture(3, 150, 130), small.picture(200, 90, 60), small.picture(9, 140, 120)]
RECORDS = [
    small.record(4 * number + cycle, picture=picture, question="red blue " * cycle + "?")
    for number, picture in enumerate(PICTURES)
    for cycle in range(4)
] + [small.record(20, picture=Picture()), small.record(21, picture=Picture())]
ROLLOUTS = 3


def counting(made):
    """How often each program runs from now on."""
    calls: Counter[str] = Counter()
    timed = made.slots._timed

    def counted(name, *args):
        calls[name] += 1
        return timed(name, *args)

    made.slots._timed = counted
    return calls


@pytest.fixture(scope="module")
def whole():
    """The episodes of an engine that computes every prompt by itself, and whole."""
    return run(engine(), RECORDS, ROLLOUTS)


@pytest.fixture(scope="module")
def keeping():
    made = engine(replace(small.SHAPES, kept=8, prefill_rows=2, observation_text=8), fresh=True)
    made.warm_up()
    return made


@pytest.mark.compiles
def test_prompts_in_two_parts_change_nothing(whole, keeping):
    same(run(keeping, RECORDS, ROLLOUTS), whole)
    assert keeping.slots.programs.late == []
    assert sum(turn.crop is not None for t in whole.values() for turn in t.turns) > 5


@pytest.mark.compiles
def test_every_picture_is_encoded_once_and_every_beginning_prefilled_once(keeping):
    keeping.load(small.params())
    calls = counting(keeping)
    plain = [replace(record, id=f"a{record.id}") for record in RECORDS]
    no_crops = replace(RULES, max_turns=1)
    before, keeping.rules = keeping.rules, no_crops
    run(keeping, plain, ROLLOUTS)
    assert calls["encode"] == len(PICTURES)
    assert calls["prefill"] == len(PICTURES) + 2  # those without a picture are asked differently
    calls.clear()
    run(keeping, plain, ROLLOUTS, seed=1)
    assert calls["encode"] == 0, "embeddings stay from run to run"
    assert calls["prefill"] == len(PICTURES) + 2
    calls.clear()
    keeping.load(small.params(1))
    run(keeping, plain[:1], 1)
    assert calls["encode"] == 1, "other weights have other embeddings"
    keeping.rules = before
    keeping.load(small.params())
    del keeping.slots._timed


@pytest.mark.compiles
def test_a_blank_crop_is_encoded_once_for_each_size(keeping, whole):
    with altered(keeping, alteration("blank")):
        groups = list(keeping.run(RECORDS, rollouts=ROLLOUTS, seed=0))
    shapes = {crop.shape for group in groups for crops in group.crops for crop in crops}
    number = sum(len(crops) for group in groups for crops in group.crops)
    assert number > len(shapes)
    calls = counting(keeping)
    keeping.load(small.params())
    with altered(keeping, alteration("blank")):
        list(keeping.run(RECORDS, rollouts=ROLLOUTS, seed=0))
    assert calls["encode"] == len(PICTURES) + len(shapes)
    del keeping.slots._timed


@pytest.mark.long
@pytest.mark.compiles
@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=pytest.mark.slow) for how in ("scarce", "copies")), "mesh"]
)
def test_what_is_kept_changes_nothing(whole, how):
    """With room for two beginnings most are computed again; with no room for embeddings, all."""
    shapes = replace(small.SHAPES, kept=2, prefill_rows=2, prefixes=2, members=2)
    options, params = {}, small.params()
    if how == "copies":
        options = {"copies": True}
    if how == "mesh":
        shapes = replace(shapes, single=False)
        mesh = make_mesh(2, 1, 2, devices=jax.devices()[:4])
        options = {"mesh": mesh}
        params = jax.device_put(params, spec.shardings(small.config(), mesh))
    made = engine(shapes, params=params, fresh=True, **options)
    if how == "scarce":
        made.slots.embeddings = KeptArrays(0)
    made.warm_up()
    same(run(made, RECORDS, ROLLOUTS), whole)
    assert made.slots.programs.late == []


def test_too_few_kept_beginnings_are_refused():
    with pytest.raises(ValueError, match="2 beginnings are kept, but 4 prompts"):
        replace(small.SHAPES, kept=2, prefill_rows=4)


@pytest.mark.parametrize("seed", range(3))
def test_rows_go_to_whom_used_them_least_recently(seed):
    """Against a list of keys by their last use."""
    rng = np.random.default_rng((25, seed))
    rows, used, row_of = KeptRows(5), [], {}
    for _ in range(200):
        wanted = rng.integers(0, 12, rng.integers(1, 6)).tolist()
        given, new = rows.of(wanted)
        distinct = list(dict.fromkeys(wanted))
        assert new == [key for key in distinct if key not in used]
        assert all(given[key] == row_of[key] for key in distinct if key in used)
        used = [key for key in used if key not in distinct]
        used = (used + [k for k in distinct if k not in new] + new)[-5:]
        row_of = {**row_of, **given}
        assert len({row_of[key] for key in used}) == len(used)
        assert all((key in rows) == (key in used) for key in range(12))


def test_arrays_are_given_up_by_their_bytes():
    arrays = KeptArrays(100)
    for key in "abc":
        arrays.put(key, np.zeros(40, np.uint8))
    assert arrays.get("a") is None
    assert arrays.nbytes == 80
    arrays.get("b")
    arrays.put("d", np.ones(20, np.uint8))
    arrays.put("e", np.ones(20, np.uint8))
    assert arrays.get("c") is None
    assert arrays.get("b") is not None
    arrays.put("f", np.zeros(101, np.uint8))
    assert arrays.get("f") is None
    assert arrays.nbytes == 0
