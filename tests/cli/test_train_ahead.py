"""Training runs in which prompts of the next step begin before a step is complete."""

import json
import subprocess
import sys
import time

import pytest

from lfpc_jax.cli import replay
from lfpc_jax.rollout.archive import Archive
from support.left import facts, metrics
from support.processes import ROOT, coordinator_flags, environment
from support.training_runs import finished, start

pytestmark = pytest.mark.compiles

FLAGS = ["--rollout.ahead", "1", "--update.objective.importance_cap", "2", "--steps", "4",
         "--validate_every", "4", "--trajectories_every", "1", "--keep_checkpoints", "4",
         "--rollout.slots", "8"]  # fmt: skip
"""Two updates a step; a validation after the last of four."""


@pytest.fixture(scope="module")
def ahead(folder):
    run = folder / "ahead"
    finished(start(folder, run, *FLAGS))
    return run


def versions(run, step):
    """The versions of all tokens of a step."""
    groups = list(Archive(run / "trajectories").read(f"step-{step:06d}"))
    assert len(groups) == 4
    assert all(len(group.trajectories) == 4 for group in groups)
    return [of for g in groups for t in g.trajectories for of, n in t.versions for _ in range(n)]


@pytest.mark.long
def test_every_step_is_whole_and_its_tokens_are_at_most_a_step_old(ahead):
    found = metrics(ahead)
    before, now = 0, 0
    for step in range(1, 5):
        drawn_by = versions(ahead, step)
        assert set(drawn_by) <= {before, now}
        mean = sum(now - of for of in drawn_by) / len(drawn_by)
        assert found["train", step]["update/staleness"] == pytest.approx(mean)
        assert found["train", step]["data/stale"] == 0
        # Two mini-batches a step; those with nothing to learn from have no update.
        before, now = now, now + round(2 * (1 - found["train", step]["update/empty"]))
    assert facts(ahead)["updates"] == now >= 4
    assert found["train", 1]["update/staleness"] == 0
    assert max(found["train", step]["update/staleness"] for step in (2, 3, 4)) > 0
    assert found["validation", 4]["validation/records"] == 4


@pytest.mark.long
def test_it_replays_and_says_what_it_could_not_compare(ahead, capsys):
    assert replay.main([str(ahead), "--tolerance", "1e-4"]) == 0
    said = capsys.readouterr().out
    assert "were begun before the weights that ended them (rollout.ahead)" in said


@pytest.mark.slow
def test_killed_it_begins_unfinished_episodes_anew(folder, ahead):
    """From the prompts of the first step that was not trained on."""
    run = folder / "ahead-killed"
    process = start(folder, run, *FLAGS)
    while not (run / "metrics.jsonl").exists() or ("train", 2) not in metrics(run):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    done = facts(run)["step"]
    assert 1 <= done < 4
    finished(start(folder, run, *FLAGS))
    assert facts(run)["data"] == facts(ahead)["data"]
    first = done + 1
    assert metrics(run)["train", first]["update/staleness"] == 0, "begun anew"
    for step in range(1, 5):
        ours, theirs = (
            [group.record.id for group in Archive(of / "trajectories").read(f"step-{step:06d}")]
            for of in (run, ahead)
        )
        assert ours == theirs


@pytest.mark.slow
def test_what_is_too_old_is_dropped_and_counted(folder):
    run = folder / "ahead-bounded"
    finished(start(folder, run, *FLAGS, "--update.most_stale", "1"))
    values = [metrics(run)["train", step] for step in range(1, 5)]
    assert values[0]["data/stale"] == 0
    assert max(of["data/stale"] for of in values) > 0
    assert all(of["update/staleness"] == 0 for of in values)


@pytest.mark.long
def test_its_episodes_say_what_other_chunks_and_steps_ahead_make_of_slots(ahead, tmp_path):
    """By the bench, which runs no program."""
    out = tmp_path / "occupancy.json"
    words = [str(ROOT / "bench/occupancy.py"), str(ahead), "--chunk", "8", "2", "--steps", "6"]
    command = [sys.executable, *words, "--json", str(out)]
    subprocess.run(command, check=True, env=environment())
    found = json.loads(out.read_text())
    assert [(one["chunk"], one["ahead"]) for one in found] == [(8, 0), (8, 1), (2, 0), (2, 1)]
    for one in found:
        shares = [one[name] for name in ("occupancy", "idle_ended", "idle_replies", "idle_free")]
        assert sum(shares) == pytest.approx(1)
    long, long_ahead, short, short_ahead = found
    assert short["idle_ended"] < long["idle_ended"]
    assert short["calls"] > long["calls"]
    assert long_ahead["idle_free"] < long["idle_free"]
    assert short_ahead["idle_free"] < short["idle_free"]
    assert short_ahead["occupancy"] == max(one["occupancy"] for one in found)


@pytest.mark.slow
def test_two_processes_each_stream_their_share(folder, ahead):
    run = folder / "ahead-two"
    flags = [*FLAGS, *coordinator_flags()]
    both = [start(folder, run, *flags, str(i)) for i in range(2)]
    for process in both:
        finished(process)
    assert facts(run)["data"] == facts(ahead)["data"]
    assert max(metrics(run)["train", step]["update/staleness"] for step in (2, 3, 4)) > 0
