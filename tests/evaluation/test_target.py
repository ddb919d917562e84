"""A target's evaluation: every kind of box, on a target that is rigged to read its crop."""

import json
from dataclasses import replace

import pytest

from lfpc_jax.cli import evaluate as command
from lfpc_jax.data import layout
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.conditions import attended as attended_at
from lfpc_jax.evaluation.conditions import expanded
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.published import cropvlm_column_of
from support import rigged, rigged_answers
from support.rigged import counted
from support.rigged_answers import RiggedTarget, evaluated

COUNT = 24
AREA = (rigged.SIDE / rigged.SIZE) ** 2


@pytest.fixture(scope="module")
def records():
    return tuple(rigged.world(COUNT))


def right(found, condition):
    return found["conditions"][condition]["accuracy"]["overall"]["value"]


@pytest.mark.seconds
def test_every_kind_of_box(records, tmp_path):
    """The true box, the whole image and two-thirds of the predicted ones show the square."""
    conditions = ("tool", "direct", "true", "centre", "random", "whole", expanded(4.0))
    engine = rigged_answers.proposer(rigged_answers.outlines_two_in_three)
    found, unanswered, _ = evaluated(tmp_path, records, conditions, engine=engine)
    assert not unanswered
    assert list(found["conditions"]) == [
        "tool", "direct", "true", "true_x4", "centre", "random", "whole"
    ]  # fmt: skip
    assert right(found, "true") == right(found, "true_x4") == 1
    lost = sum(rigged.digest(record.id) % 3 == 0 for record in records)
    boxes = found["boxes"]
    assert "direct" not in boxes
    assert boxes["tool"]["invalid"]["value"] == pytest.approx(lost / COUNT)
    assert boxes["tool"]["full_recall"]["value"] == pytest.approx(1 - lost / COUNT)
    assert boxes["tool"]["recall"]["value"] == pytest.approx(1 - lost / COUNT)
    assert boxes["tool"]["recall_valid"]["value"] == pytest.approx(1)
    assert boxes["tool"]["size"]["samples"] == COUNT - lost
    assert boxes["true"]["iou"]["value"] == boxes["true"]["full_recall"]["value"] == 1
    assert boxes["true"]["size"]["value"] == pytest.approx(AREA)
    assert boxes["whole"]["size"]["value"] == boxes["whole"]["recall"]["value"] == 1
    assert boxes["whole"]["iou"]["value"] == pytest.approx(AREA)
    assert boxes["centre"]["size"]["value"] == 0.25
    assert boxes["centre"]["invalid"]["value"] == 0
    tests = {one["test"]: one["found"] for one in found["diagnostics"]}
    assert {"tool over direct", "true over direct", "tool over true", "tool over whole"} <= {*tests}
    assert tests["true over direct"]["after"] == 1
    assert tests["tool over true"]["questions"] == COUNT


@pytest.mark.seconds
def test_altered_crops_are_of_the_boxes_that_were_proposed(records, tmp_path):
    """The network is asked once. What it read in its crop is not in noise."""
    engine = rigged_answers.proposer(rigged_answers.outlines_two_in_three)
    target = RiggedTarget()
    before = target.dialogue
    conditions = ("noise", "blank", "other", "downsampled", "truth")
    found, _, journal = evaluated(tmp_path, records, conditions, target, engine)
    assert engine.asked == COUNT
    assert target.dialogue == before
    cropped = COUNT - sum(rigged.digest(record.id) % 3 == 0 for record in records)
    tests = {one["test"]: one["found"] for one in found["diagnostics"]}
    for name in ("noise", "blank"):
        assert found["conditions"][name]["questions"] == cropped
        assert found["conditions"][name]["missing"] == 0
        assert right(found, name) < 0.6
        assert tests[name]["questions"] == COUNT
        assert tests[name]["change"]["high"] < 0
    assert right(found, "truth") == right(found, "downsampled") == 1
    assert found["answer_first"] is None
    proposed, again = (
        {group.record.id: group.trajectories[0] for group in journal.read(Trial("set", 32, n), 1)}
        for n in ("tool", "noise")
    )
    for name, trajectory in again.items():
        assert trajectory.turns == proposed[name].turns
        assert trajectory.ids.tolist() == proposed[name].ids.tolist()


def test_what_the_target_could_not_be_asked_is_asked_again(records, tmp_path):
    few = records[:6]
    target = RiggedTarget(fails={"w1": "no connection: it is gone", "w4": "no reply in time"})
    found, unanswered, _ = evaluated(tmp_path, few, ("direct", "true"), target)
    assert sorted(unanswered) == sorted(2 * ["no connection: it is gone", "no reply in time"])
    condition = found["conditions"]["true"]
    assert (condition["answered"], condition["missing"]) == (4, 2)
    assert condition["accuracy"]["overall"]["samples"] == 4
    target = RiggedTarget()
    found, unanswered, _ = evaluated(tmp_path, few, ("direct", "true"), target)
    assert not unanswered
    assert [question.record.id for question in target.asked] == ["w1", "w4"] * 2
    assert found["conditions"]["true"]["missing"] == 0


