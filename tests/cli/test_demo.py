"""The demo's commands, and that what is done stays done."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from lfpc_jax.cli import ask, convert, demo, train
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.data import layout
from lfpc_jax.run import steps
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.demo_plan import ARMS, TOLD
from lfpc_jax.run.overrides import override
from support import small
from support.planned_commands import taken


def planned(*words):
    return demo.demo_of(demo.parser().parse_args(list(words))).plan()


def test_every_command_is_one_that_its_program_takes(monkeypatch):
    every = planned("--arms", "all", "ahead", "--seeds", "0", "1", "--temperatures", "0", "1")
    drawn, _ = taken(every, monkeypatch)
    assert [args.split for args in drawn] == ["train", "heldout", "heldout"]
    assert [args.longest_side for args in drawn] == [None, None, 56]
    assert all(args.size == (224, 224) for args in drawn)
    trained = [step.name for step in every if step.name.startswith("train")]
    assert trained == [f"train {arm}-{seed}" for seed in (0, 1) for arm in ARMS]


@pytest.mark.parametrize("system", ["lfpc", "cropvlm"])
@pytest.mark.parametrize("steps", [1, 5, 6])
def test_few_steps_are_taken_whatever_the_warm_up(system, steps, monkeypatch):
    """A demo of one step was refused by its first training, after a quarter of an hour."""
    every = planned("--system", system, "--arms", "all", "--steps", f"{steps}")
    _, configs = taken(every, monkeypatch)
    assert {config.steps for config in configs.values()} == {steps}


def test_an_arm_comes_after_the_one_it_begins_from():
    names = [step.name for step in planned("--arms", "stage2")]
    assert names.index("train stage1-0") < names.index("train stage2-0")
    assert not any("baseline" in name or "random" in name for name in names)
    everything = [step.name for step in planned("--arms", "all")]
    assert "train random-0" in everything
    assert "train ahead-0" not in everything, "no design of the paper"
    [compare] = [step for step in planned("--arms", "stage2") if step.words[0] == "compare.py"]
    assert "control" not in compare.words  # no change against an arm that was not trained
    assert "stage2" in compare.words


def test_the_report_is_given_the_results_and_what_the_arms_are():
    for words in (("--temperatures", "0", "1"), ("--system", "cropvlm")):
        every = planned(*words)
        [report] = [step for step in every if step.words[0] == "report.py"]
        compared = {step.words[1] for step in every if step.words[0] == "compare.py"}
        assert compared <= set(report.words)
    assert set(TOLD) == {"warm", *ARMS}
    assert "stage2: Stage II" in " ".join(next(s for s in planned() if s.name == "report").words)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """launch/ with programs that note that they ran; one fails once."""
    launch = tmp_path / "launch"
    launch.mkdir()
    layout.write(tmp_path / "out/data/heldout", [small.record(0)])
    note = (
        "import sys, pathlib; p = pathlib.Path({out!r}); p.open('a').write(sys.argv[0] + '\\n')\n"
    )
    for name in ("synthesize", "select_resolution", "train", "evaluate", "compare", "report"):
        text = note.format(out=str(tmp_path / "ran"))
        if name == "select_resolution":
            text += f"once = pathlib.Path({str(tmp_path / 'once')!r})\n"
            text += "if not once.exists():\n    once.touch(); sys.exit(7)\n"
        (launch / f"{name}.py").write_text(text)
    monkeypatch.setattr(steps, "program", lambda name: (sys.executable, str(launch / name)))
    (tmp_path / "model.safetensors").write_bytes(b"weights")  # the warm start
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def ran(folder):
    lines = (folder / "ran").read_text().splitlines()
    (folder / "ran").unlink()
    return [line.rpartition("/")[2] for line in lines]


def test_goes_on_where_it_stopped_and_then_says_that_it_is_done(folder, capfd):
    words = ["--out", str(folder / "out"), "--arms", "stage1", "--warm", str(folder)]
    words += ["--jobs", "1"]
    assert demo.main(words) == 7
    assert "`lfpc select " in capfd.readouterr().err.splitlines()[-1]
    assert ran(folder) == ["synthesize.py"] * 3 + ["select_resolution.py"]
    assert demo.main(words) == 0
    assert ran(folder) == [
        "select_resolution.py", "evaluate.py", "train.py", "evaluate.py", "compare.py", "report.py"
    ]  # fmt: skip
    out = capfd.readouterr().out
    commands = [shlex.split(line) for line in out.partition("What to type next:")[2].splitlines()]
    asked, converted, trained = [words[2:] for words in commands if words]
    assert Path(ask.parser().parse_args(asked).image).is_file()
    assert convert.parser().parse_args(converted).command == "to-hf"
    args, rest = train.parser().parse_known_args(trained)
    check(override(load_config(args.config, CONFIGS), rest))
    assert demo.main(words) == 0
    assert not (folder / "ran").exists()
    out = capfd.readouterr().out
    assert out.count("done before") == len(planned(*words))


def test_what_finished_without_a_note_is_finished_again(folder, capfd):
    """The demo was killed after a selection had finished, which refuses to run a second time."""
    words = ["--out", str(folder / "out"), "--arms", "stage1", "--warm", str(folder)]
    words += ["--jobs", "1"]
    (folder / "once").touch()
    made = folder / "out/data/answer/meta.json"
    with (folder / "launch/select_resolution.py").open("a") as program:
        program.write(
            f"made = pathlib.Path({str(made)!r})\n"
            "if made.exists(): sys.exit(1)\n"
            "made.parent.mkdir(parents=True, exist_ok=True)\nmade.touch()\n"
        )
    assert demo.main(words) == 0
    (folder / "out/done/select-answer.json").unlink()
    assert demo.main(words) == 0
    assert made.exists()
    assert demo.main(words) == 0  # noted now, and so left alone


def test_a_folder_holds_one_setting_and_any_arms(folder, capfd):
    words = ["--out", str(folder / "out"), "--warm", str(folder), "--jobs", "1", "--arms", "stage1"]
    (folder / "once").touch()
    assert demo.main(words) == 0
    ran(folder)
    assert demo.main([*words, "baseline"]) == 0
    assert ran(folder) == ["train.py", "evaluate.py", "compare.py", "report.py"]
    capfd.readouterr()
    assert demo.main([*words, "--steps", "3"]) == 1  # what was measured of the old run would stay
    assert "which is not `lfpc train" in capfd.readouterr().err
    assert not (folder / "ran").exists()


def test_a_folder_of_an_earlier_version_is_not_made_again(folder, capfd):
    """Arms were given by other configs and overrides then."""
    words = ["--out", str(folder / "out"), "--warm", str(folder), "--jobs", "1", "--arms", "all"]
    (folder / "once").touch()
    assert demo.main(words) == 0
    ran(folder)
    notes = folder / "out" / "done"
    known = json.loads((notes / "train-no_threshold-0.json").read_text())
    assert known["words"][:3] == ["train.py", "--config", "ablations/no_threshold.py:micro"]
    for step in planned(*words):
        if step.formerly:
            note = notes / f"{step.name.replace(' ', '-')}.json"
            note.write_text(json.dumps(json.loads(note.read_text()) | {"words": step.formerly}))
    known = json.loads((notes / "train-no_threshold-0.json").read_text())
    assert known["words"][:3] == ["train.py", "--config", "micro/stage2.py"]
    assert known["words"][-4:] == ["--rewards.boxes.w", "1", "--rewards.boxes.tau", "none"]
    assert demo.main(words) == 0
    assert not (folder / "ran").exists()


def test_another_warm_model_of_the_same_name_is_refused(folder, capfd):
    """The words stay the same, and half of what is there would be the old model's."""
    words = ["--out", str(folder / "out"), "--warm", str(folder), "--jobs", "1", "--arms", "stage1"]
    assert demo.main(words) == 7  # amid the selection
    ran(folder)
    assert demo.main(words) == 0
    ran(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"WEIGHTS")
    capfd.readouterr()
    assert demo.main(words) == 1
    said = capfd.readouterr().err
    assert (
        f"{folder / 'out'}: select answer was done with another model (weights) in {folder}" in said
    )
    assert "choose another --out" in said
    assert not (folder / "ran").exists()
    weights.write_bytes(b"weights")
    assert demo.main(words) == 0
    for note in (folder / "out" / "done").iterdir():  # as of before models were noted
        known = json.loads(note.read_text())
        known.pop("model", None)
        note.write_text(json.dumps(known))
    weights.write_bytes(b"WEIGHTS")
    capfd.readouterr()
    assert demo.main(words) == 0
    said = capfd.readouterr().err
    assert said.count("do not say which weights") == 1
    assert not (folder / "ran").exists()


