"""Chooses at which size each image of a set is shown in Stage I, by asking the model.

    lfpc select DATA... OUT --model DIR [--search bisect] [--n-answers 4]
    lfpc select DATA... OUT --model DIR --judge-url http://host:8000/v1 --judge-model NAME
    lfpc select DATA... OUT --strategy hard

DATA are sets in our layout or public ones, such as `deep_eyes:FOLDER` (see
lfpc_jax/data/sources.py). OUT becomes one set in our layout, which training reads: the same records
with `longest_side`; pictures that are files are left where they are. Beside it are `levels.jsonl`
(the answers at each level), `report.json` and `report.png`. If interrupted, rerun the same command
to resume; SIGTERM or Ctrl-C stops it with exit code 0. A command whose model, weights, budget,
prompt or records differ from those that it began with is refused. Several processes share the work.

Only a sure difference between answers counts. The rules are sure about options and numbers. Free
answers need a judge, or --exact if they come from a fixed vocabulary.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from lfpc_jax.cli import asking_flags, command, judge_flags, revision_flag
from lfpc_jax.cli.parsers.select_resolution import TURN_TOKENS, parser
from lfpc_jax.data import sources
from lfpc_jax.data.audit import audit
from lfpc_jax.data.digest import digest
from lfpc_jax.data.journal import joined
from lfpc_jax.data.rejected import Rejected, check_share, parted
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.infogap.choices import write_choices
from lfpc_jax.infogap.engine_answers import EngineAnswers
from lfpc_jax.infogap.provenance import FROM, SELECTION
from lfpc_jax.infogap.selection import Ask, Settings, check_journal, select
from lfpc_jax.infogap.summary import summarise, unmeasured
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.report.selection import plot
from lfpc_jax.rollout.engine import own_share
from lfpc_jax.run import progress
from lfpc_jax.run.claim import FolderClaim
from lfpc_jax.run.dialogues import toolless
from lfpc_jax.run.engines import direct_engine
from lfpc_jax.run.models import LoadedModel, assets_of, load_model
from lfpc_jax.trajectory import Picture, Record

_USUAL = replace(asking_flags.USUAL, turn_tokens=TURN_TOKENS)

_LONGEST_WAIT = 7 * 86400.0
"""Seconds for which processes wait for each other's choices; one that died is known sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(command.resumed, args, select_resolution))


def select_resolution(args: argparse.Namespace, claim: FolderClaim) -> int:
    # ------------------------------------------------------------------ the set
    args.model = revision_flag.named(args.model, args.revision)
    args = asking_flags.resolved(args, args.model, usual=_USUAL, turns=False)
    if (args.out / "meta.json").exists():
        raise ValueError(f"{args.out}: holds a finished selection; choose another folder")
    if args.strategy == "answer" and args.model is None:
        raise ValueError("the strategy `answer` asks a model: give --model, or another --strategy")
    settings = Settings(
        strategy=args.strategy,
        search=args.search,
        n_answers=args.n_answers,
        threshold=args.threshold,
        exact=args.exact,
        harshest=args.harshest,
        seed=args.seed,
        chunk=args.chunk,
    )
    asks = args.strategy == "answer"
    judge = judge_flags.judge_of(args, args.out / "verdicts") if asks else None
    name = " ".join(args.data)
    with progress.waiting(f"checking {name}"):
        entries = (entry for source in args.data for entry in sources.read(source))
        sound = audit(entries, name=name, max_share=args.max_lost)
    # ------------------------------------------------------------------ the model
    model = _load(args) if asks else None
    processor = _processor(args)
    about = {"image_tokens": args.image_tokens, "processor": _resizing(processor),
             "records": digest(sound.records)}  # fmt: skip
    if model is not None:
        about |= _asked(args, model)
    journal = _journal(args, jax.process_index())
    begun = about | {"processes": jax.process_count()}
    check_journal(journal, settings, begun)
    processes.agree({"selection": json.dumps([asdict(settings), begun])})
    ask = _nobody if model is None else _answers(args, model, processor, sound.records)
    # ------------------------------------------------------------------ the choices
    share = list(own_share(sound.records))
    with progress.bar("selecting", len(share)) as advance:
        select(
            share, ask, processor, settings, journal, advance,
            judge=judge, about=begun, still_ours=claim.check,
            stop=processes.stop_seen,
        )  # fmt: skip
    if processes.stop_requested(_LONGEST_WAIT):
        return command.stopped(args.out)
    multihost_utils.sync_global_devices("selected")
    # ------------------------------------------------------------------ the new set
    if jax.process_index() == 0:
        claim.check()
        _publish(args, settings, about, processor, sound.records, sound.rejected)
    multihost_utils.sync_global_devices("published")
    return 0


