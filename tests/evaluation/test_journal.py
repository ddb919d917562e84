"""Answers on disk: damage is named and asked again, a kill changes nothing, no model to score."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from lfpc_jax.cli import evaluate as command
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.results import encoded
from lfpc_jax.evaluation.run import ask
from lfpc_jax.rollout.archive import Archive
from support import rigged, small
from support.gather import gather
from support.judge_server import JudgeServer, say
from support.processes import TESTS, coordinator_flags, environment
from support.rigged import counted

TOOL = Trial("set", 32, "tool")


def evaluated(folder, records, conditions=("tool",), engine=None, rollouts=1):
    engine = engine or rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())
    benchmark = Benchmark("set", "layout", tuple(records), ())
    journal = Journal(folder)
    token = engine.dialogue.tokenizer.image_pad
    about = {"questions": len(records), "digest": benchmark.digest, "column": None}
    journal.begin({"rollouts": rollouts, "image_token": token}, {"set": about})
    ask(lambda: engine, benchmark, 32, conditions, journal, rollouts=rollouts, seed=0)
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
    before = encoded(counted(journal))
    journal, engine = evaluated(tmp_path, records, rollouts=2)
    assert engine.asked == 0
    assert encoded(counted(journal)) == before
    [group] = [one for one in journal.read(TOOL, 2) if one.record.id == "w3"]
    assert [parts["accuracy"] for parts in group.rewards] == [1.0, 1.0]
    assert group.rewards[0]["overlap"] > 0.9


def test_damaged_lines_are_named_and_asked_again(records, tmp_path, caplog):
    journal, _ = evaluated(tmp_path, records)
    before = encoded(counted(journal))
    for path, where in (
        (tmp_path / "trajectories/set-32-tool-p0.jsonl", "line 2: no whole group"),
        (tmp_path / "answers/set-32-tool-p0.jsonl", "line 2: no whole line"),
    ):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:40] + b"\n" + b"".join(lines[2:-1]) + lines[-1][:-9])
        caplog.clear()
        journal.seconds(TOOL)
        found = counted(journal)
        assert where in caplog.text
    condition = found["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert (condition["answered"], condition["missing"]) == (4, 2)
    journal, engine = evaluated(tmp_path, records)
    assert engine.asked == 2
    assert encoded(counted(journal)) == before


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
        counted(Journal(tmp_path))


def test_an_old_folder_s_limit_goes_on_by_its_new_names(tmp_path):
    """`max_tokens` was of an episode, whose turns it therefore limited as well."""
    journal = Journal(tmp_path)
    about = {"set": {"digest": "d"}}
    journal.begin({"rollouts": 1, "max_tokens": 300}, about)
    now = {"rollouts": 1, "turn_tokens": 300, "episode_tokens": 300}
    assert journal.settings()["asked"] == now
    with pytest.raises(ValueError, match="begun with another episode_tokens"):
        journal.begin(now | {"episode_tokens": 4096}, about)
    journal.begin(now, about)
    assert json.loads((tmp_path / "evaluation.json").read_text())["asked"] == now


def test_a_folder_goes_on_with_its_prompt_if_it_noted_one(tmp_path):
    about = {"set": {"digest": "d"}}
    for before, refused in (({"prompt": "a"}, True), ({}, False)):
        journal = Journal(tmp_path / str(refused))
        journal.begin({"rollouts": 1} | before, about)
        if refused:
            with pytest.raises(ValueError, match="begun with another prompt"):
                journal.begin({"rollouts": 1, "prompt": "b"}, about)
        else:
            journal.begin({"rollouts": 1, "prompt": "b"}, about)
            assert journal.settings()["asked"]["prompt"] == "b"


def test_a_model_s_folder_may_move(tmp_path, caplog):
    """Which model it is, its identity says, not its path; without one nothing else tells."""
    about, identity = {"set": {"digest": "d"}}, {"weights": "w", "assets": "a"}
    journal = Journal(tmp_path / "known")
    journal.begin({"model": "/old/m", "identity": identity}, about)
    now = {"model": "/new/m", "identity": identity}
    journal.begin(now, about)
    assert journal.settings()["asked"] == now
    with pytest.raises(ValueError, match=r"begun with another model \(weights\); resume"):
        journal.begin(now | {"identity": identity | {"weights": "v"}}, about)
    assert not caplog.text
    old = Journal(tmp_path / "unknown")
    old.begin({"model": "/old/m"}, about)
    with pytest.raises(ValueError, match="begun with another model; resume"):
        old.begin(now, about)


def test_seconds_are_the_wall_s_though_processes_ask_at_once(tmp_path):
    """100 s, in which one process answered 3 questions and another 1; then 20 s of the first."""
    answers = tmp_path / "answers"
    answers.mkdir()
    (tmp_path / "trajectories").mkdir()
    for process, seconds in (0, [40.0, 30.0, 30.0, 20.0]), (1, [100.0]):
        lines = "".join(json.dumps({"seconds": one}) + "\n" for one in seconds)
        (answers / f"set-32-tool-p{process}.jsonl").write_text(lines)
        (tmp_path / "trajectories" / f"set-32-tool-p{process}.jsonl").touch()
    assert Journal(tmp_path).seconds(TOOL) == 120 / 5


def test_processes_write_apart_and_are_read_together(records, tmp_path):
    journal, engine = evaluated(tmp_path, records[:4])
    [*groups] = engine.run(records[4:], rollouts=1, seed=0)
    other = Journal(tmp_path, process=1)
    for group in [*groups, next(engine.run(records[:1], rollouts=1, seed=0))]:
        other.add(TOOL, group, 0.5)
    assert sorted(group.record.id for group in journal.read(TOOL, 1)) == [f"w{i}" for i in range(6)]
    assert journal.parts() == [TOOL]


def test_nothing_is_added_to_a_folder_that_another_has_taken_over(records, tmp_path):
    """As by a command that was frozen for so long that it was taken for dead."""

    def still_ours():
        raise ValueError("the folder is another's")

    _, engine = evaluated(tmp_path, records[:4])
    [group] = engine.run(records[4:5], rollouts=1, seed=0)
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match="is another's"):
        Journal(tmp_path, still_ours=still_ours).add(TOOL, group, 0.5)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == kept


def start(out, data, seconds, *flags):
    """The command in a process of its own, in the folder where `here` stands too."""
    command = [sys.executable, "-m", "support.rigged", str(out), str(data), str(seconds), *flags]
    return subprocess.Popen(command, env=environment(), cwd=TESTS, text=True)


@pytest.fixture
def here(monkeypatch):
    """The same command, at once and to its end, in this process."""

    def run(out, data):
        engine = rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())
        monkeypatch.setattr(command, "Engines", rigged.engines(engine))
        assert command.main(rigged.command(out, data)) == 0
        return (out / "results.json").read_bytes()

    monkeypatch.chdir(TESTS)
    return run


def until_lines(file, count, *processes):
    deadline = time.monotonic() + 300
    while not file.exists() or file.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


@pytest.mark.long
def test_a_killed_evaluation_goes_on_to_the_same_bytes(tmp_path, here):
    """kill -9 amid the altered questions, once more amid a line, then to the end."""
    data = rigged.write_set(tmp_path / "data", 10)
    whole = here(tmp_path / "whole", data)
    out = tmp_path / "killed"
    line = out / "trajectories" / "set-1024-noise-p0.jsonl"
    killed = start(out, data, 0.4)
    until_lines(line, 2, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "results.json").exists()
    assert line.read_bytes().count(b"\n") < 10
    with line.open("ab") as file:
        file.write(b'{"version": 1, "record": {"id"')  # as a kill amid a write would leave it
    assert here(out, data) == whole
    assert json.loads(whole)["benchmarks"]["set"]["questions"] == 10
    asked_once = len((out / "answers" / "set-1024-tool-p0.jsonl").read_bytes().splitlines())
    assert asked_once == 10
    scores = [(out.parent / name / "scores.jsonl").read_bytes() for name in ("whole", "killed")]
    assert scores[0] == scores[1]


def test_direct_answers_alone_and_nothing_is_made_where_nothing_is_left(tmp_path, monkeypatch):
    data = rigged.write_set(tmp_path / "data", 3)
    made = rigged.RiggedEngine(rigged.reads_the_whole, small.dialogue())
    monkeypatch.setattr(command, "Engines", rigged.engines(made))
    out = [str(tmp_path / "out"), "--model", "rigged", "--data", f"set={data}"]
    assert command.main([*out, "--modes", "direct"]) == 0
    assert Journal(tmp_path / "out").parts() == [Trial("set", 1024, "direct")]
    assert made.asked == 3

    def no_engine(self, tokens, records):
        raise AssertionError("an engine was asked for")

    monkeypatch.setattr(rigged.RiggedEngines, "engine", no_engine)
    assert command.main([*out, "--modes", "direct"]) == 0


@pytest.mark.compiles
@pytest.mark.slow
def test_two_processes_stop_together_go_on_and_leave_what_one_does(tmp_path, here):
    """SIGTERM to the second ends both in peace; two others finish."""
    data = rigged.write_set(tmp_path / "data", 10)
    out = tmp_path / "both"

    def pair(seconds):
        flags = coordinator_flags()
        return [start(out, data, seconds, *flags, str(number)) for number in range(2)]

    processes = pair(0.5)
    try:
        until_lines(out / "trajectories" / "set-1024-tool-p1.jsonl", 1, *processes)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(120) for process in processes] == [0, 0]
        assert not (out / "results.json").exists()
        processes = pair(0)
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    found = (out / "results.json").read_bytes()
    assert found == here(tmp_path / "one", data)
    shares = [Archive(out / "trajectories").read(f"set-1024-tool-p{number}") for number in (0, 1)]
    asked = [sorted(group.record.id for group in share) for share in shares]
    assert asked == [["w0", "w2", "w4", "w6", "w8"], ["w1", "w3", "w5", "w7", "w9"]]


def test_a_judge_scores_stored_answers_again_without_a_model(tmp_path, capsys, monkeypatch):
    """The rules cannot tell "crimson" for "red"; a judge that says no to blue alone can."""

    def says_crimson(episode):
        return "<answer>crimson or so</answer>"

    records = [replace(one, options=(), answer="red") for one in rigged.world(3)]
    engine = rigged.RiggedEngine(says_crimson, small.dialogue())
    journal, _ = evaluated(tmp_path, records, engine=engine)
    condition = counted(journal)["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert condition["accuracy"]["overall"]["value"] == 0
    assert condition["undecided_by_rule"] == 3

    def no_model(args):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(command.Engines, "load", no_model)
    with JudgeServer(lambda _, claim: say("no" if claim["answer"] == "blue" else "yes")) as server:
        flags = ["--judge-url", server.url, "--judge-model", "m"]
        assert command.main([str(tmp_path), "--rescore", *flags]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    condition = found["benchmarks"]["set"]["budgets"]["32"]["conditions"]["tool"]
    assert condition["accuracy"]["overall"]["value"] == 1
    assert found["judge"] == "m"
    printed = capsys.readouterr().out
    assert "100.0" in printed
    assert "no rule can tell" not in printed
    _, episodes = gather(tmp_path)  # and so says its report
    assert [line["right"] for line in episodes.lines] == [True] * 3
    assert command.main([str(tmp_path), "--rescore"]) == 0
    _, episodes = gather(tmp_path)
    assert [line["right"] for line in episodes.lines] == [False] * 3
