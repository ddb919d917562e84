"""Several models on the same questions, side by side, and what changes from one to another.

    compare.py OUT --arm warm EVALUATED --arm stage1 SEED0 SEED1 SEED2 \\
        --change accuracy warm stage1 --change drop 3*warm stage1

An arm is a name and the folders of evaluate.py, one a seed, all asked the same questions. --change
MEASURE BEFORE AFTER is what the second arm has less what the first has, question by question;
"3*warm" is three times the first. OUT gets comparison.json, with each seed's values,
comparison.md and comparison.png. Intervals are 95%, over samples. Answers count as they did in
results.json: by the verdicts of the judge who graded them, the same for all arms, or by rule.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from lfpc_jax.evaluation.arms import MEASURES, Arm, Change, Comparison, Found
from lfpc_jax.evaluation.conditions import TOOL
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.plots import plot_arms
from lfpc_jax.evaluation.results import check_judged, faults_of
from lfpc_jax.evaluation.tables import Sheet, estimate, markdown, printed

_NONE = "-"
_MOST_UNJUDGED = 0.5

_HOW = ("rollouts", "temperature", "crop_tokens", "convention", "max_turns", "turn_tokens",
        "episode_tokens", "prompt", "dtype")  # fmt: skip
"""What of an evaluation's settings changes answers, beside the weights and the questions."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        compare(args)
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--arm", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER")
    )
    parser.add_argument(
        "--change", nargs=3, action="append", default=[], metavar=("MEASURE", "BEFORE", "AFTER"),
        help=f"measures: {', '.join(MEASURES)}",
    )  # fmt: skip
    return parser


def compare(args: argparse.Namespace) -> None:
    arms = [Arm(name, tuple(map(Path, folders))) for name, *folders in args.arm]
    changes = [parsed_change(*words) for words in args.change]
    _check(arms, changes)
    budgets = _budgets(arms)
    for line in asked_otherwise(arms):
        print(line, file=sys.stderr)
    _check_judges(arms)
    unknown = tuple(unjudged(arms))
    sheets: list[Sheet] = []
    found, shown = {}, {}
    for benchmark, tokens in budgets:
        comparison = Comparison(arms, benchmark, tokens)
        known = (*unknown, *_unanswered(arms, benchmark, tokens), *comparison.notes)
        title = f"{benchmark}, {tokens} visual tokens of the image"
        measured = {
            arm.name: {measure: comparison.measured(arm.name, measure) for measure in MEASURES}
            for arm in arms
        }
        changed = {str(change): comparison.changed(change) for change in changes}
        sheets += _sheets(title, measured, changed, known)
        shown[title] = measured
        found[f"{benchmark}-{tokens}"] = {
            "arms": {arm: _encoded(row) for arm, row in measured.items()},
            "changes": _encoded(changed),
        }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "comparison.json").write_text(json.dumps(found, indent=2) + "\n")
    (args.out / "comparison.md").write_text("\n".join(map(markdown, sheets)))
    plot_arms(shown, args.out / "comparison.png")
    Console(width=None if sys.stdout.isatty() else 150).print(printed(sheets))
    print(f"wrote {args.out / 'comparison.json'}, comparison.md and comparison.png")


def parsed_change(measure: str, before: str, after: str) -> Change:
    """As it stands after --change."""
    factor, star, name = before.rpartition("*")
    try:
        times = float(factor) if star else 1.0
    except ValueError:
        raise ValueError(f"--change {measure} {before}: {factor!r} is no number") from None
    return Change(measure, name, after, times)


def _check(arms: Sequence[Arm], changes: Sequence[Change]) -> None:
    names = [arm.name for arm in arms]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"--arm: {sorted(twice)} twice; give all folders of an arm at once")
    if bare := [arm.name for arm in arms if not arm.folders]:
        raise ValueError(f"--arm {bare[0]}: no folder; give those of its evaluations")
    for change in changes:
        if change.measure not in MEASURES:
            raise ValueError(f"--change {change.measure}: no such measure; of {[*MEASURES]}")
        if missing := {change.before, change.after} - set(names):
            raise ValueError(f"--change {change}: no arm {sorted(missing)}; there are {names}")
        if change.times <= 0:
            raise ValueError(f"--change {change}: the factor must be positive")


