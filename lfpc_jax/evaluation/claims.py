"""The papers' findings, LFPC's and CropVLM's, and a page that says which of them a comparison of
arms confirms."""

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
"""Changes, as lfpc compare takes them, and the direction in which the paper found them."""
CROPVLM_CLAIMS = {
    ("area", "sft", "by_accuracy"): "up",
    ("area", "sft", "by_likelihood"): "up",
    ("area", "by_accuracy", "by_likelihood"): "up",
    ("overlap", "sft", "by_accuracy"): "up",
    ("overlap", "sft", "by_likelihood"): "up",
    ("accuracy", "sft", "by_accuracy"): "up",
    ("accuracy", "sft", "by_likelihood"): "up",
    ("area", "tight", "tight_by_accuracy"): "up",
    ("area", "tight", "tight_by_likelihood"): "up",
    ("area", "tight_by_accuracy", "tight_by_likelihood"): "up",
    ("overlap", "tight", "tight_by_accuracy"): "up",
    ("overlap", "tight", "tight_by_likelihood"): "up",
    ("accuracy", "tight", "tight_by_accuracy"): "up",
    ("accuracy", "tight", "tight_by_likelihood"): "up",
    ("accuracy", "outside", "sft"): "alike",
    ("accuracy", "outside_fitted", "sft"): "alike",
    ("accuracy", "by_likelihood", "crop_alone"): "down",
    ("accuracy", "without@direct", "tight"): "down",
    ("accuracy", "sft", "tight"): "down",
}
"""CropVLM's, by arms of these names: `sft` on labels of the grid, `outside` on boxes of another
source (`outside_fitted` with factors that fit the set), `tight` on boxes that are not widened, the
first with GRPO `by_accuracy` and `by_likelihood`, the last with it `tight_by_accuracy` and
`tight_by_likelihood`; `crop_alone` is `by_likelihood` with a target that does not see the full
image, and `without@direct` has no crop."""
CROPVLM_RANKS = {
    "iou": "lower than overlap",
    "overlap": "up",
    "area": "up",
    "overlap and area": "up",
}
"""How measures of boxes go with the accuracy over arms: IoU does not predict it, recall does, and
so does the size that recall comes with; or both together."""
_SMALL = 0.02
_CERTAIN = 0.05
_LEGEND = "A claim is unclear where the interval leaves both answers open."
_NOT_DOWN = (
    f'"Not down" is confirmed where the interval excludes a loss of more than {100 * _SMALL:g} '
    "points. "
)
_ALIKE = f' "Alike" is confirmed where it excludes any change of more than {100 * _SMALL:g} points.'
_RANKS_LEGEND = (
    f'Of rank correlations, "up" is confirmed where the coefficient is positive with p < {_CERTAIN}'
    ' and refuted where it is not positive; "lower than overlap" is confirmed where the '
    "coefficient is lower than that of overlap over all seeds and in each."
)


def write_page(
    folder: Path,
    about: str,
    compared: Mapping[int, Path],
    claims: Mapping[tuple[str, str, str], str] = CLAIMS,
    ranks: Mapping[str, str] | None = None,
    *,
    name: str = "results",
    over: str = "questions",
) -> None:
    """Writes results.md, results.json and pictures into `folder`, or files of another `name`.
    `about` says what was compared, and `over` what intervals are over; `compared` are the folders
    that `lfpc compare` wrote, by temperature. `claims` are of changes and `ranks` of rank
    correlations; those that were not compared are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    legend = (_NOT_DOWN if "not down" in claims.values() else "") + _LEGEND
    legend += _ALIKE if "alike" in claims.values() else ""
    legend += f" {_RANKS_LEGEND}" if ranks else ""
    numbers = {}
    page = [
        f"# Results\n\n{about} Intervals are 95%, over {over}; numbers and each seed's values "
        f"are in [{name}.json]({name}.json)."
    ]
    for temperature, comparison in compared.items():
        picture = f"{name}-{temperature}.png"
        shutil.copy(comparison / "comparison.png", folder / picture)
        budgets = json.loads((comparison / "comparison.json").read_text())
        numbers[f"temperature {temperature}"] = budgets
        page += [
            f"## {'Greedy' if temperature == 0 else f'Temperature {temperature}'}",
            f"![Arms side by side]({picture})",
            (comparison / "comparison.md").read_text().strip(),
            "### What the paper found, and what this shows",
            "\n".join(["| change | where | expected | shown |", "|---|---|---|---|",
                       *_verdicts(budgets, claims), *_ranked(budgets, ranks or {})]),
            legend,
        ]  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=2) + "\n")
    (folder / f"{name}.md").write_text("\n\n".join(page) + "\n")


def _verdicts(
    budgets: Mapping[str, Any], claims: Mapping[tuple[str, str, str], str]
) -> Iterator[str]:
    """A row for each claim at each budget: yes or no where the interval leaves no doubt."""
    for name, budget in budgets.items():
        for (measure, before, after), expected in claims.items():
            change = str(Change.parse(measure, before, after))
            if (measured := budget["changes"].get(change)) is None:
                continue
            low, high = measured["estimate"]["low"], measured["estimate"]["high"]
            verdict = _verdict(expected, low, high)
            yield f"| {change} | {name} | {expected} | {verdict} |"


def _verdict(expected: str, low: float, high: float) -> str:
    if expected == "alike":
        apart = low > _SMALL or high < -_SMALL
        return "yes" if -_SMALL < low and high < _SMALL else "no" if apart else "unclear"
    if expected == "down":
        low, high = -high, -low
    confirmed = low > (-_SMALL if expected == "not down" else 0)
    return "yes" if confirmed else "no" if high < 0 else "unclear"


def _ranked(budgets: Mapping[str, Any], ranks: Mapping[str, str]) -> Iterator[str]:
    """A row for each claim about rank correlations at each budget."""
    for name, budget in budgets.items():
        known = budget.get("ranks", {})
        for measure, expected in ranks.items():
            if measure in known and known[measure]["value"] is not None:
                verdict = _rank_verdict(known, measure, expected)
                yield f"| rank of {measure} with accuracy | {name} | {expected} | {verdict} |"


def _rank_verdict(known: Mapping[str, Any], measure: str, expected: str) -> str:
    value, p = known[measure]["value"], known[measure]["p"]
    if expected == "up":
        certain = p is not None and p < _CERTAIN
        return "no" if value <= 0 else "yes" if certain else "unclear"
    other = known.get(expected.removeprefix("lower than "), {"value": None, "seeds": ()})
    pairs = [(value, other["value"]), *zip(known[measure]["seeds"], other["seeds"])]
    if any(None in pair for pair in pairs):
        return "unclear"
    if all(first < second for first, second in pairs):
        return "yes"
    return "no" if all(first > second for first, second in pairs) else "unclear"
