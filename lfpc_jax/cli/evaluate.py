"""Benchmarks of a model, and whether its crops matter.

    evaluate.py OUT --model DIR --data hr_bench_8k.tsv hr_bench_4k.parquet vstar_bench
    evaluate.py OUT --model DIR --data world/ --image-tokens 1024 16384 --diagnose
    evaluate.py OUT --rescore --judge-url http://host:8000/v1 --judge-model NAME

DIR is a Hugging Face folder, one that convert.py wrote, or a training run's: RUN (its newest
checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best. --data takes HR-Bench (TSV or parquet),
V* (its folder, or its JSON list), sets in our layout, and READER:PATH (see `data.sources`), each
also as NAME=PATH. Crops are always cut from the original, whatever budget the shown image has.

Answers are written to OUT as they come. If interrupted, rerun the same command to resume; more
benchmarks, budgets and diagnostics may be added later. --rescore grades the stored answers again,
without the model. OUT gets results.json, results.png, scores.jsonl (a line for each question),
timing.json, and trajectories/, which the report shows. If the judge fails, the earlier results
stay. Several processes each ask a share. SIGTERM to any of them ends all with exit code 0, and the
same command resumes.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import jax
from rich.console import Console

from lfpc_jax.cli import asking_flags, judge_flags, process_flags
from lfpc_jax.data.rejected import MAX_SHARE
from lfpc_jax.distributed import processes
from lfpc_jax.evaluation.alter import ALTERATIONS, alteration
from lfpc_jax.evaluation.benchmark import Benchmark, open_benchmark
from lfpc_jax.evaluation.conditions import DIRECT, TOOL
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.published import about_benchmark
from lfpc_jax.evaluation.results import (
    Answers,
    check_judged,
    faults_of,
    grade_all,
    results,
    timing,
)
from lfpc_jax.evaluation.results_files import write_results
from lfpc_jax.evaluation.run import ask, in_order
from lfpc_jax.evaluation.tables import printed, sheets
from lfpc_jax.rewards.judge import Judge, JudgeFailed
from lfpc_jax.rollout.asking import digest
from lfpc_jax.run import progress
from lfpc_jax.run.claim import FolderClaim, held
from lfpc_jax.run.engines import Engines

_SEVERAL = ("image_tokens",)
_LINES_EVERY = 10.0
_JUDGING = 3600.0
"""Seconds for the judge's verdicts on one benchmark, budget and condition."""
_LONGEST_WAIT = 7 * 86400.0
"""Seconds for which processes wait for each other's answers; one that died is known sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        process_flags.start(args)
        with held(args.out) as claim:
            return evaluate(args, claim)
    except (ValueError, OSError) as error:
        processes.failed(str(error))
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", type=Path, metavar="DIR")
    parser.add_argument("--data", nargs="+", default=[], metavar="[NAME=]PATH")
    asking_flags.add(parser, several=_SEVERAL)
    parser.add_argument(
        "--modes", nargs="+", choices=(TOOL, DIRECT), default=[TOOL], help="direct has no tool"
    )
    parser.add_argument(
        "--diagnose", nargs="*", choices=ALTERATIONS, metavar="ALTERATION",
        help=f"also with crops altered: {', '.join(ALTERATIONS)}; all, if none is named",
    )  # fmt: skip
    parser.add_argument("--rollouts", type=int, default=1, help="answers to each question")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="the first questions of each benchmark only")
    parser.add_argument("--max-lost", type=float, default=MAX_SHARE, help="share of questions")
    parser.add_argument("--slots", type=int, default=32, help="conversations at once")
    parser.add_argument("--rescore", action="store_true", help="ask nothing")
    judge_flags.add(parser)
    parser.add_argument(
        "--max-unjudged", type=float, default=0.5,
        help="share of the answers put to the judge, or of all, that may stay without a verdict",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--tensor", type=int, default=1, help="devices to spread the model over")
    process_flags.add(parser)
    return parser


def evaluate(args: argparse.Namespace, claim: FolderClaim) -> int:
    journal = Journal(args.out, jax.process_index(), claim.check)
    if not 0 <= args.max_unjudged <= 1:
        raise ValueError(f"--max-unjudged is {args.max_unjudged}; it is a share, from 0 to 1")
    first = jax.process_index() == 0  # grades for all
    cache = args.out / "verdicts"
    judge = judge_flags.judge_of(args, cache, batch_seconds=_JUDGING) if first else None
    # ------------------------------------------------------------------ the answers
    if not args.rescore:
        if args.model is None or not args.data:
            raise ValueError("give --model and --data, or --rescore for the answers that are there")
        _answer(args, journal)
        if processes.stop_requested(_LONGEST_WAIT):
            print(f"stopped; rerun the same command to resume {args.out}")
            return 0
    # ------------------------------------------------------------------ what they come to
    if first:
        answers = _graded(args, journal, judge)
        claim.check()
        server = judge.server if judge is not None else ""
        counted = results(journal.settings(), answers, args.judge_model, server)
        seconds = timing(journal)
        write_results(journal, answers, counted, seconds)
        Console(width=None if sys.stdout.isatty() else 100).print(printed(sheets(counted, seconds)))
        print(f"wrote {args.out / 'results.json'}")
    return 0


def _graded(args: argparse.Namespace, journal: Journal, judge: Judge | None) -> Answers:
    """All answers, graded. Raises, with a remedy, if most could not be judged."""
    try:
        if judge is not None and not args.rescore:
            judge.check()  # once more: hours may have passed
        with progress.waiting("scoring") if judge is None else nullcontext():
            answers = grade_all(journal, judge)
        check_judged(answers, args.max_unjudged)
    except JudgeFailed as error:
        raise ValueError(
            f"{error}. Results of before stay as they are, and so do all answers and verdicts in "
            f"{args.out}: mend that, then run evaluate.py {args.out} --rescore with the flags of a "
            "judge (or without, to count what only a judge can tell as wrong; or with a higher "
            "--max-unjudged)"
        ) from error
    faults = [fault for part in answers.values() for fault in faults_of(part)]
    for kind, count in Counter(fault.kind for fault in faults).items():
        first = next(fault.reason for fault in faults if fault.kind == kind)
        print(f"{count} answers could not be judged ({kind}); the first: {first}", file=sys.stderr)
    return answers


def _answer(args: argparse.Namespace, journal: Journal) -> None:
    args = asking_flags.resolved(args, args.model, several=_SEVERAL)
    benchmarks = _benchmarks(args)
    altered = [] if args.diagnose is None else args.diagnose or ALTERATIONS
    conditions = in_order([*args.modes, *altered])
    for benchmark in benchmarks:
        for name in altered:
            alteration(name, benchmark.records)  # refuses what it cannot alter, before any hour
    engines = Engines.load(args)
    asked = engines.asked | {
        "model": str(args.model.absolute()),
        "rollouts": args.rollouts,
        "seed": args.seed,
        "temperature": args.temperature,
        "max_turns": args.max_turns,
        "turn_tokens": args.turn_tokens,
        "episode_tokens": args.episode_tokens,
        "crop_tokens": args.crop_tokens,
        "convention": args.convention,
        "prompt": digest(args.prompt),
    }
    about = {benchmark.name: about_benchmark(benchmark) for benchmark in benchmarks}
    processes.agree({"questions": json.dumps([asked, about, conditions, args.image_tokens])})
    journal.begin(asked, about)
    if journal.process == 0:
        engines.keep_assets(args.out / "assets")
    records = [record for benchmark in benchmarks for record in benchmark.records]
    for tokens in dict.fromkeys(args.image_tokens):
        engine = cache(partial(engines.engine, tokens, records))
        for benchmark in benchmarks:
            ask(
                engine,
                benchmark,
                tokens,
                conditions,
                journal,
                rollouts=args.rollouts,
                seed=args.seed,
                bar=lambda what, total: progress.bar(what, total, every=_LINES_EVERY),
                stop=processes.stop_seen,
            )


def _benchmarks(args: argparse.Namespace) -> list[Benchmark]:
    benchmarks: list[Benchmark] = []
    for given in args.data:
        name, equals, path = given.partition("=")
        if not equals:
            name, path = "", given
        with progress.waiting(f"checking {path}"):
            benchmark = open_benchmark(
                Path(path),
                pictures=args.out / "pictures",
                seed=args.seed,
                name=name,
                limit=args.limit,
                max_share=args.max_lost,
            )
        if benchmark.name in [other.name for other in benchmarks]:
            raise ValueError(
                f"two benchmarks are called {benchmark.name!r}; give one as NAME={path}"
            )
        for loss in benchmark.rejected:
            print(f"{benchmark.name}: left out {loss}", file=sys.stderr)
        benchmarks.append(benchmark)
    return benchmarks
