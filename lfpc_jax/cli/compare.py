"""Several models on the same questions, side by side, and what changes from one to another.

    compare.py OUT --arm warm EVALUATED --arm stage1 SEED0 SEED1 SEED2 \\
        --change accuracy warm stage1 --change drop 3*warm stage1

An arm is a name and folders of evaluate.py, one for each seed. NAME@CONDITION takes the answers
under another condition than with the tool, as --arm without@direct. All arms must have been asked
the same questions. --change MEASURE BEFORE AFTER is the second arm's value minus the first's,
paired by question; "3*warm" is three times the first's. If a target model was shown boxes, rank
correlations over arms say which measure of boxes goes with accuracy. OUT gets comparison.json (with
each seed's values), comparison.md and comparison.png. Intervals are 95 %, over samples, and with
--over-seeds over seeds and samples. Answers are graded as in results.json: by rule, or by the
verdicts of the judge that graded them, which must be the same for all arms.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from rich.console import Console

from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.compare import parser
from lfpc_jax.evaluation import comparable
from lfpc_jax.evaluation.arms import MEASURES, Arm, Change, Comparison, SeededEstimate
from lfpc_jax.evaluation.plots import plot_arms
from lfpc_jax.evaluation.ranks import correlations
from lfpc_jax.evaluation.sheet import Sheet, markdown, printed
from lfpc_jax.evaluation.tables import arm_sheets, rank_sheets


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(compare, args))


def compare(args: argparse.Namespace) -> None:
    arms = [Arm.parse(name, folders) for name, *folders in args.arm]
    changes = [Change.parse(*words) for words in args.change]
    _check(arms, changes, args.rank or ())
    budgets = comparable.budgets_of(arms)
    for line in comparable.asked_otherwise(arms):
        print(line, file=sys.stderr)
    comparable.check_judges(arms)
    unknown = tuple(comparable.unjudged(arms))
    sheets: list[Sheet] = []
    encoded, by_title = {}, {}
    for benchmark, tokens in budgets:
        comparison = Comparison(arms, benchmark, tokens, over_seeds=args.over_seeds)
        known = (*unknown, *comparable.unanswered(arms, benchmark, tokens), *comparison.notes)
        title = f"{benchmark}, {tokens} visual tokens of the image"
        measured = {
            arm.name: {measure: comparison.measured(arm.name, measure) for measure in MEASURES}
            for arm in arms
        }
        changed = {str(change): comparison.changed(change) for change in changes}
        ranked = correlations(comparison, args.rank or [arm.name for arm in arms])
        sheets += arm_sheets(title, measured, changed, known, over_seeds=args.over_seeds)
        sheets += rank_sheets(title, ranked)
        by_title[title] = measured
        encoded[f"{benchmark}-{tokens}"] = {
            "arms": {arm: _encoded(row) for arm, row in measured.items()},
            "changes": _encoded(changed),
        }
        if ranked:
            encoded[f"{benchmark}-{tokens}"]["ranks"] = {
                measure: asdict(value) for measure, value in ranked.items()
            }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "comparison.json").write_text(json.dumps(encoded, indent=2) + "\n")
    (args.out / "comparison.md").write_text("\n".join(map(markdown, sheets)))
    plot_arms(by_title, args.out / "comparison.png")
    Console(width=None if sys.stdout.isatty() else 200).print(printed(sheets))
    print(f"wrote {args.out / 'comparison.json'}, comparison.md and comparison.png")


def _check(arms: Sequence[Arm], changes: Sequence[Change], ranked: Sequence[str]) -> None:
    names = [arm.name for arm in arms]
    if missing := set(ranked) - set(names):
        raise ValueError(f"--rank: no arm {sorted(missing)}; there are {names}")
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


def _encoded(values: dict[str, SeededEstimate | None]) -> dict[str, object]:
    return {name: None if value is None else asdict(value) for name, value in values.items()}
