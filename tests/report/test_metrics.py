"""Reading metrics, what a resumed run repeats, and what is damaged."""

import PIL.Image
import pytest

from lfpc_jax.report import metrics, plots
from lfpc_jax.report.figures import arrange
from lfpc_jax.report.metrics import Curve


def read(tmp_path, text):
    file = tmp_path / "metrics.jsonl"
    file.write_text(text)
    curves, problems = metrics.read(file)
    return {(c.kind, c.name): (c.steps, c.values) for c in curves}, [str(p) for p in problems]


def test_the_last_line_of_a_step_wins_whole_and_steps_rise(tmp_path):
    curves, problems = read(
        tmp_path,
        '{"step": 2, "kind": "train", "a/x": 1, "a/y": 7}\n'
        '{"step": 3, "kind": "train", "a/x": 5}\n'
        '{"step": 1, "kind": "train", "a/x": 0.5}\n'
        '{"step": 2, "kind": "train", "a/x": 2}\n'
        '{"step": 2, "kind": "validation", "a/x": 9}\n',
    )
    assert curves == {
        ("train", "a/x"): ((1, 2, 3), (0.5, 2.0, 5.0)),
        ("validation", "a/x"): ((2,), (9.0,)),
    }
    assert problems == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "no line of metrics"),
        ("[1, 2]", "not a JSON object"),
        ('{"kind": "train", "a/x": 1}', "its step is None"),
        ('{"step": true, "kind": "train"}', "its step is True"),
        ('{"step": -1, "kind": "train"}', "its step is -1"),
        ('{"step": 1, "a/x": 1}', "its kind is None"),
        ("[" * 100_000, "no line of metrics"),
    ],
)
def test_a_damaged_line_is_named_and_the_others_stay(tmp_path, line, said):
    good = '{"step": 1, "kind": "train", "a/x": 4}\n'
    curves, problems = read(tmp_path, good + line + "\n" + good.replace("1,", "2,"))
    assert curves == {("train", "a/x"): ((1, 2), (4.0, 4.0))}
    assert len(problems) == 1
    assert "line 2" in problems[0]
    assert said in problems[0]


def test_values_that_are_no_numbers_leave_a_gap(tmp_path):
    curves, problems = read(
        tmp_path,
        '{"step": 1, "kind": "train", "a/x": NaN, "a/y": 1, "a/z": null, "a/w": "3", "a/v": true}\n'
        '{"step": 2, "kind": "train", "a/x": 1, "a/u": 1e999, "a/t": 1%s}\n' % ("0" * 400),
    )
    assert curves == {("train", "a/x"): ((2,), (1.0,)), ("train", "a/y"): ((1,), (1.0,))}
    named = [problem.split("'")[1] for problem in problems]
    assert sorted(named) == ["a/t", "a/u", "a/v", "a/w", "a/x"]  # null is nothing to report


def test_a_missing_file_is_said(tmp_path):
    curves, problems = metrics.read(tmp_path / "metrics.jsonl")
    assert curves == []
    assert "missing" in problems[0].what


def test_figures_have_what_there_is_and_the_rest_is_other():
    names = ["crop/iou", "reward/total", "reward/own", "strange", "fault/bad_json", "x/y"]
    found = {figure.key: [panel.name for panel in figure.panels] for figure in arrange(names)}
    assert found == {
        "rewards": ["reward/total", "crop/iou", "reward/own"],
        "crops": ["crop/iou"],  # as in the paper, in both figures
        "episodes": ["fault/bad_json"],
        "other": ["strange", "x/y"],
    }
    assert arrange([]) == []


def test_plots_draw_every_run_in_its_colour(tmp_path):
    curve = Curve("train", "reward/total", (0, 1, 2), (0.0, 1.0, 0.0))
    other = Curve("train", "reward/total", (0, 1, 2), (1.0, 0.0, 1.0))
    single = Curve("validation", "reward/total", (1,), (0.5,))
    [file] = plots.plot({"_a$": [curve, single], "b": [other]}, tmp_path / "r")
    assert file.name == "r-rewards.png"
    colours = {colour for _, colour in PIL.Image.open(file).convert("RGB").getcolors(1 << 20)}
    for colour in plots.RUN_COLOURS[:2]:
        assert tuple(bytes.fromhex(colour[1:])) in colours
    assert tuple(bytes.fromhex(plots.RUN_COLOURS[2][1:])) not in colours
