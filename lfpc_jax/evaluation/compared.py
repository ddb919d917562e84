"""A comparison of arms at one budget, as `comparison.json` holds it: written by `lfpc compare`, and
read again for a report.

The file maps `BENCHMARK-TOKENS` to `arms`, `changes` and, of crop networks, `ranks`. `over_seeds`
and `notes` are there only if intervals are over seeds as well, or if something limits the numbers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lfpc_jax.evaluation.arms import MEASURES, SeededEstimate
from lfpc_jax.evaluation.intervals import Estimate
from lfpc_jax.evaluation.ranks import Correlation
from lfpc_jax.evaluation.sheet import Sheet
from lfpc_jax.evaluation.tables import arm_sheets, rank_sheets

FILE = "comparison.json"


@dataclass(frozen=True)
class Compared:
    """Every measure of every arm, the changes between arms, and rank correlations over them."""

    benchmark: str
    tokens: int
    measured: Mapping[str, Mapping[str, SeededEstimate | None]]
    changed: Mapping[str, SeededEstimate | None]
    ranked: Mapping[str, Correlation]
    notes: tuple[str, ...] = ()
    over_seeds: bool = False

    @property
    def title(self) -> str:
        return f"{self.benchmark}, {self.tokens} visual tokens of the image"

    def sheets(self) -> list[Sheet]:
        over = self.over_seeds
        return [
            *arm_sheets(self.title, self.measured, self.changed, self.notes, over_seeds=over),
            *rank_sheets(self.title, self.ranked),
        ]

    def shown_measures(self) -> list[str]:
        """The measures that some arm has."""
        return [name for name in MEASURES if any(row.get(name) for row in self.measured.values())]


def write(comparisons: Sequence[Compared], file: Path) -> None:
    encoded = {f"{each.benchmark}-{each.tokens}": _encoded(each) for each in comparisons}
    file.write_text(json.dumps(encoded, indent=2) + "\n")


def _encoded(compared: Compared) -> dict[str, Any]:
    found: dict[str, Any] = {
        "arms": {arm: _estimates(row) for arm, row in compared.measured.items()},
        "changes": _estimates(compared.changed),
    }
    if compared.ranked:
        found["ranks"] = {name: asdict(value) for name, value in compared.ranked.items()}
    if compared.over_seeds:
        found["over_seeds"] = True
    if compared.notes:
        found["notes"] = compared.notes
    return found


def _estimates(values: Mapping[str, SeededEstimate | None]) -> dict[str, Any]:
    return {name: None if value is None else asdict(value) for name, value in values.items()}


def read(file: Path) -> list[Compared]:
    """Raises ValueError for a file that is damaged."""
    try:
        budgets = json.loads(file.read_bytes())
        return [_decoded(name, budget) for name, budget in budgets.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}: is damaged ({error!r:.200}); make it again with the command of lfpc compare "
            "that made it"
        ) from error


def _decoded(name: str, budget: Mapping[str, Any]) -> Compared:
    benchmark, _, tokens = name.rpartition("-")
    measured = {
        arm: {measure: _seeded(row.get(measure)) for measure in MEASURES}
        for arm, row in budget["arms"].items()
    }
    ranked = {
        measure: Correlation(value["value"], value["p"], int(value["arms"]), tuple(value["seeds"]))
        for measure, value in budget.get("ranks", {}).items()
    }
    return Compared(
        benchmark,
        int(tokens),
        measured,
        {change: _seeded(value) for change, value in budget["changes"].items()},
        ranked,
        tuple(map(str, budget.get("notes", ()))),
        bool(budget.get("over_seeds", False)),
    )


def _seeded(measured: Mapping[str, Any] | None) -> SeededEstimate | None:
    if measured is None:
        return None
    found = measured["estimate"]
    value, low, high = (float(found[key]) for key in ("value", "low", "high"))
    seeds = tuple(float(seed) for seed in measured["seeds"])
    return SeededEstimate(Estimate(value, low, high, int(found["samples"])), seeds)
