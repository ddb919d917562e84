"""The paper's findings, and a page that says which of them a comparison of arms confirms."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lfpc_jax.evaluation.arms import Change

CLAIMS = {
    ("accuracy", "warm", "stage1"): "up",
    ("calls", "warm", "stage1"): "up",
    ("overlap", "warm", "stage1"): "up",
    ("drop", "3*baseline", "stage1"): "up",
    ("iou", "control", "stage2"): "up",
    ("area", "control", "stage2"): "down",
    ("accuracy", "control", "stage2"): "not down",
}
"""Changes, as compare.py takes them, and the direction in which the paper found them."""
_SMALL = 0.02
_LEGEND = (
    f'"Not down" is confirmed where the interval excludes a loss of more than {100 * _SMALL:g} '
    "points. A claim is unclear where the interval leaves both answers open."
)


def write_page(folder: Path, about: str, compared: Mapping[int, Path]) -> None:
    """Writes results.md, results.json and pictures into `folder`. `about` says what was compared;
    `compared` are the folders that compare.py wrote, by temperature."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {}
    page = [
        f"# Results\n\n{about} Intervals are 95%, over questions; numbers and each seed's values "
        "are in [results.json](results.json)."
    ]
    for temperature, comparison in compared.items():
        picture = f"results-{temperature}.png"
        shutil.copy(comparison / "comparison.png", folder / picture)
        budgets = json.loads((comparison / "comparison.json").read_text())
        numbers[f"temperature {temperature}"] = budgets
        page += [
            f"## {'Greedy' if temperature == 0 else f'Temperature {temperature}'}",
            f"![Arms side by side]({picture})",
            (comparison / "comparison.md").read_text().strip(),
            "### What the paper found, and what this shows",
            "\n".join(["| change | where | expected | shown |", "|---|---|---|---|",
                       *_verdicts(budgets)]),
            _LEGEND,
        ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (folder / "results.md").write_text("\n\n".join(page) + "\n")


def _verdicts(budgets: Mapping[str, Any]) -> Iterator[str]:
    """A row for each claim at each budget: yes or no where the interval leaves no doubt."""
    for name, budget in budgets.items():
        for (measure, before, after), expected in CLAIMS.items():
            change = str(Change.parse(measure, before, after))
            if (measured := budget["changes"].get(change)) is None:
                continue
            low, high = measured["estimate"]["low"], measured["estimate"]["high"]
            if expected == "down":
                low, high = -high, -low
            confirmed = low > (-_SMALL if expected == "not down" else 0)
            verdict = "yes" if confirmed else "no" if high < 0 else "unclear"
            yield f"| {change} | {name} | {expected} | {verdict} |"