def _journal(args: argparse.Namespace, process: int) -> Path:
    return args.out / f"journal-{process}.jsonl"


def _processor(args: argparse.Namespace) -> ImageProcessor:
    """The image processor of the model. Without a model, the published models' processor, since
    only sizes are needed."""
    folder = None if args.model is None else assets_of(args.model)
    processor = ImageProcessor() if folder is None else ImageProcessor.from_folder(folder)
    return processor.with_tokens(args.image_tokens)


def _resizing(processor: ImageProcessor) -> str:
    """Everything that a size depends on, except the budget."""
    p = processor
    return f"patches of {p.patch}, {p.merge} x {p.merge} a token, from {p.min_pixels} pixels"


def _nobody(questions: Sequence[Record]) -> Sequence[Rejected]:
    raise AssertionError(f"{len(questions)} questions without a model")


def _mesh(args: argparse.Namespace) -> jax.sharding.Mesh:
    return rollout_mesh(args.tensor, devices=jax.local_devices())


def _load(args: argparse.Namespace) -> LoadedModel:
    return load_model(args.model, dtype=args.dtype, mesh=_mesh(args))


def _temperature(args: argparse.Namespace) -> float:
    if args.temperature is not None:
        return args.temperature
    return 0.0 if args.n_answers == 1 else 1.0


def _asked(args: argparse.Namespace, model: LoadedModel) -> dict[str, Any]:
    """Everything about the model and the judge that answers and verdicts depend on."""
    probe = Record("", "?", "A", Picture(), ("1", "2"))
    prompt = json.dumps(toolless(model.assets, _processor(args)).messages(probe))
    return {
        "dtype": model.cfg.dtype,
        "checkpoint": model.step,
        **model.identity,
        "prompt": hashlib.sha256(prompt.encode()).hexdigest()[:32],
        "turn_tokens": args.turn_tokens,
        "temperature": _temperature(args),
        "judge": args.judge_model,
    }


def _answers(
    args: argparse.Namespace,
    model: LoadedModel,
    processor: ImageProcessor,
    records: Sequence[Record],
) -> Ask:
    engine = direct_engine(
        model,
        processor,
        records,
        mesh=_mesh(args),
        slots=args.slots,
        image_tokens=args.image_tokens,
        turn_tokens=args.turn_tokens,
        temperature=_temperature(args),
    )
    return EngineAnswers(engine, n_answers=args.n_answers, seed=args.seed, stop=processes.stop_seen)


def _publish(
    args: argparse.Namespace,
    settings: Settings,
    about: dict[str, Any],
    processor: ImageProcessor,
    records: Sequence[Record],
    unsound: Sequence[Rejected],
) -> None:
    """Joins the journals of all processes, and writes the set that they chose."""
    processes = jax.process_count()
    begun = about | {"processes": processes}
    shares = [
        select(records[process::processes], _nobody, processor, settings,
               _journal(args, process), about=begun)
        for process in range(processes)
    ]  # fmt: skip
    choices = joined(shares)
    lost = [choice for choice in choices if isinstance(choice, Rejected)]
    check_share(" ".join(args.data), lost, len(choices), args.max_lost)
    summary = summarise([*choices, *unsound])
    origin = {
        FROM: args.data,
        "by": None if args.model is None else str(args.model),
        SELECTION: asdict(settings) | about,
    }
    plot(summary, args.out / "report.png")  # first, since a set that is there is finished
    count = write_choices(args.out, records, choices, summary, origin)
    gone, unsuited = map(len, parted([*lost, *unsound]))
    print(
        f"wrote {args.out}: {count} records, {summary.without_picture} of them without a "
        f"picture and so without a gap, {gone} lost, {unsuited} unsuited (videos, several "
        "pictures), "
        f"{summary.never_diverged:.1%} never diverged, {summary.asked} questions asked "
        f"({summary.scan} by a scan)"
    )
    judged = bool(args.judge_url)
    for warning in unmeasured(summary, settings, image_tokens=args.image_tokens, judged=judged):
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
