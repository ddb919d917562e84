"""A table of text, for the terminal, for a report's page and as Markdown."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lfpc_jax.evaluation.results import Results

NONE = "-"
_WRAPPED = {"benchmark": 12, "ended": 12}
"""Columns that give way on a narrow terminal, and how far."""


@dataclass
class Sheet:
    """A table. `texts` and `numbers` are its headings, and numbers are aligned to the right;
    `parts` are groups of rows; `meaning` explains its words, and `warnings` stand below it."""

    title: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    parts: list[list[tuple[str, ...]]] = field(default_factory=lambda: [[]])
    meaning: str = ""
    warnings: tuple[str, ...] = ()

    def add(self, *cells: str) -> None:
        self.parts[-1].append(cells)

    def part(self) -> None:
        """Begins another group of rows."""
        self.parts.append([])


def printed(all_sheets: list[Sheet]) -> RenderableType:
    """All tables, for the terminal."""
    parts: list[RenderableType] = []
    for sheet in all_sheets:
        parts += [_table(sheet), *(Text(line, "yellow") for line in sheet.warnings)]
    return Group(*parts)


def markdown(sheet: Sheet) -> str:
    """A table as GitHub's Markdown."""
    headings = (*sheet.texts, *sheet.numbers)
    rule = [":--"] * len(sheet.texts) + ["--:"] * len(sheet.numbers)
    rows = [headings, rule, *(row for part in sheet.parts for row in part)]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    below = [text for text in (sheet.meaning, *sheet.warnings) if text]
    return "\n".join([f"**{sheet.title}**", "", *lines, *(f"\n{text}" for text in below)]) + "\n"


def _table(sheet: Sheet) -> Table:
    table = Table(
        title=sheet.title,
        title_justify="left",
        title_style="bold",
        caption=sheet.meaning or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in sheet.texts:
        least = _WRAPPED.get(heading)
        table.add_column(heading, no_wrap=least is None, min_width=least)
    for heading in sheet.numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    for rows in sheet.parts:
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def each(results: Results) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Every benchmark and budget, with what is known of the benchmark and the results at that
    budget."""
    for name, about in results["benchmarks"].items():
        for tokens, budget in sorted(about["budgets"].items(), key=lambda pair: int(pair[0])):
            yield name, tokens, about, budget


def estimate(value: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A share and its interval, in per cent."""
    if value is None:
        return NONE
    form = "{:+.1f} [{:+.1f}, {:+.1f}]" if signed else "{:.1f} [{:.1f}, {:.1f}]"
    return form.format(*(100 * value[key] for key in ("value", "low", "high")))
