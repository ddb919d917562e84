"""Results for the terminal, the paper's figures beside ours where they apply. Per cent.

Narrow enough for 80 columns; what rarely happens (questions without an answer, answers that nobody
could score) is a line below and not a column.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfpc_jax.evaluation.conditions import DIRECT, TOOL
from lfpc_jax.evaluation.diagnostics import MISSED
from lfpc_jax.evaluation.published import (
    COLUMNS,
    LABELS,
    LFPC_BY_CATEGORY,
    LOST_AT,
    LOST_TO_NOISE,
    OVERALL,
)
from lfpc_jax.evaluation.results import Results

_NONE = "-"
_CATEGORIES = ("single", "cross", "direct_attributes", "relative_position")


def tables(found: Results, seconds: dict[str, float]) -> RenderableType:
    return Group(
        _accuracies(found),
        *_notes(found),
        _crops(found),
        _episodes(found, seconds),
        *_papers(found),
        *_diagnostics(found),
    )


def each(found: Results) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Benchmark, budget, what is known of the benchmark, and what was found at that budget."""
    for name, about in found["benchmarks"].items():
        for tokens, budget in about["budgets"].items():
            yield name, tokens, about, budget


def estimate(value: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A share with its interval, in per cent."""
    if value is None:
        return _NONE
    form = "{:+.1f} [{:+.1f}, {:+.1f}]" if signed else "{:.1f} [{:.1f}, {:.1f}]"
    return form.format(*(100 * value[key] for key in ("value", "low", "high")))


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...], caption: str = "") -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for place, heading in enumerate(left):
        table.add_column(heading, no_wrap=place > 0)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _modes(found: Results) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Benchmark, budget and mode of all that was asked with crops as they are, or without."""
    for name, tokens, _, budget in each(found):
        for mode in (TOOL, DIRECT):
            if mode in budget["conditions"]:
                yield name, tokens, mode, budget["conditions"][mode]


def _accuracies(found: Results) -> Table:
    table = _table(
        "Accuracy, % [95% interval over samples]",
        ("benchmark", "tokens", "mode", "of"),
        ("accuracy", "answered"),
    )
    for name, tokens, mode, condition in _modes(found):
        answered = f"{condition['answered']} of {condition['questions']}"
        for category, value in (condition["accuracy"] or {"overall": None}).items():
            label = LABELS.get(category, category)
            table.add_row(name, tokens, mode, label, estimate(value), answered)
            name, tokens, mode, answered = "", "", "", ""
    return table


def _notes(found: Results) -> Iterator[Text]:
    """What a reader should know before believing a number."""
    says = {
        "missing": "questions without an answer, which do not count",
        "unscored": "questions that could not be judged, which do not count",
    }
    if not found["judge"]:
        says["undecided_by_rule"] = "answers that no rule can tell, wrong without a judge"
    for name, tokens, _, budget in each(found):
        for key, what in says.items():
            counts = {mode: one[key] for mode, one in budget["conditions"].items() if one[key]}
            if counts:
                listed = ", ".join(f"{mode} {count}" for mode, count in counts.items())
                yield Text(f"{name}, {tokens}: {what}: {listed}", "yellow")


def _crops(found: Results) -> Table:
    table = _table(
        "Crops",
        ("benchmark", "tokens", "of"),
        ("IoU", "overlap", "area", "crops", "visual", "refused"),
        "area: % of the image. crops: a question. visual: tokens a crop. refused: % of the calls.",
    )
    keys = (
        ("crop/iou", "{:.3f}", 1),
        ("crop/overlap", "{:.3f}", 1),
        ("crop/area_ratio", "{:.1f}", 100),
        ("crop/count", "{:.2f}", 1),
        ("crop/tokens", "{:.0f}", 1),
        ("crop/invalid", "{:.1f}", 100),
    )
    for name, tokens, mode, condition in _modes(found):
        if mode != TOOL:
            continue
        rows = {"overall": condition["measures"]} | condition["measures_by_category"]
        for category, measured in rows.items():
            cells = (
                form.format(times * measured[key]) if key in measured else _NONE
                for key, form, times in keys
            )
            table.add_row(name, tokens, LABELS.get(category, category), *cells)
            name, tokens = "", ""
    return table


def _episodes(found: Results, seconds: dict[str, float]) -> Table:
    table = _table(
        "Episodes",
        ("benchmark", "tokens", "mode"),
        ("turns", "sampled", "seconds"),
        "sampled: tokens a question. seconds: of the wall, a question, while many are asked.",
    )
    table.add_column("ended", ratio=1)
    for name, tokens, mode, condition in _modes(found):
        measured = condition["measures"]
        ends = {key[4:]: share for key, share in measured.items() if key.startswith("end/")}
        ended = [
            f"{100 * share:.0f}% {end}"
            for end, share in sorted(ends.items(), key=lambda one: -one[1])
            if share
        ]
        took = seconds.get(f"{name}-{tokens}-{mode}")
        means = ((measured.get(f"episode/{key}"), digits) for key, digits in _MEANS.items())
        cells = (_NONE if mean is None else f"{mean:.{digits}f}" for mean, digits in means)
        time = _NONE if took is None else f"{took:.2f}"
        table.add_row(name, tokens, mode, *cells, time, ", ".join(ended))
    return table


_MEANS = {"turns": 2, "tokens": 0}


def _papers(found: Results) -> Iterator[Table]:
    """The paper's rows over ours; nothing where no benchmark is one of the paper's."""
    ours: dict[str, dict[str, dict[str, Any]]] = {}
    for _, tokens, about, budget in each(found):
        if about["column"] and TOOL in budget["conditions"]:
            ours.setdefault(tokens, {})[about["column"]] = budget["conditions"][TOOL]["accuracy"]
    columns = [column for column in COLUMNS if any(column in row for row in ours.values())]
    if not columns:
        return
    title = "Beside the paper's figures (arXiv 2603.27494), %"
    table = _table(title, ("",), ("tokens", *columns))
    for name, (shown_at, figures) in OVERALL.items():
        known = dict(zip(COLUMNS, figures))
        table.add_row(name, f"{shown_at}", *(f"{known[column]:.1f}" for column in columns))
    for category in _CATEGORIES:
        cells = [LFPC_BY_CATEGORY[column].get(category) for column in columns]
        if any(cell is not None for cell in cells):
            shown = (_NONE if cell is None else f"{cell:.1f}" for cell in cells)
            table.add_row(f"LFPC, {LABELS[category]}", "1024", *shown)
    table.add_section()
    for tokens, row in ours.items():
        for category in ("overall", *_CATEGORIES):
            values = [row.get(column, {}).get(category) for column in columns]
            if any(values):
                label = "this model" if category == "overall" else f"this model, {LABELS[category]}"
                table.add_row(label, tokens, *map(estimate, values))
    yield table


def _diagnostics(found: Results) -> Iterator[Table]:
    wanted = [row for row in each(found) if row[3]["diagnostics"]]
    if not wanted:
        return
    table = _table(
        "Do crops matter? Accuracy, % [95% interval of the paired change]",
        ("benchmark", "test"),
        ("n", "before", "after", "change"),
        "needed: only what is wrong without the tool and right with it. missed: only where no crop "
        f"has over {MISSED} of the target. answer first: episodes that state their answer before "
        "their first call, of those with a call.",
    )
    for name, tokens, about, budget in wanted:
        rows = list(_tests(budget, about["column"], tokens))
        for whose, row in zip(
            itertools.chain((name, f"{tokens} tokens"), itertools.repeat("")), rows
        ):
            table.add_row(whose, *row)
        table.add_section()
    yield table


def _tests(budget: dict[str, Any], column: str | None, tokens: str) -> Iterator[tuple[str, ...]]:
    for one in budget["diagnostics"]:
        yield one["test"], *_changed(one["found"])
        if one["test"] == "noise":
            for whose, lost in _papers_lost(column, tokens):
                yield f"  {whose}", "", "", "", f"{-lost:+.1f}"
    first = budget["answer_first"]
    if first and first["share"]:
        yield "answer first", str(first["share"]["samples"]), "", "share", estimate(first["share"])


def _papers_lost(column: str | None, tokens: str) -> Iterator[tuple[str, float]]:
    """What the paper's models lose to noise at the same budget."""
    if column and tokens == str(LOST_AT):
        for name, lost in LOST_TO_NOISE.items():
            yield f"paper, {name}", lost[COLUMNS.index(column)]


def _changed(found: dict[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("0", _NONE, _NONE, _NONE)
    before, after = (f"{100 * found[key]:.1f}" for key in ("before", "after"))
    return str(found["questions"]), before, after, estimate(found["change"], signed=True)