def test_a_box_is_asked_once_though_rollouts_share_it(records, tmp_path):
    target = RiggedTarget()
    conditions = ("true", "random")
    _, _, journal = evaluated(tmp_path, records[:3], conditions, target, rollouts=3)
    boxes = [len(question.boxes) for question in target.asked]
    assert boxes == [1, 1, 1, 3, 3, 3]
    groups = [*journal.read(Trial("set", 32, "random"), 3)]
    assert [len({t.turns for t in group.trajectories}) for group in groups] == [3, 3, 3]


def test_vicrops_boxes_are_those_of_the_target(records, tmp_path):
    """At the usual layer and another one; a record that cannot be shown is left out."""

    def attended(layer, asked):
        for record in asked:
            shift = 0 if layer is None else layer
            x1, y1, x2, y2 = record.targets[0][0]
            yield None if record.id == "w2" else (x1 - shift, y1, x2 - shift, y2)

    conditions = ("rel_att", attended_at(18))
    found, _, _ = evaluated(tmp_path, records[:4], conditions, attended=attended)
    assert list(found["conditions"]) == ["rel_att", "rel_att_18"]
    assert found["boxes"]["rel_att"]["iou"]["value"] == 1
    side = rigged.SIDE
    expected = side * (side - 18) / (2 * side**2 - side * (side - 18))
    assert found["boxes"]["rel_att_18"]["iou"]["value"] == pytest.approx(expected)
    assert found["conditions"]["rel_att"]["missing"] == 1
    with pytest.raises(ValueError, match="needs the attention of a local target"):
        evaluated(tmp_path / "remote", records[:4], ("rel_att",))


