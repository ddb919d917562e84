"""Results for the terminal, the paper's figures beside ours where they apply. Per cent."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from lfpc_jax.evaluation.conditions import DIRECT, TOOL
from lfpc_jax.evaluation.published import COLUMNS, LABELS, LFPC_BY_CATEGORY, LOST_TO_NOISE, OVERALL
from lfpc_jax.evaluation.results import Results

_NONE = "-"


def tables(found: Results, seconds: dict[str, float]) -> RenderableType:
    return Group(_accuracies(found), _crops(found, seconds), *_papers(found), *_diagnostics(found))


def each(found: Results) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Benchmark, budget, what is known of the benchmark, and what was found at that budget."""
    for name, about in found["benchmarks"].items():
        for tokens, budget in about["budgets"].items():
            yield name, tokens, about, budget


def estimate(value: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A share with its interval, in per cent."""
    if value is None:
        return _NONE
    centre, low, high = (100 * value[key] for key in ("value", "low", "high"))
    if signed:
        return f"{centre:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{centre:.1f} ({low:.1f} to {high:.1f})"


def _accuracies(found: Results) -> Table:
    table = Table(title="Accuracy, % (95% interval over samples)", title_justify="left")
    for heading in ("benchmark", "tokens", "mode", "of", "accuracy"):
        table.add_column(heading)
    for heading in ("questions", "missing", "unscored", "rules undecided"):
        table.add_column(heading, justify="right")
    for name, tokens, _, budget in each(found):
        for mode in (TOOL, DIRECT):
            condition = budget["conditions"].get(mode)
            if condition is None:
                continue
            counts = ("answered", "missing", "unscored", "undecided_by_rule")
            rest = [str(condition[key]) for key in counts]
            for category, value in condition["accuracy"].items():
                label = LABELS.get(category, category)
                table.add_row(name, tokens, mode, label, estimate(value), *rest)
                name, tokens, mode, rest = "", "", "", [""] * 4
            if not condition["accuracy"]:
                table.add_row(name, tokens, mode, _NONE, _NONE, *rest)
    return table


def _crops(found: Results, seconds: dict[str, float]) -> Table:
    table = Table(title="Crops, with the tool (a question)", title_justify="left")
    headings = (
        *("benchmark", "tokens", "of", "IoU", "overlap", "area, %", "crops", "tokens a crop"),
        *("sampled", "turns", "refused, %", "seconds", "ended"),
    )
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < 3 or heading == "ended" else "right")
    for name, tokens, _, budget in each(found):
        condition = budget["conditions"].get(TOOL)
        if condition is None:
            continue
        took = seconds.get(f"{name}-{tokens}-{TOOL}")
        time = _NONE if took is None else f"{took:.2f}"
        rows = {"overall": condition["measures"]} | condition["measures_by_category"]
        for category, measured in rows.items():
            table.add_row(name, tokens, LABELS.get(category, category), *_row(measured, time))
            name, tokens, time = "", "", ""
    return table


def _row(measured: dict[str, float], time: str) -> list[str]:
    def shown(key: str, form: str, times: int = 1) -> str:
        return form.format(times * measured[key]) if key in measured else _NONE

    ends = {
        key.removeprefix("end/"): value
        for key, value in measured.items()
        if key.startswith("end/") and value > 0
    }
    ended = ", ".join(f"{100 * value:.0f}% {end}" for end, value in sorted(ends.items()))
    return [
        shown("crop/iou", "{:.3f}"),
        shown("crop/overlap", "{:.3f}"),
        shown("crop/area_ratio", "{:.1f}", 100),
        shown("crop/count", "{:.2f}"),
        shown("crop/tokens", "{:.0f}"),
        shown("episode/tokens", "{:.0f}"),
        shown("episode/turns", "{:.2f}"),
        shown("crop/invalid", "{:.1f}", 100),
        time,
        ended,
    ]


def _papers(found: Results) -> Iterator[Table]:
    """The paper's rows over ours; nothing where no benchmark is one of the paper's."""
    ours: dict[str, dict[str, dict[str, Any]]] = {}
    for _, tokens, about, budget in each(found):
        if about["column"] and TOOL in budget["conditions"]:
            ours.setdefault(tokens, {})[about["column"]] = budget["conditions"][TOOL]["accuracy"]
    columns = [column for column in COLUMNS if any(column in row for row in ours.values())]
    if not columns:
        return
    table = Table(title="Beside the paper's figures (arXiv 2603.27494), %", title_justify="left")
    table.add_column("")
    table.add_column("tokens", justify="right")
    for column in columns:
        table.add_column(column, justify="right")
    for name, (shown_at, figures) in OVERALL.items():
        known = dict(zip(COLUMNS, figures))
        table.add_row(name, f"{shown_at}", *(f"{known[column]:.1f}" for column in columns))
    for category in ("single", "cross", "direct_attributes", "relative_position"):
        cells = [LFPC_BY_CATEGORY[column].get(category) for column in columns]
        if any(cell is not None for cell in cells):
            shown = (_NONE if cell is None else f"{cell:.1f}" for cell in cells)
            table.add_row(f"LFPC, {LABELS[category]}", "1024", *shown)
    table.add_section()
    for tokens, row in ours.items():
        for category in ("overall", "single", "cross", "direct_attributes", "relative_position"):
            values = [row.get(column, {}).get(category) for column in columns]
            if any(values):
                label = "this model" if category == "overall" else f"this model, {LABELS[category]}"
                table.add_row(label, tokens, *map(estimate, values))
    yield table


def _diagnostics(found: Results) -> Iterator[Table]:
    wanted = [row for row in each(found) if row[3]["diagnostics"]]
    if not wanted:
        return
    table = Table(
        title="Do crops matter? Accuracy, % (95% interval of the paired change)",
        title_justify="left",
    )
    for heading in ("benchmark", "tokens", "test", "questions"):
        table.add_column(heading)
    for heading in ("n", "before", "after", "change"):
        table.add_column(heading, justify="right")
    if any(about["column"] for _, _, about, _ in wanted):
        table.add_column("the paper's change", justify="right")
    for name, tokens, about, budget in wanted:
        for one in budget["diagnostics"]:
            cells = _changed(one, about)[: len(table.columns) - 4]
            table.add_row(name, tokens, one["test"], one["questions"], *cells)
            name, tokens = "", ""
        first = budget["answer_first"]
        if first and first["share"]:
            share = estimate(first["share"])
            many = str(first["share"]["samples"])
            table.add_row("", "", "answer first", "episodes with a call", many, "", "", share)
        table.add_section()
    yield table


def _changed(one: dict[str, Any], about: dict[str, Any]) -> tuple[str, ...]:
    found = one["found"]
    if found is None:
        return ("0", _NONE, _NONE, _NONE, "")
    before, after = (f"{100 * found[key]:.1f}" for key in ("before", "after"))
    paper = ""
    if one["test"] == "noise" and about["column"]:
        place = COLUMNS.index(about["column"])
        paper = ", ".join(f"{name} -{lost[place]}" for name, lost in LOST_TO_NOISE.items())
    return str(found["questions"]), before, after, estimate(found["change"], signed=True), paper
