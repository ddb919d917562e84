"""Several models on the same questions, side by side, and what changes from one to another.

    lfpc compare OUT --arm warm EVALUATED --arm stage1 SEED0 SEED1 SEED2 \\
        --change accuracy warm stage1 --change drop 3*warm stage1

An arm is a name and folders of lfpc evaluate, one for each seed. NAME@CONDITION takes the answers
under another condition than with the tool, as --arm without@direct. All arms must have been asked
the same questions. --change MEASURE BEFORE AFTER is the second arm's value minus the first's,
paired by question; "3*warm" is three times the first's. If a target model was shown boxes, rank
correlations over arms say which measure of boxes goes with accuracy. OUT gets comparison.json (with
each seed's values), comparison.md and comparison.png. Intervals are 95 %, over samples, and with
--over-seeds over seeds and samples. Answers are graded as in results.json: by rule, or by the
verdicts of the judge that graded them, which must be the same for all arms.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.compare import parser
from lfpc_jax.evaluation import comparable, compared
from lfpc_jax.evaluation.arms import MEASURES, Arm, Change, Comparison
from lfpc_jax.evaluation.compared import Compared
from lfpc_jax.evaluation.plots import plot_arms
from lfpc_jax.evaluation.ranks import correlations
from lfpc_jax.evaluation.sheet import markdown, printed


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
    comparisons = []
    for benchmark, tokens in budgets:
        comparison = Comparison(arms, benchmark, tokens, over_seeds=args.over_seeds)
        known = (*unknown, *comparable.unanswered(arms, benchmark, tokens), *comparison.notes)
        comparisons.append(
            Compared(
                benchmark,
                tokens,
                {
                    arm.name: {name: comparison.measured(arm.name, name) for name in MEASURES}
                    for arm in arms
                },
                {str(change): comparison.changed(change) for change in changes},
                correlations(comparison, args.rank or [arm.name for arm in arms]),
                known,
                args.over_seeds,
            )
        )
    sheets = [sheet for each in comparisons for sheet in each.sheets()]
    args.out.mkdir(parents=True, exist_ok=True)
    compared.write(comparisons, args.out / compared.FILE)
    (args.out / "comparison.md").write_text("\n".join(map(markdown, sheets)))
    plot_arms({each.title: each.measured for each in comparisons}, args.out / "comparison.png")
    Console(width=None if sys.stdout.isatty() else 200).print(printed(sheets))
    print(f"wrote {args.out / compared.FILE}, comparison.md and comparison.png")


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


if __name__ == "__main__":
    sys.exit(main())
