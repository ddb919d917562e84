"""Reading metrics, what a resumed run repeats, and what is damaged."""

import json

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


def curves_of(**values):
    """Curves of training, by name with two underscores for the slash."""
    return [
        Curve("train", name.replace("__", "/"), tuple(range(len(of))), of)
        for name, of in values.items()
    ]


def test_a_curve_begins_anew_after_steps_without_it(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"a/x": 1}, {"a/x": 2}, {}, {"a/x": 3}, {"a/x": None}, {"a/x": 4}, {"a/x": 5}]
    lines = [{"step": 10 * at, "kind": "train", **row} for at, row in enumerate(rows)]
    lines.insert(1, {"step": 5, "kind": "validation", "b/y": 1})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [x, y] = metrics.read(file)[0]
    assert (x.steps, x.starts) == ((0, 10, 30, 50, 60), (0, 2, 3))
    assert y.starts == (0,)


def test_figures_have_what_there_is_and_the_rest_is_other():
    names = ["crop/iou", "reward/total", "reward/own", "strange", "fault/bad_json", "x/y"]
    curves = curves_of(**{name.replace("/", "__"): (0.0, 1.0) for name in names})
    figures = {figure.key: figure for figure in arrange([curves])}
    found = {key: [panel.name for panel in figure.panels] for key, figure in figures.items()}
    assert found == {
        "rewards": ["reward/total", "crop/iou", "reward/own"],
        "crops": ["crop/iou"],  # as in the paper, in both figures
        "episodes": ["fault/bad_json"],
        "other": ["strange", "x/y"],
    }
    assert all(figure.lines == () for figure in figures.values())
    assert arrange([]) == []


def test_what_never_changes_is_said_in_a_line():
    first = curves_of(
        reward__total=(1.0, 2.0), reward__masked=(0.0, 0.0), reward__flat=(0.0,),
        reward__format=(-1.0, -1.0), reward__accuracy=(0.5,), reward__undecided=(0.0, 0.0),
    )  # fmt: skip
    second = curves_of(reward__undecided=(0.0, 0.25), reward__masked=(0.0,))
    [figure] = arrange([first, second])
    drawn = [panel.name for panel in figure.panels]
    assert drawn == ["reward/total", "reward/accuracy", "reward/undecided"]
    assert figure.lines == (
        "Zero at every step: Groups with nothing to learn from; Episodes without a reward.",
        "The same at every step: Format, 0 if well written (-1).",
    )


def test_two_metrics_that_are_the_same_are_drawn_once():
    same = curves_of(reward__tool=(0.5, 1.0), crop__rate=(0.5, 1.0))
    [rewards] = arrange([same])
    assert [panel.name for panel in rewards.panels] == ["crop/rate"]
    assert rewards.lines == (
        "The same curve as another: Reward for a crop (Episodes with a crop).",
    )
    [rewards] = arrange([curves_of(reward__tool=(0.5, 0.75), crop__rate=(0.5, 1.0))])
    assert [panel.name for panel in rewards.panels] == ["reward/tool", "crop/rate"]


def test_every_plot_has_both_axes_labelled_and_a_legend_of_what_is_drawn(tmp_path, monkeypatch):
    saved = []
    keep = lambda canvas, file, dpi: saved.append(canvas)  # noqa: E731
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    curves = curves_of(reward__total=(1.0, 2.0), update__loss=(0.5, 0.25), own__thing=(1.0, 2.0))
    plots.plot({"a": curves, "nothing": [], "b": curves}, tmp_path / "r")
    assert len(saved) == 3
    for canvas in saved:
        [axes] = [axes for axes in canvas.axes if axes.axison]
        assert axes.get_xlabel() == "step"
        assert axes.get_ylabel() in {"reward an episode", "loss", "value"}
        [legend] = canvas.legends
        assert [text.get_text() for text in legend.get_texts()] == [" a", " b"]


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