PLACE = {"synthesize.py": 1, "select_resolution.py": 2, "train.py": 4, "evaluate.py": 1}
"""Which of a command's words is the folder that it makes."""


def test_no_command_begins_before_what_it_reads_is_made():
    every = planned("--arms", "all", "--seeds", "0", "1", "--temperatures", "0", "1")
    made = {}
    for step in every:
        assert set(step.after) <= {before.name for before in every[: every.index(step)]}
        read = {made[word] for word in (w.rpartition("=")[2] for w in step.words) if word in made}
        assert set(step.after) >= read
        assert bool(read) == (step.words[0] != "synthesize.py")
        if step.words[0] in PLACE:
            made[step.words[PLACE[step.words[0]]]] = step.name
    assert len(made) == sum(step.words[0] in PLACE for step in every)


def test_results_are_published(folder):
    out = folder / "out"
    for temperature in (0, 1):
        compared = out / f"compared-{temperature}"
        compared.mkdir(parents=True)
        changes = {
            "accuracy, warm to stage1": {"estimate": {"low": 0.1, "high": 0.2}},
            "overlap, warm to stage1": {"estimate": {"low": -0.1, "high": 0.2}},
            "drop, 3 x baseline to stage1": {"estimate": {"low": -0.2, "high": -0.1}},
            "area, control to stage2": {"estimate": {"low": -0.2, "high": -0.1}},
            "accuracy, control to stage2": {"estimate": {"low": -0.2, "high": 0.1}},
            "iou, control to stage2": None,
        }
        fine = {"accuracy, control to stage2": {"estimate": {"low": -0.01, "high": 0.1}}}
        worse = {"accuracy, control to stage2": {"estimate": {"low": -0.2, "high": -0.01}}}
        numbers = {
            name: {"changes": found}
            for name, found in (("micro-4", changes), ("fine", fine), ("worse", worse))
        }
        (compared / "comparison.json").write_text(json.dumps(numbers))
        (compared / "comparison.md").write_text(f"table {temperature}\n")
        (compared / "comparison.png").write_bytes(b"picture")
    (folder / "once").touch()
    words = ["--out", str(out), "--temperatures", "0", "1", "--write", str(folder / "docs")]
    words += ["--warm", str(folder)]
    assert demo.main(words) == 0
    found = json.loads((folder / "docs/results.json").read_text())
    assert set(found) == {"temperature 0", "temperature 1"}
    page = (folder / "docs/results.md").read_text()
    assert page.index("## Greedy") < page.index("table 0") < page.index("## Temperature 1")
    assert "(results-1.png)" in page
    assert (folder / "docs/results-1.png").is_file()
    rows = [line.split(" | ") for line in page.splitlines() if "| micro-4 |" in line]
    assert len(rows) == 2 * 5
    assert [(row[0][2:], row[-1][:-2]) for row in rows[:5]] == [
        ("accuracy, warm to stage1", "yes"),
        ("overlap, warm to stage1", "unclear"),
        ("drop, 3 x baseline to stage1", "no"),
        ("area, control to stage2", "yes"),
        ("accuracy, control to stage2", "unclear"),  # it may be 20 points down
    ]
    for name, verdict in ("fine", "yes"), ("worse", "no"):
        assert f"| accuracy, control to stage2 | {name} | not down | {verdict} |" in page


def test_what_it_prints_can_be_typed(capsys):
    [step] = [step for step in planned() if step.words[0] == "compare.py"]
    assert shlex.split(str(step))[:2] == ["lfpc", "compare"]
    assert sys.executable not in str(step)


def test_what_cannot_be_is_said_before_anything_runs(folder, capsys):
    assert demo.main(["--warm", str(folder / "none")]) == 1
    assert "no such folder; `make warmstart` makes it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        demo.main(["--warm", str(folder), "--jobs", "0"])
    assert "argument --jobs: 0: must be at least 1" in capsys.readouterr().err
    assert not (folder / "ran").exists()
