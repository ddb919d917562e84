"""What a run says of the programs that it compiles."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.cli import train
from lfpc_jax.data import layout
from lfpc_jax.run import compilations
from support import small
from support.training_runs import CONFIG, TARGET

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]


def test_each_program_is_said_before_and_after_with_its_seconds(monkeypatch):
    lines = []
    compilations.announce(lines.append)

    def _learned(x):
        return jnp.sin(x) @ x

    def small(x):
        return x + 1

    update = jax.jit(_learned)
    for size in (3, 3, 4):
        update(jnp.ones((size, size)))
    jax.jit(small)(jnp.ones(2))
    assert [re.sub(r"[0-9.]+ s", "N s", line) for line in lines] == [
        "compiling the update: loss and gradients ...",
        "compiled in N s: the update: loss and gradients",
        "compiling the update: loss and gradients, for a further shape (2) ...",
        "compiled in N s: the update: loss and gradients, for a further shape (2)",
    ]


def test_long_compilations_of_other_functions_are_said_and_the_cache_is_named():
    lines = []
    heard = compilations.Compilations(lines.append)
    heard.on_duration(compilations._LOWERED, 0.1, fun_name="jit(other)")
    heard.on_event(compilations._FROM_CACHE)
    heard.on_duration(compilations._COMPILED, 2.0, fun_name="jit(other)")
    heard.on_duration(compilations._LOWERED, 0.1, fun_name="jit(decode)")
    heard.on_duration(compilations._COMPILED, 0.25, fun_name="jit(decode)")
    assert lines == [
        "read from the cache in 2.0 s: other",
        "compiling the rollout's sampling ...",
        "compiled in 0.2 s: the rollout's sampling",
    ]


SMALL = {
    *("add", "broadcast_in_dim", "convert_element_type", "reshape", "slice", "_threefry_seed"),
    *("<lambda>", "cast", "empty", "lay_out", "map", "place", "placed", "stage", "unstack"),
    *("_cut", "_distance", "_is_finite", "_put", "gathered", "rewind", "write"),
}
"""Programs that copy, convert or add: none has a layer of the model."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a run of six steps compiles: (the step, 0 before the first; the name) in its order."""
    folder = tmp_path_factory.mktemp("compiled")
    small.hf_folder(folder / "hf")
    records = [small.record(number, targets=(TARGET,)) for number in range(8)]
    layout.write(folder / "set", records)
    events, begun = [], []

    def listen(event, seconds, **about):
        if event == compilations._COMPILED:
            events.append((len(begun), re.sub(r"^\w+\((.*)\)$", r"\1", str(about["fun_name"]))))

    class Clock(train.Clock):
        def __init__(self, *arguments):
            begun.append(1)
            super().__init__(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRO", str(folder))
        patch.setattr(train, "Clock", Clock)
        jax.monitoring.register_event_duration_secs_listener(listen)
        words = ["--config", CONFIG, "--run", str(folder / "run"), "--rollout.slots", "2"]
        words += ["--steps", "6", "--optimizer.learning_rate", "1e-5"]  # so that groups stay mixed
        assert train.main(words) == 0
    jax.monitoring.unregister_event_duration_listener(listen)
    return events, (folder / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_the_programs_of_a_run_are_those_that_are_said(compiled):
    events, log = compiled
    names = {name for _, name in events}
    assert names - SMALL == set(compilations.PROGRAMS)
    for said in compilations.PROGRAMS.values():
        assert f"compiling {said} ..." in log


@pytest.mark.long
def test_each_program_is_compiled_once_whatever_the_steps_hold(compiled):
    """An update with the log-probabilities of the policy before it is one program, the first of a
    step, which needs none, another; both may have rows with more tokens than `update.places`."""
    events, _ = compiled
    counts = Counter(name for step, name in events if step)
    most = {
        **{"_learned": 4, "_logprobs": 2, "_applied": 1},
        **{"_encoded": 1, "_through_tower": 1, "_new_state": 0},
    }
    for name in compilations.PROGRAMS:
        assert counts[name] <= most.get(name, 0), (name, counts)
    assert counts["_learned"] >= 2
    later = [(step, name) for step, name in events if step > 1 and name in compilations.PROGRAMS]
    assert later == [], "no row of this run has more tokens that count than the usual places"
