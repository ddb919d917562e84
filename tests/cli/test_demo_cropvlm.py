"""The second system's demo: commands that their programs take, in an order that works."""

from importlib import import_module

import pytest

from lfpc_jax.cli import demo
from lfpc_jax.data import layout, sources
from lfpc_jax.evaluation.arms import MEASURES, Arm
from lfpc_jax.evaluation.claims import CROPVLM_CLAIMS
from lfpc_jax.run.cropvlm_plan import ARMS, GIVEN, TRUE_ALONE
from support import small
from support.planned_commands import taken


def planned(*words):
    args = demo.parser().parse_args(["--system", "cropvlm", *words])
    return demo.demo_of(args).plan()


def test_every_command_is_one_that_its_program_takes(monkeypatch):
    every = planned("--arms", "all", "--seeds", "0", "1")
    drawn, configs = taken(every, monkeypatch)
    for step in every:
        if step.name in configs:
            begins = step.words[step.words.index("--model.path") + 1]
            assert configs[step.name].model.path == begins
    assert [(args.split, args.seed) for args in drawn] == [
        ("train", 0), ("heldout", 0), ("heldout", 1)
    ]  # fmt: skip
    trained = [step.name for step in every if step.name.startswith("train")]
    assert trained == [f"train {arm}-{seed}" for seed in (0, 1) for arm in ARMS]


def test_half_of_the_scenes_is_labelled_and_the_other_half_reinforced():
    steps = {step.name: step.words for step in planned()}
    for name in ("label tight", "label outside_fitted", "label sft"):
        assert sources.Named.parse(steps[name][1]).part == "1/2"
    for name in ("train by_accuracy-0", "train by_likelihood-0"):
        source = steps[name][steps[name].index("--data.train") + 1]
        assert sources.Named.parse(source).part == "2/2"


def test_an_arm_comes_after_the_one_it_begins_from():
    names = [step.name for step in planned("--arms", "tight_by_likelihood")]
    assert names.index("train tight-0") < names.index("train tight_by_likelihood-0")
    assert not any("sft" in name or "outside" in name for name in names)


def test_no_command_begins_before_what_it_reads_is_made():
    every = planned("--arms", "all", "--seeds", "0", "1")
    place = {"synthesize.py": 1, "label_boxes.py": 2, "train.py": 4, "evaluate.py": 1}
    made = {}
    for step in every:
        assert set(step.after) <= {before.name for before in every[: every.index(step)]}
        named = (word.rpartition("=")[2].removeprefix("layout%1/2:").removeprefix("layout%2/2:")
                 for word in step.words)  # fmt: skip
        read = {made[word] for word in named if word in made}
        assert set(step.after) >= read
        assert bool(read) == (step.words[0] != "synthesize.py")
        if step.words[0] in place:
            made[step.words[place[step.words[0]]]] = step.name


def test_the_comparison_holds_every_claim_and_every_given_box():
    [compare] = [step for step in planned("--arms", "all") if step.words[0] == "compare.py"]
    parsed = import_module("lfpc_jax.cli.compare").parser().parse_args(compare.words[1:])
    arms = {arm.name: arm.condition for arm in (Arm.parse(n, f) for n, *f in parsed.arm)}
    assert {*GIVEN, TRUE_ALONE, *ARMS, "crop_alone"} == set(arms)
    assert arms["true_x4@true_x4"] == "true_x4"
    assert arms["sft"] == "tool"
    assert parsed.rank == [*ARMS]
    assert [tuple(change) for change in parsed.change] == list(CROPVLM_CLAIMS)
    for measure, before, after in CROPVLM_CLAIMS:
        assert measure in MEASURES
        assert {before, after} <= set(arms)
    [fewer] = [step for step in planned("--arms", "sft") if step.words[0] == "compare.py"]
    assert "tight" not in fewer.words


def test_what_to_type_next_can_be_typed(tmp_path):
    layout.write(tmp_path / "data/heldout", [small.record(0)])
    args = demo.parser().parse_args(["--system", "cropvlm", "--out", str(tmp_path)])
    made = demo.demo_of(args)
    programs = []
    for program, *words in made.next_commands():
        programs.append(program)
        module = import_module(f"lfpc_jax.cli.{program.removesuffix('.py')}")
        module.parser().parse_args(words)
    assert programs == ["ask.py", "convert.py", "label_boxes.py"]
    labelled = {step.words[1] for step in made.plan() if step.name == "label sft"}
    assert words[0] in labelled  # the same records


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "stage1"], "--arms stage1: --system cropvlm has tight, outside"),
        (["--temperatures", "1"], "crop networks are evaluated greedily"),
        (["--warm", "/nowhere"], "--warm /nowhere: no such folder; `make micro-target` makes it"),
        (["--target", "/nowhere"], "--target /nowhere: no such folder"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words, message, capsys):
    assert demo.main(["--system", "cropvlm", *words]) == 1
    assert message in capsys.readouterr().err


def test_the_first_system_does_not_have_its_arms(capsys):
    assert demo.main(["--arms", "sft"]) == 1
    assert "--arms sft: --system lfpc has baseline, stage1" in capsys.readouterr().err
