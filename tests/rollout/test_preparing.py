"""An engine answers in its largest buckets while the programs of the others are compiled: the same
answers before and after, and nothing is compiled twice or in a run."""

from dataclasses import replace

import jax
import pytest

from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.rollout.requests import Request, RequestRun
from lfpc_jax.shapes import Buckets
from support import small
from support.compilations import EVENT
from support.engines import RULES, engine, run, same

pytestmark = pytest.mark.compiles

SHAPES = replace(
    small.SHAPES, members=1, kept=4, own=200, prompt_text=Buckets((64, 96)),
    image_buckets=None, crop_buckets=None,
)  # fmt: skip


def answered(asked, records):
    """What these come to in a run of requests that is under way."""
    found, run = asked
    found.clear()
    dialogue = run.engine.dialogue
    for record in records:
        run.add(Request(dialogue.open(record), 3, RULES, dialogue))
    while not run.idle:
        run.turn()
    return dict(found)


@pytest.mark.parametrize("meshed", [True, False])
def test_the_rest_is_compiled_beside_a_run_and_changes_no_answer(meshed):
    mesh = rollout_mesh(1, devices=jax.local_devices()[:1]) if meshed else None
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == EVENT else None
    )
    made, plain = engine(SHAPES, RULES, mesh=mesh), engine(small.SHAPES, RULES)
    records = [small.record(n) for n in range(6)]
    wanted = run(plain, records, 1, seed=3)
    rest = made.start()
    first = len(made.slots.programs.traces)
    found = {}

    def told(request, episode):
        if episode.end is not None:
            found[episode.opening.record.id, 0] = episode.trajectory()

    with RequestRun(made, on_episode=told, on_skipped=pytest.fail) as going:
        compiled.clear()
        same(answered((found, going), records), wanted)
        assert not compiled, "the largest buckets hold everything"
        rest.compile()
        many = len(made.slots.programs.traces)
        assert many == len(compiled) + first > 2 * first
        compiled.clear()
        rest.use()
        before = dict(made.slots.programs.traces)
        same(answered((found, going), records), wanted)
        assert not compiled, "a call finds what was compiled from shapes alone"
        assert dict(made.slots.programs.traces) == before
        assert made.slots.shapes == SHAPES.sharded(1)
        assert not made.slots.programs.late


def test_told_to_stop_it_compiles_no_further_program():
    made = engine(SHAPES, RULES)
    rest = made.start()
    programs = made.slots.programs
    programs.decode = programs.encode = programs.prefill = programs.extend = None
    left = rest.left
    rest.stop()
    rest.compile()
    assert rest.left == left > 0
    with pytest.raises(AssertionError, match="not compiled"):
        rest.use()
