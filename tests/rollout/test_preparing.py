"""An engine answers in its largest buckets while the programs of the others are compiled: the same
answers before and after, and nothing is compiled twice or in a run."""

from dataclasses import replace

import jax
import pytest

from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.rollout.preparing import Rest
from lfpc_jax.rollout.requests import Request, RequestRun
from lfpc_jax.shapes import Buckets
from support import small
from support.compilations import EVENT
from support.engines import RULES, engine, same

pytestmark = pytest.mark.compiles

SHAPES = replace(
    small.BUCKETS, slots=2, members=1, kept=2, own=200, prompt_text=Buckets((64, 96)),
    image_buckets=Buckets((6, 8)), crop_buckets=Buckets((2, 4)),
)  # fmt: skip


def answered(run, found):
    """What some requests come to in a run that is under way."""
    found.clear()
    dialogue = run.engine.dialogue
    for number in range(5):
        run.add(Request(dialogue.open(small.record(number)), 3, RULES, dialogue))
    while not run.idle:
        run.turn()
    return dict(found)


@pytest.mark.long
def test_the_rest_is_compiled_beside_a_run_and_changes_no_answer():
    compiled, found = [], {}

    def heard(event, *_, **__):
        if event == EVENT:
            compiled.append(event)

    def told(request, episode):
        if episode.end is not None:
            found[episode.opening.record.id, 0] = episode.trajectory()

    jax.monitoring.register_event_duration_secs_listener(heard)
    made = engine(SHAPES, RULES, mesh=rollout_mesh(devices=jax.local_devices()[:1]))
    rest = made.start()
    programs = made.slots.programs
    first = len(programs.traces)
    with RequestRun(made, on_episode=told, on_skipped=pytest.fail) as run:
        compiled.clear()
        wanted = answered(run, found)
        assert len(wanted) == 5
        assert any(len(trajectory.turns) > 1 for trajectory in wanted.values())
        assert not compiled, "the largest buckets hold everything"
        told_to_stop = Rest(made.slots, SHAPES)
        told_to_stop.stop()
        told_to_stop.compile()
        assert told_to_stop.left == rest.left > 0
        assert len(programs.traces) == first
        rest.compile()
        many = len(programs.traces)
        assert many == len(compiled) + first
        assert many >= 2 * first
        compiled.clear()
        rest.use()
        same(answered(run, found), wanted)
        assert not compiled, "a call finds what was compiled from shapes alone"
        assert len(programs.traces) == many
        assert made.slots.shapes == SHAPES
        assert not programs.late
