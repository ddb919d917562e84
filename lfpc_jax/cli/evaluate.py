"""Benchmarks of a model, and whether its crops matter.

    lfpc evaluate OUT --model DIR --data hr_bench_8k.tsv hr_bench_4k.parquet vstar_bench
    lfpc evaluate OUT --model DIR --data world/ --image-tokens 1024 16384 --diagnose
    lfpc evaluate OUT --rescore --judge-url http://host:8000/v1 --judge-model NAME
    lfpc evaluate OUT --model CROPPER --target DIR --data text_vqa_boxes:rows.parquet \\
        --modes tool direct --boxes true centre random whole rel_att --expand 2 4 9 16

    lfpc evaluate OUT --endpoint http://host:8000/v1 --endpoint-model NAME --model DIR --data FILE

DIR is a Hugging Face folder, one that lfpc convert wrote, or a training run's: RUN (its newest
checkpoint), RUN/checkpoints/STEP or RUN/checkpoints/best. --data takes HR-Bench (TSV or parquet),
V* (its folder, or its JSON list), sets in our layout, and READER:PATH (see `data.sources`), each
also as NAME=PATH. Crops are always cut from the original, whatever budget the shown image has.

With --endpoint a server has the model, and the crop loop runs here: DIR gives the tokenizer, the
template, the processor and how the model is asked; its weights are not read (see
`evaluation.endpoint`).

With --target (or --target-url and --target-model) a frozen model answers, and --model is the crop
network whose boxes it is shown. It is also shown no crop (--modes direct), boxes that no network
proposes (--boxes), true boxes with their area times a factor (--expand), and altered crops
(--diagnose). --model may be left out if no boxes are to be predicted. A question that the target
could not be asked has no answer; the same command asks it again.

Answers are written to OUT as they come. If interrupted, rerun the same command to resume; more
benchmarks, budgets, boxes and diagnostics may be added later. --rescore grades the stored answers
again, without the model. OUT gets results.json, results.png, scores.jsonl (a line for each
question), timing.json, and trajectories/, which the report shows; expansion.png if true boxes were
expanded. If the judge fails, the earlier results stay. Several processes each ask a share. SIGTERM
or Ctrl-C to any of them ends all with exit code 0, and the same command resumes.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from lfpc_jax.cli import asking_flags, command, judge_flags, revision_flag, target_flags
from lfpc_jax.cli.parsers.evaluate import SEVERAL, parser
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.distributed import processes
from lfpc_jax.evaluation.alter import ALTERATIONS, alteration
from lfpc_jax.evaluation.benchmark import Benchmark, open_benchmark
from lfpc_jax.evaluation.conditions import (
    DIRECT,
    REL_ATT,
    TOOL,
    Asks,
    AsksTarget,
    attended,
    expanded,
    factor_of,
    is_altered,
)
from lfpc_jax.evaluation.journal import CROPVLM, WITH_BOXES, Journal
from lfpc_jax.evaluation.published import about_benchmark, cropvlm_column_of
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
from lfpc_jax.evaluation.share import own_questions
from lfpc_jax.evaluation.sheet import printed
from lfpc_jax.evaluation.tables import sheets
from lfpc_jax.rewards.judge import Judge, JudgeFailed
from lfpc_jax.rollout.asking import digest
from lfpc_jax.run import progress
from lfpc_jax.run.claim import FolderClaim
from lfpc_jax.run.endpoints import EndpointEngines
from lfpc_jax.run.engines import Engines
from lfpc_jax.run.models import shown_path
from lfpc_jax.run.targets import TargetEngines
from lfpc_jax.trajectory import Record

_LINES_EVERY = 10.0
_JUDGING = 3600.0
"""Seconds for the judge's verdicts on one benchmark, budget and condition."""
_LONGEST_WAIT = 7 * 86400.0
"""Seconds for which processes wait for each other's answers; one that died is known sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(command.resumed, args, evaluate))


def evaluate(args: argparse.Namespace, claim: FolderClaim) -> int:
    journal = Journal(args.out, jax.process_index(), claim.check)
    if not 0 <= args.max_unjudged <= 1:
        raise ValueError(f"--max-unjudged is {args.max_unjudged}; it is a share, from 0 to 1")
    first = jax.process_index() == 0  # grades for all
    cache = args.out / "verdicts"
    judge = judge_flags.judge_of(args, cache, batch_seconds=_JUDGING) if first else None
    # ------------------------------------------------------------------ the answers
    if not args.rescore:
        _check_endpoint(args)
        if not args.data or (args.model is None and not args.target and not args.target_url):
            raise ValueError(
                "give --model and --data (or --target and --data), or --rescore for the answers "
                "that are there"
            )
        _answer(args, journal)
        if processes.stop_requested(_LONGEST_WAIT):
            return command.stopped(args.out)
    # ------------------------------------------------------------------ what they come to
    if first:
        answers = _graded(args, journal, judge)
        claim.check()
        server = judge.server if judge is not None else ""
        counted = results(journal.settings(), answers, args.judge_model, server)
        seconds = timing(journal)
        write_results(journal, answers, counted, seconds)
        Console(width=None if sys.stdout.isatty() else 160).print(printed(sheets(counted, seconds)))
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
            f"{args.out}: mend that, then run lfpc evaluate {args.out} --rescore with the flags of "
            "a judge (or without, to count what only a judge can tell as wrong; or with a higher "
            "--max-unjudged)"
        ) from error
    faults = [fault for part in answers.values() for fault in faults_of(part)]
    for kind, count in Counter(fault.kind for fault in faults).items():
        first = next(fault.reason for fault in faults if fault.kind == kind)
        print(f"{count} answers could not be judged ({kind}); the first: {first}", file=sys.stderr)
    return answers


def _answer(args: argparse.Namespace, journal: Journal) -> None:
    args.model = revision_flag.named(args.model, args.revision)
    settings = target_flags.settings_of(args, args.out / "said")
    conditions = _conditions(args, settings)
    if args.model is not None or settings is None:
        usual = asking_flags.USUAL
        if settings is not None:  # what the target would refuse as too narrow is no valid box
            args.crop_tokens, usual = settings.crop_tokens, asking_flags.BOX_USUAL
        args = asking_flags.resolved(args, args.model, usual=usual, several=SEVERAL)
    benchmarks = _benchmarks(args)
    for benchmark in benchmarks:
        for name in filter(is_altered, conditions):
            alteration(name, benchmark.records)  # refuses what it cannot alter, before any hour
    _check_true_boxes(benchmarks, conditions)
    records = [record for benchmark in benchmarks for record in benchmark.records]
    engines: Engines | EndpointEngines | TargetEngines
    if settings is not None:
        engines = TargetEngines.load(args, settings, records)
    else:
        engines = (EndpointEngines if args.endpoint else Engines).load(args)
    asked = engines.asked | {"rollouts": args.rollouts, "seed": args.seed}
    if args.model is not None:
        asked |= _asking(args)
    about = {benchmark.name: about_benchmark(benchmark) for benchmark in benchmarks}
    budgets = dict.fromkeys(args.image_tokens if settings is None else [settings.image_tokens])
    if settings is not None:
        if args.model is not None:
            [asked["image_tokens"]] = args.image_tokens
        for benchmark in benchmarks:
            boxed = sum(bool(record.targets) for record in benchmark.records)
            about[benchmark.name] |= {WITH_BOXES: boxed, CROPVLM: cropvlm_column_of(benchmark)}
    processes.agree({"questions": json.dumps([asked, about, conditions, [*budgets]])})
    journal.begin(asked, about)
    if journal.process == 0:
        engines.keep_assets(args.out / "assets")
    unanswered: list[str] = []
    for tokens in budgets:
        engine = _once(engines.engine, tokens, records)
        for benchmark in benchmarks:
            unanswered += ask(
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
    share = sum(len(own_questions(benchmark.records)) for benchmark in benchmarks)
    _tell(unanswered, share * len(conditions), args)


def _check_endpoint(args: argparse.Namespace) -> None:
    """Raises ValueError for flags of a server that contradict others, or lack some."""
    if bool(args.endpoint) != bool(args.endpoint_model):
        raise ValueError("a model on a server needs both --endpoint and --endpoint-model")
    if args.endpoint and (args.target or args.target_url):
        raise ValueError(
            f"--endpoint {args.endpoint}: a crop network that a server has cannot be asked; give "
            "it as --model alone, or leave --target out"
        )
    if args.endpoint and args.model is None:
        raise ValueError(
            f"--endpoint {args.endpoint}: give the model's folder as --model, too; its tokenizer, "
            "template and processor are read, and no weights"
        )


def _once(
    make: Callable[[int, Sequence[Record]], Asks | AsksTarget],
    tokens: int,
    records: Sequence[Record],
) -> Callable[[], Asks | AsksTarget]:
    """Makes what is asked at a budget when it is first needed."""
    return cache(lambda: make(tokens, records))


def _conditions(args: argparse.Namespace, settings: TargetSettings | None) -> tuple[str, ...]:
    """The conditions that the flags ask for. Raises ValueError for flags that contradict."""
    altered = [] if args.diagnose is None else args.diagnose or ALTERATIONS
    modes = getattr(args, "modes", [DIRECT if settings and args.model is None else TOOL])
    rel_att = REL_ATT in args.boxes
    boxes = [*args.boxes, *map(expanded, args.expand), *map(attended, args.layer)]
    if settings is None and (boxes or args.likelihoods):
        raise ValueError(
            "--boxes, --expand, --layer and --likelihoods are of a target model; give --target "
            "DIR, or --target-url and --target-model"
        )
    if settings is not None and args.model is None and (altered or TOOL in modes):
        raise ValueError(
            "--modes tool and --diagnose show the target what a crop network proposes; give "
            "--model CROPPER, or leave them out"
        )
    if settings is not None and settings.url and (args.likelihoods or args.layer or rel_att):
        raise ValueError(
            f"--target-url {settings.url}: rel_att and --likelihoods need the weights of the "
            "target; give a local one by --target DIR, or leave them out"
        )
    if settings is not None and hasattr(args, "crop_tokens"):
        raise ValueError(
            f"--crop-tokens {args.crop_tokens}: crops are shown to the target; give "
            "--target-crop-tokens"
        )
    if settings is not None and len(getattr(args, "image_tokens", [])) > 1:
        raise ValueError(
            f"--image-tokens {args.image_tokens}: of a crop network one budget is evaluated at a "
            "time; give one, and another OUT for another"
        )
    return in_order([*modes, *boxes, *altered])


def _check_true_boxes(benchmarks: Sequence[Benchmark], conditions: Sequence[str]) -> None:
    """Raises ValueError if true boxes are to be shown and no question has one. Says how many have
    one, if not all do."""
    true = [condition for condition in conditions if factor_of(condition) is not None]
    if not true:
        return
    boxed = {b.name: sum(bool(record.targets) for record in b.records) for b in benchmarks}
    if not any(boxed.values()):
        raise ValueError(
            f"{', '.join(true)}: no question of {', '.join(boxed)} has a true box; name a set with "
            "boxes, such as text_vqa_boxes:FILE or text_vqa:FILE:BOXES, or leave these out"
        )
    for benchmark in benchmarks:
        if (few := boxed[benchmark.name]) < len(benchmark.records) and jax.process_index() == 0:
            print(
                f"{benchmark.name}: {few} of {len(benchmark.records)} questions have a true box; "
                f"{', '.join(true)} are of these alone",
                file=sys.stderr,
            )


def _asking(args: argparse.Namespace) -> dict[str, Any]:
    """How the model is asked, as evaluation.json records it."""
    return {
        "model": shown_path(args.model),
        "temperature": args.temperature,
        "max_turns": args.max_turns,
        "turn_tokens": args.turn_tokens,
        "episode_tokens": args.episode_tokens,
        "crop_tokens": args.crop_tokens,
        "convention": args.convention,
        "prompt": digest(args.prompt),
    }


def _tell(unanswered: Sequence[str], asked: int, args: argparse.Namespace) -> None:
    """Prints how many questions could not be asked. Raises ValueError if it was most."""
    if not unanswered:
        return
    whose = "server" if args.endpoint else "target"
    told = (
        f"{len(unanswered)} questions could not be put to the {whose}, and have no answer; the "
        f"first: {unanswered[0]}"
    )
    if len(unanswered) > args.max_unjudged * asked:
        raise ValueError(f"{told}. Mend that, and rerun the same command to ask them again")
    print(f"{told}. Rerun the same command to ask them again", file=sys.stderr)


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


if __name__ == "__main__":
    sys.exit(main())
