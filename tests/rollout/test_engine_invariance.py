"""How episodes are run changes nothing in them: slots, chunks, meshes, processes and neighbours."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import cache, spec
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.engine import Engine
from support import small
from support.engines import RULES, engine, run, same
from support.processes import run_both

pytestmark = pytest.mark.compiles


@pytest.mark.long
@pytest.mark.parametrize(
    ("slots", "chunk"),
    [
        (1, 8),
        pytest.param(32, 8, marks=pytest.mark.slow),
        (4, 64),
        pytest.param(3, 1, marks=pytest.mark.slow),
        pytest.param(8, 64, marks=pytest.mark.slow),
    ],
)
def test_slots_and_chunks_change_nothing(episodes, slots, chunk):
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2")}
    made = engine(replace(small.SHAPES, slots=slots, chunk=chunk))
    same(run(made, [small.record(i) for i in range(3)], 4), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"refill": False},
        {"share_prefix": False},
        pytest.param({"unstacked": True}, marks=pytest.mark.slow),
        {"workers": 1},
    ],
    ids=str,
)
def test_how_it_is_run_changes_nothing(episodes, options):
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2")}
    same(run(engine(**options), [small.record(i) for i in range(3)], 4), wanted)


@pytest.mark.long
@pytest.mark.parametrize(
    "unstacked",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["stacked", "unstacked"],
)
def test_the_layout_of_accelerators_changes_nothing(episodes, unstacked, monkeypatch):
    """Stacked, `test_shared_prompts.py` shows it, too."""
    monkeypatch.setattr(cache, "positions_last", lambda cfg: False)
    made = engine(unstacked=unstacked)
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2")}
    same(run(made, [small.record(i) for i in range(3)], 4), wanted)


@pytest.mark.long
def test_batched_prefills_and_extends_change_nothing(episodes):
    shapes = replace(small.SHAPES, slots=8, prefill_rows=2, extend_rows=3)
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2")}
    same(run(engine(shapes), [small.record(i) for i in range(3)], 4), wanted)


def test_observations_in_pieces_change_nothing(episodes):
    """A piece of 8 tokens where the observations have dozens."""
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1")}
    made = engine(replace(small.SHAPES, observation_text=8))
    same(run(made, [small.record(i) for i in range(2)], 4), wanted)


def test_alone_as_in_a_crowd(shared, episodes):
    for number in (0, 3):
        alone = run(shared, [small.record(5)], number + 1)
        same({("r5", number): alone["r5", number]}, {("r5", number): episodes["r5", number]})


def test_order_and_seed(shared, episodes):
    records = [small.record(i) for i in (2, 0, 1)]
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2")}
    same(run(shared, records, 4), wanted)
    other = run(shared, records, 4, seed=1)
    assert sum(np.array_equal(other[name].ids, wanted[name].ids) for name in wanted) <= 2


@pytest.mark.long
@pytest.mark.parametrize(
    "sides", [(2, 2, 2), pytest.param((4, 1, 2), marks=pytest.mark.slow)], ids=str
)
def test_a_mesh_changes_nothing(episodes, sides):
    mesh = make_mesh(*sides)
    shapes = replace(small.SHAPES, slots=8, prefill_rows=2, extend_rows=4)
    made = Engine(small.config(), small.dialogue(), shapes, RULES, mesh=mesh, unstacked=False)
    made.load(jax.device_put(small.params(), spec.shardings(small.config(), mesh)))
    made.warm_up()
    wanted = {name: t for name, t in episodes.items() if name[0] in ("r0", "r1")}
    same(run(made, [small.record(i) for i in range(2)], 4), wanted)
    assert made.slots.programs.late == []


@pytest.mark.slow
def test_two_processes_serve_what_one_does(episodes, tmp_path):
    """Rolled out in two processes and trained on in `tests/cli/test_train.py`, in less time."""
    run_both(Path(__file__).with_name("two_processes.py"), tmp_path, devices=2)
    archive = Archive(tmp_path)
    shares = [list(archive.read(f"process-{index}")) for index in range(2)]
    assert [{group.record.id for group in share} for share in shares] == [
        {"r0", "r2", "r4"},
        {"r1", "r3"},
    ]
    found = {(t.record, t.rollout): t for share in shares for g in share for t in g.trajectories}
    same(
        found,
        {name: t for name, t in episodes.items() if name[0] in ("r0", "r1", "r2", "r3", "r4")},
    )
