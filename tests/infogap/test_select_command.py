"""The command that selects: killed, stopped, in two processes, with a judge, with the engine."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import PIL.Image
import pytest

from lfpc_jax.cli import select_resolution
from lfpc_jax.data import layout
from lfpc_jax.data.digest import digest
from support import rigged_selection, small, told
from support.judge_server import JudgeServer, say
from support.processes import coordinator_flags, environment
from support.rigged_selection import PROCESSOR, SIDES, critical


def start(data, out, *more):
    command = [sys.executable, "-m", "support.rigged_selection", str(data), str(out), *more]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finished(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def contents(out, names=("records.jsonl", "levels.jsonl", "report.json", "meta.json")):
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection")
    data = rigged_selection.make_set(folder / "set")
    finished(start(data, folder / "out"))
    return data, folder / "out"


@pytest.mark.long
def test_killed_and_run_again_gives_the_same_bytes(uninterrupted, tmp_path):
    data, expected = uninterrupted
    out = tmp_path / "out"
    process = start(data, out)
    journal = out / "journal-0.jsonl"
    deadline = time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 9):
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "meta.json").exists()
    assert 9 < journal.read_bytes().count(b"\n") < 41
    finished(start(data, out))
    assert contents(out) == contents(expected)
    assert journal.read_bytes() == (expected / journal.name).read_bytes()
    chosen = list(layout.read(out))
    assert [one.longest_side for one in chosen] == [SIDES[min(critical(r.id), 7)] for r in chosen]
    with PIL.Image.open(out / "report.png") as plot:
        assert plot.width > 500


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_keeps_what_it_has_and_the_same_command_resumes(
    uninterrupted, tmp_path, number
):
    data, expected = uninterrupted
    out = tmp_path / "out"
    journal = out / "journal-0.jsonl"
    words = ("support.rigged_selection", data, out)
    process = told.start(*words)
    told.wait(process, lambda: journal.exists() and journal.read_bytes().count(b"\n") > 4)
    process.send_signal(number)
    code, printed, _ = told.ended(process, within=10)
    assert (code, printed) == (0, f"stopped; rerun the same command to resume {out}\n")
    assert not (out / "meta.json").exists()
    assert 4 < journal.read_bytes().count(b"\n") < 41
    process = told.start(*words)
    assert told.ended(process, within=240)[0] == 0
    assert contents(out) == contents(expected)
    assert journal.read_bytes() == (expected / journal.name).read_bytes()


@pytest.mark.long
@pytest.mark.compiles
def test_two_processes_give_what_one_gives(uninterrupted, tmp_path):
    data, expected = uninterrupted
    out = tmp_path / "out"
    flags = coordinator_flags()
    both = [start(data, out, *flags, str(i)) for i in range(2)]
    for process in both:
        finished(process)
    assert contents(out) == contents(expected)
    shares = [(out / f"journal-{i}.jsonl").read_bytes().count(b"\n") for i in range(2)]
    assert shares == [21, 21]  # twenty records each, and the settings


@pytest.mark.seconds
def test_the_command_asks_a_judge_about_free_answers(tmp_path, monkeypatch, capsys):
    """Red at 0, crimson at 1 and 2, azure below. With a judge that is gone nothing is begun."""
    free = [replace(one, options=(), answer="red") for one in rigged_selection.records(2, tmp_path)]
    layout.write(tmp_path / "set", free, copy_files=False)
    words = ("red", "crimson", "crimson", *["azure"] * 5)

    def ask(questions):
        return [(words[SIDES.index(int(one.id.split("@")[1]))],) for one in questions]

    monkeypatch.setattr(select_resolution, "_load", lambda args: "rigged")
    monkeypatch.setattr(select_resolution, "_processor", lambda args: PROCESSOR)
    monkeypatch.setattr(
        select_resolution, "_asked", lambda args, model: {"judge": args.judge_model}
    )
    monkeypatch.setattr(select_resolution, "_answers", lambda *_: ask)

    def select(out, *judge):
        command = [str(tmp_path / "set"), str(tmp_path / out), "--model", "rigged", *judge]
        return select_resolution.main(command)

    def behave(index, claim):
        same = claim["reference"] == claim["answer"] or "azure" not in claim.values()
        return say("yes" if same and "blue" not in claim.values() else "no")

    assert select("alone") == 0
    assert "14 of 14 answers could not be compared" in capsys.readouterr().err
    with JudgeServer(behave) as server:
        url = server.url
        assert select("judged", "--judge-url", url, "--judge-model", "m") == 0
        assert len(server.requests) == 2 + 2  # what every judge knows; two pairs of both records
    sides = [
        [one.longest_side for one in layout.read(tmp_path / out)] for out in ("alone", "judged")
    ]
    assert sides == [[224, 224], [SIDES[3], SIDES[3]]]
    assert select("gone", "--judge-url", url, "--judge-model", "m") == 1
    assert "the judge gives no verdicts" in capsys.readouterr().err
    assert not list((tmp_path / "gone").glob("journal*"))


@pytest.mark.seconds
def test_what_a_selection_depended_on_stands_in_the_finished_set(uninterrupted):
    data, out = uninterrupted
    about = layout.read_meta(out)["about"]
    assert about["selected from"] == [str(data)]
    assert about["by"] == "rigged"
    made = about["selection"]
    assert made["records"] == digest(layout.read(data))
    expected = {"strategy": "answer", "search": "scan", "threshold": 0.5, "image_tokens": 1024,
                "weights": "rigged"}  # fmt: skip
    assert {name: made[name] for name in expected} == expected


def test_a_finished_selection_and_a_missing_model_are_refused(uninterrupted, tmp_path, capsys):
    data, out = uninterrupted
    assert select_resolution.main([str(data), str(out), "--strategy", "hard"]) == 1
    assert "holds a finished selection" in capsys.readouterr().err
    assert select_resolution.main([str(data), str(tmp_path / "new")]) == 1
    assert "give --model" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.compiles
@pytest.mark.usefixtures("lean")
def test_the_engine_answers(tmp_path, capsys):
    """A small model that calls the tool, which it has not, at every level: no answer, no gap."""
    model = small.hf_folder(tmp_path / "hf")
    data = tmp_path / "set"
    data.mkdir()
    layout.write(data, [small.record(i) for i in range(3)])
    flags = ["--model", str(model), "--image-tokens", "24", "--harshest", "56", "--turn-tokens",
             "16", "--slots", "4"]  # fmt: skip
    assert select_resolution.main([str(data), str(tmp_path / "out"), *flags]) == 0
    printed = capsys.readouterr()
    assert "wrote" in printed.out
    assert "3 of 3 records were not answered even in full" in printed.err
    lines = (tmp_path / "out" / "levels.jsonl").read_text().splitlines()
    levels = [json.loads(line) for line in lines]
    chosen = list(layout.read(tmp_path / "out"))
    assert [one["id"] for one in levels] == [one.id for one in chosen] == ["r0", "r1", "r2"]
    for one, record in zip(levels, chosen):
        assert one["sides"] == [168, 119, 84, 59, 56]  # 6 x 4 tokens
        assert list(one["answers"]) == ["0", "1", "2", "3", "4"]
        assert set(map(tuple, one["answers"].values())) == {(None,)}  # it only calls
        assert one["unanswered"]
        assert record.longest_side == 56
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    none = {"same": 0, "different": 0, "undecided": 0, "unanswered": 3}
    assert report["answers"] == dict.fromkeys("01234", none)
    assert report["unanswered"] == 3

    # Begun again with another budget, set or weight, where size and name are the same.
    (tmp_path / "out" / "meta.json").unlink()

    def refused(*more):
        capsys.readouterr()
        assert select_resolution.main([str(data), str(tmp_path / "out"), *flags, *more]) == 1
        return capsys.readouterr().err

    assert "begun with another image_tokens (was 24, now 32); resume" in refused(
        "--image-tokens", "32"
    )
    layout.write(tmp_path / "fewer", [small.record(i) for i in range(2)])
    other = [str(tmp_path / "fewer"), str(tmp_path / "out"), *flags]
    assert select_resolution.main(other) == 1
    assert "begun with another records (was " in capsys.readouterr().err
    (model / "sums.json").unlink()  # or the weight would be damaged, not another
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x80]))  # the sign of the last
    assert "begun with another weights (was " in refused()
