"""Answers on disk: damage is named and asked again, a kill changes nothing, no model to score."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rewards.judge_server import JudgeServer, say
from rollout import small

from lfpc_jax.cli import evaluate as command
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.journal import Journal, Part
from lfpc_jax.evaluation.results import encoded, results
from lfpc_jax.evaluation.run import ask

from . import rigged

TOOL = Part("set", 32, "tool")


def evaluated(folder, records, conditions=("tool",), engine=None, rollouts=1):
    engine = engine or rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())
    benchmark = Benchmark("set", "layout", tuple(records), ())
    journal = Journal(folder)
    token = engine.dialogue.tokenizer.image_pad
    about = {"questions": len(records), "digest": benchmark.digest, "column": None}
    journal.begin({"rollouts": rollouts, "image_token": token}, {"set": about})
    ask(engine, benchmark, 32, conditions, journal, rollouts=rollouts, seed=0)
    return journal, engine


@pytest.fixture(scope="module")
def records():
    return rigged.world(6)


def test_what_is_stored_is_not_asked_again(records, tmp_path):
    journal, engine = evaluated(tmp_path, records, rollouts=2)
    assert engine.asked == 6
    assert journal.parts() == [TOOL]
    written = (tmp_path / "answers/set-32-tool-p0.jsonl").read_text().splitlines()
    lines = list(map(json.loads, written))
    assert [line["record"] for line in lines] == [f"w{i}" for i in reversed(range(6))]
    assert lines[-1] | {"seconds": 0} == {
        "record": "w0", "answers": [records[0].answer] * 2, "right": [1.0] * 2,
        "ends": ["answered"] * 2, "crops": [1, 1], "tokens": lines[-1]["tokens"], "seconds": 0,
    }  # fmt: skip
    before = encoded(results(journal))
    journal, engine = evaluated(tmp_path, records, rollouts=2)
    assert engine.asked == 0
    assert encoded(results(journal)) == before
    [group] = [one for one in journal.read(TOOL, 2) if one.record.id == "w3"]
    assert [parts["accuracy"] for parts in group.rewards] == [1.0, 1.0]
    assert group.rewards[0]["overlap"] > 0.9


def test_damaged_lines_are_named_and_asked_again(records, tmp_path, caplog):
    journal, _ = evaluated(tmp_path, records)
    before = encoded(results(journal))
    for path, where in (
        (tmp_path / "trajectories/set-32-tool-p0.jsonl", "line 2: no whole group"),
        (tmp_path / "answers/set-32-tool-p0.jsonl", "line 2: no whole line"),
    ):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:40] + b"\n" + b"".join(lines[2:-1]) + lines[-1][:-9])
        caplog.clear()
        journal.seconds(TOOL)
        found = results(journal)
        assert where in caplog.text
    condition = found["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert (condition["answered"], condition["missing"]) == (4, 2)
    journal, engine = evaluated(tmp_path, records)
    assert engine.asked == 2
    assert encoded(results(journal)) == before


def test_a_folder_goes_on_only_as_it_was_begun(records, tmp_path):
    evaluated(tmp_path, records)
    changed = [replace(records[0], question="Which shape?"), *records[1:]]
    with pytest.raises(ValueError, match="begun with another benchmark set"):
        evaluated(tmp_path, changed)
    with pytest.raises(ValueError, match="begun with another rollouts"):
        evaluated(tmp_path, records, rollouts=3)
    with pytest.raises(ValueError, match=r"evaluation\.json: missing"):
        Journal(tmp_path / "other").settings()
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        results(Journal(tmp_path))


def test_processes_write_apart_and_are_read_together(records, tmp_path):
    journal, engine = evaluated(tmp_path, records[:4])
    [*groups] = engine.run(records[4:], rollouts=1, seed=0)
    other = Journal(tmp_path, process=1)
    for group in [*groups, next(engine.run(records[:1], rollouts=1, seed=0))]:
        other.add(TOOL, group, 0.5)
    assert sorted(group.record.id for group in journal.read(TOOL, 1)) == [f"w{i}" for i in range(6)]
    assert journal.parts() == [TOOL]


def start(out, data, seconds):
    folder = Path(__file__).parent
    where = f"{folder.parent}:{folder.parents[1]}"
    return subprocess.Popen(
        [sys.executable, "-m", "evaluation.rigged", str(out), str(data), str(seconds)],
        env=os.environ | {"PYTHONPATH": where}, cwd=folder.parent, text=True,
    )  # fmt: skip


def test_a_killed_evaluation_goes_on_to_the_same_bytes(tmp_path):
    """kill -9 amid the altered questions, once more amid a line, then to the end."""
    data = rigged.write_set(tmp_path / "data", 10)
    whole = start(tmp_path / "whole", data, 0)
    assert whole.wait(300) == 0
    out = tmp_path / "killed"
    killed = start(out, data, 0.4)
    line = out / "trajectories" / "set-1024-noise-p0.jsonl"
    deadline = time.monotonic() + 300
    while not line.exists() or line.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "results.json").exists()
    answered = line.read_bytes().count(b"\n")
    assert answered < 10
    with line.open("ab") as file:
        file.write(b'{"version": 1, "record": {"id"')  # as a kill amid a write would leave it
    again = start(out, data, 0)
    assert again.wait(300) == 0
    expected = (tmp_path / "whole" / "results.json").read_bytes()
    assert (out / "results.json").read_bytes() == expected
    assert json.loads(expected)["benchmarks"]["set"]["questions"] == 10
    asked_once = len((out / "answers" / "set-1024-tool-p0.jsonl").read_bytes().splitlines())
    assert asked_once == 10


def test_a_judge_scores_stored_answers_again_without_a_model(tmp_path, capsys, monkeypatch):
    """The rules cannot tell "crimson" for "red"; a judge that says yes to all can."""

    def says_crimson(episode):
        return "<answer>crimson or so</answer>"

    records = [replace(one, options=(), answer="red") for one in rigged.world(3)]
    engine = rigged.RiggedEngine(says_crimson, small.dialogue())
    journal, _ = evaluated(tmp_path, records, engine=engine)
    condition = results(journal)["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert condition["accuracy"]["overall"]["value"] == 0
    assert condition["undecided_by_rule"] == 3

    def no_model(args):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(command.Asker, "load", no_model)
    with JudgeServer(lambda index, claim: say("yes")) as server:
        flags = ["--judge-url", server.url, "--judge-model", "m"]
        assert command.main([str(tmp_path), "--rescore", *flags]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    condition = found["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert condition["accuracy"]["overall"]["value"] == 1
    assert "100.0" in capsys.readouterr().out