def asked_otherwise(arms: Sequence[Arm]) -> Iterator[str]:
    """A line for each setting in which the evaluations are not alike; an arm's own difference from
    the others is as much part of what they show as its weights are."""
    every = [(arm.name, Journal(folder).settings()["asked"]) for arm in arms
             for folder in arm.folders]  # fmt: skip
    for name in _HOW:
        values: dict[str, list[str]] = {}
        for arm, asked in every:
            if name in asked:
                values.setdefault(str(asked[name]), []).append(arm)
        if len(values) > 1:
            told = "; ".join(f"{value} ({', '.join(dict.fromkeys(by))})"
                             for value, by in values.items())  # fmt: skip
            yield f"the arms were asked with another {name}: {told}"


def _check_judges(arms: Sequence[Arm]) -> None:
    by = {arm.name: sorted(set(arm.judges)) for arm in arms}
    if len({name for names in by.values() for name in names}) > 1:
        told = "; ".join(f"{name}: {', '.join(j or 'by rule' for j in by[name])}" for name in by)
        raise ValueError(
            f"the arms were graded by different judges ({told}); grade all alike with "
            "evaluate.py FOLDER --rescore"
        )


def unjudged(arms: Sequence[Arm]) -> Iterator[str]:
    """A line for each evaluation with answers that could not be judged; most of them raise."""
    for arm in arms:
        for folder, answers in zip(arm.folders, arm.answers):
            check_judged(answers, _MOST_UNJUDGED)
            every = [one for part in answers.values() for one in part]
            if count := sum(1 for _ in faults_of(every)):
                of = sum(len(one.answers) for one in every)
                yield (
                    f"{arm.name}, {folder}: {count} of {of} answers could not be judged, "
                    "which do not count"
                )


def _unanswered(arms: Sequence[Arm], benchmark: str, tokens: int) -> Iterator[str]:
    """A line for each evaluation that was not finished, or left questions out."""
    for arm in arms:
        for folder, answers in zip(arm.folders, arm.answers):
            wanted = Journal(folder).settings()["benchmarks"][benchmark]["questions"]
            answered = len(answers[Trial(benchmark, tokens, TOOL)])
            if answered < wanted:
                yield (
                    f"{folder}: {answered} of {wanted} questions of {benchmark} at {tokens} tokens "
                    "have an answer; the others count nowhere"
                )


def _budgets(arms: Sequence[Arm]) -> list[tuple[str, int]]:
    """Benchmarks and budgets at which every arm was asked."""
    asked = [
        {(part.benchmark, part.tokens) for part in Journal(folder).parts()}
        for arm in arms
        for folder in arm.folders
    ]
    if not (common := set.intersection(*asked)):
        raise ValueError("the arms have no benchmark and budget in common; evaluate them alike")
    return sorted(common)


def _sheets(
    title: str,
    measured: dict[str, dict[str, Found | None]],
    changed: dict[str, Found | None],
    known: tuple[str, ...],
) -> Iterator[Sheet]:
    """`known` is what to know before believing a number."""
    shown = [name for name in MEASURES if any(row[name] for row in measured.values())]
    table = Sheet(
        f"{title}: % [95% interval over samples]",
        ("arm",),
        tuple(shown),
        meaning=". ".join(f"{name}: {MEASURES[name]}" for name in shown) + ".",
        warnings=known,
    )
    for arm, row in measured.items():
        table.add(arm, *(_cell(row[name], signed=False) for name in shown))
    yield table
    if changed:
        table = Sheet(
            f"{title}: changes, in percentage points",
            ("change",),
            ("all seeds", "each seed"),
        )
        for name, found in changed.items():
            seeds = ", ".join(f"{100 * value:+.1f}" for value in found.seeds) if found else ""
            table.add(name, _cell(found, signed=True), seeds or _NONE)
        yield table


def _cell(found: Found | None, *, signed: bool) -> str:
    return estimate(None if found is None else asdict(found.estimate), signed=signed)


def _encoded(found: dict[str, Found | None]) -> dict[str, object]:
    return {name: None if value is None else asdict(value) for name, value in found.items()}