def test_a_folder_goes_on_with_the_target_that_is_in_it(records, tmp_path):
    """A crop network may come later; the target's settings and weights may not change."""
    few = records[:2]
    evaluated(tmp_path, few, ("direct",))
    for changed, message in (
        (RiggedTarget(weights="v"), r"begun with another target \(weights\)"),
        (
            RiggedTarget(settings=replace(rigged_answers.SETTINGS, presentation="crop")),
            r"begun with another target \(presentation\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path, few, ("direct",), changed)
    journal = Journal(tmp_path)
    about = journal.settings()["benchmarks"]
    alone = journal.settings()["asked"]
    with pytest.raises(ValueError, match="begun with another target; resume"):
        journal.begin({"rollouts": 1}, about)
    network = {"model": "/m", "identity": {"weights": "c"}, "turn_tokens": 32}
    journal.begin(alone | network, about)
    journal.begin(alone, about)
    assert journal.settings()["asked"] == alone | network
    with pytest.raises(ValueError, match="begun with another turn_tokens"):
        journal.begin(alone | network | {"turn_tokens": 64}, about)
    with pytest.raises(ValueError, match=r"begun with another model \(weights\)"):
        journal.begin(alone | network | {"identity": {"weights": "d"}}, about)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """The command on a rigged target and crop network, in this process."""
    data = rigged.write_set(tmp_path / "data", 6)

    def call(out, *flags, target=None, engine=None):
        made = target or RiggedTarget()
        monkeypatch.setattr(command, "TargetEngines", rigged_answers.targets(made, engine))
        code = command.main([str(out), "--data", f"set={data}", *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


TARGET = ("--target", "rigged", "--target-image-tokens", "32", "--target-crop-tokens", "16")

SERVER = ("--target-url", "http://h/v1", "--target-model", "m")


@pytest.mark.seconds
def test_the_command_without_a_crop_network(run, tmp_path):
    out = tmp_path / "out"
    code, _, _ = run(out, *TARGET, "--boxes", "true", "whole", "--expand", "4", "16")
    assert code == 0
    kinds = ["direct", "true", "true_x16", "true_x4", "whole"]
    assert [part.condition for part in Journal(out).parts()] == kinds
    asked = json.loads((out / "evaluation.json").read_text())["asked"]
    assert asked["target"]["weights"] == "w"
    assert "model" not in asked
    before = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    assert command.main([str(out), "--rescore"]) == 0
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--boxes", "true"], "give --model and --data"),
        (["--model", "m", "--boxes", "true"], "--layer and --likelihoods are of a target model"),
        (["--model", "m", "--expand", "4"], "are of a target model"),
        ([*TARGET, "--modes", "tool"], "give --model CROPPER, or leave them out"),
        ([*TARGET, "--diagnose", "noise"], "give --model CROPPER, or leave them out"),
        ([*TARGET, "--target-url", "http://h/v1"], "give one of them"),
        (["--target-url", "http://h/v1"], "needs both --target-url and --target-model"),
        ([*TARGET, "--expand", "0"], "an area factor of 0: true boxes may be scaled by 0.01 to"),
        ([*TARGET, "--crop-tokens", "16"], "shown to the target; give --target-crop-tokens"),
        ([*SERVER, "--boxes", "rel_att"], "need the weights of the target; give a local one"),
        ([*SERVER, "--layer", "3"], "need the weights of the target"),
        ([*SERVER, "--likelihoods"], "need the weights of the target"),
        ([*TARGET, "--target-slots", "0"], "--target-slots is 0; it must be at least 1"),
        (
            [*TARGET, "--model", "m", "--image-tokens", "32", "64"],
            "of a crop network one budget is evaluated at a time",
        ),
    ],
)
def test_flags_that_contradict_are_refused(run, tmp_path, flags, message):
    code, _, error = run(tmp_path / "out", *flags)
    assert code == 1
    assert message in error


def test_a_target_that_is_gone_ends_the_command(run, tmp_path):
    out = tmp_path / "out"
    gone = RiggedTarget(fails={f"w{n}": "no connection: it is gone" for n in range(5)})
    code, _, error = run(out, *TARGET, "--modes", "direct", target=gone)
    assert code == 1
    assert "5 questions could not be put to the target" in error
    assert "no connection: it is gone. Mend that, and rerun the same command" in error
    assert not (out / "results.json").exists()
    gone.fails = {"w3": "no reply in time"}
    code, printed, error = run(out, *TARGET, "--modes", "direct", target=gone)
    assert code == 0
    assert "1 questions could not be put to the target" in error
    assert "questions without an answer, which do not count: direct 1" in " ".join(printed.split())
    assert run(out, *TARGET, "--modes", "direct")[0] == 0
    assert Journal(out).seconds(Trial("set", 32, "direct")) is not None


@pytest.mark.seconds
def test_tables_pictures_and_the_expansion_study(records, tmp_path, monkeypatch):
    from lfpc_jax.evaluation.plots import plot, plot_expansion
    from lfpc_jax.evaluation.sheet import markdown
    from lfpc_jax.evaluation.tables import sheets

    engine = rigged_answers.proposer(rigged_answers.outlines_two_in_three)
    conditions = ("tool", "direct", "true", *map(expanded, (4.0, 16.0, 64.0)), "whole")
    evaluated(tmp_path, records, conditions, engine=engine)
    found = counted(Journal(tmp_path))
    text = "\n".join(map(markdown, sheets(found, {})))
    lost = sum(rigged.digest(one.id) % 3 == 0 for one in records)
    assert lost == 6
    [accuracy, boxes, *_] = sheets(found, {})
    assert boxes.title.startswith("Boxes, %")
    rows = {row[1].strip(): row for row in boxes.parts[0]}
    assert [*rows] == ["tool", "valid", "true", "true_x4", "true_x16", "true_x64", "whole"]
    assert rows["tool"][3].startswith("75.0 [")
    assert rows["valid"][3].startswith("100.0 [")
    assert rows["tool"][-1].startswith("25.0 [")
    assert rows["true"][5].startswith(f"{100 * AREA:.1f} [")
    shown = [row[2] for row in accuracy.parts[0] if row[2]]
    assert shown == ["tool", "direct", *list(rows)[2:]]
    assert "CropVLM" not in text
    assert not any(sheet.title == "Crops" for sheet in sheets(found, {}))
    plot(found, tmp_path / "results.png")
    assert plot_expansion(found, tmp_path / "expansion.png")
    assert min((tmp_path / f"{name}.png").stat().st_size for name in ("results", "expansion")) > 9e3
    found["benchmarks"]["set"]["cropvlm"] = "TextVQA"
    beside = markdown(next(sheet for sheet in sheets(found, {}) if "2511.19820" in sheet.title))
    assert "| CropVLM, SFT | 17.9 | 51 | 12.5 | 53.5 |" in beside
    assert "| CropVLM, likelihood | 13.5 | 85 | 33.4 | 57.1 |" in beside
    assert "| this crop network (set, 32 tokens) | " in beside
    budget = found["benchmarks"]["set"]["budgets"]["32"]
    for name in ("true_x4", "true_x16", "true_x64"):
        del budget["conditions"][name]
    assert not plot_expansion(found, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    ("dataset", "rows", "column"),
    [("text_vqa", 5000, "TextVQA"), ("text_vqa_boxes", 4370, "TextVQA"), ("text_vqa", 4370, None),
     ("doc_vqa", 5000, None)],
)  # fmt: skip
def test_cropvlms_figures_are_of_whole_sets(records, dataset, rows, column):
    named = replace(records[0], dataset=dataset)
    benchmark = Benchmark("set", "set", (named,) * (rows - 1), (Rejected("x", "empty answer", ""),))
    assert cropvlm_column_of(benchmark) == column


def test_true_boxes_of_questions_without_any_are_refused_and_of_some_are_told(run, tmp_path):
    records = list(layout.read(tmp_path / "data"))
    without = [replace(record, targets=()) for record in records]
    layout.write(tmp_path / "none", without)
    layout.write(tmp_path / "some", [*records[:2], *without[2:]])
    flags = [*TARGET, "--boxes", "true", "--expand", "4"]
    code, _, error = run(tmp_path / "refused", *flags, "--data", f"none={tmp_path / 'none'}")
    assert code == 1
    assert "true, true_x4: no question of none has a true box; name a set with boxes" in error
    code, _, error = run(tmp_path / "told", *flags, "--data", f"some={tmp_path / 'some'}")
    assert code == 0
    assert "some: 2 of 6 questions have a true box; true, true_x4 are of these alone" in error
