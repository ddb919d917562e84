"""Chooses at which size each image of a set is shown in Stage I, by asking the model.

    select_resolution.py DATA... OUT --model DIR [--search bisect] [--n-answers 4]
    select_resolution.py DATA... OUT --model DIR --judge-url http://host:8000/v1 --judge-model NAME
    select_resolution.py DATA... OUT --strategy hard

DATA are sets in our layout or public ones, such as `deep_eyes:FOLDER` (see
lfpc_jax/data/sources.py). OUT becomes one set in our layout, which training reads: the same records
with `longest_side`; pictures that are files are left where they are. Beside it are
`levels.jsonl` (what each level answered), `report.json` and `report.png`. A run that was killed
goes on where it was with the same command, and with no other: it is refused where the model, its
weights, a budget, the prompt or the records are not what it began with. Several processes share
the work.

Only a sure difference of answers counts. Where options or numbers are asked for the rules are sure;
free answers need a judge, or --exact if they come from a fixed vocabulary.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import jax
from jax.experimental import multihost_utils

from lfpc_jax.cli import asking_flags, judge_flags, process_flags
from lfpc_jax.data import layout, sources
from lfpc_jax.data.audit import audit
from lfpc_jax.data.digest import digest
from lfpc_jax.data.rejected import MAX_SHARE, Rejected, check_share, parted
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.infogap.engine_answers import EngineAnswers
from lfpc_jax.infogap.levels import HARSHEST, Search
from lfpc_jax.infogap.provenance import FROM, SELECTION
from lfpc_jax.infogap.selection import Ask, Selected, Settings, Strategy, check_journal, select
from lfpc_jax.infogap.summary import Summary, summarise
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.report.selection import plot
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Engine, own_share
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.run import progress
from lfpc_jax.run.claim import FolderClaim, held
from lfpc_jax.run.dialogues import sizes, text_buckets, together
from lfpc_jax.run.models import LoadedModel, assets_of, load_model
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Picture, Record

_MANY = 0.1
"""The share of records or of answers that is worth a warning."""
_USUAL = replace(asking_flags.USUAL, turn_tokens=512)
"""Answers without the tool are short."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        process_flags.start(args)
        with held(args.out) as claim:
            return select_resolution(args, claim)
    except (ValueError, OSError) as error:
        processes.failed(str(error), 1)
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Settings()
    parser.add_argument("data", nargs="+", metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", type=Path, metavar="DIR", help="needed by the strategy `answer`")
    parser.add_argument("--strategy", choices=get_args(Strategy), default=default.strategy)
    parser.add_argument("--search", choices=get_args(Search), default=default.search)
    parser.add_argument("--n-answers", type=int, default=default.n_answers, help="at each level")
    parser.add_argument("--threshold", type=float, default=default.threshold)
    parser.add_argument(
        "--exact", action="store_true", help="answers that differ in wording are different"
    )
    judge_flags.add(parser)
    parser.add_argument("--harshest", type=int, default=HARSHEST, help="longest side, pixels")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--chunk", type=int, default=default.chunk, help="records at a time")
    asking_flags.add(parser, "image_tokens", "turn_tokens", usual=_USUAL)
    parser.add_argument("--temperature", type=float, help="default: 0 for one answer, else 1")
    parser.add_argument("--slots", type=int, default=32, help="answers at once")
    parser.add_argument("--max-lost", type=float, default=MAX_SHARE, help="share of records")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--tensor", type=int, default=1, help="devices to spread the model over")
    process_flags.add(parser)
    return parser


def select_resolution(args: argparse.Namespace, claim: FolderClaim) -> int:
    # ------------------------------------------------------------------ the set
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
    own = list(own_share(sound.records))
    with progress.bar("selecting", len(own)) as advance:
        select(
            own, ask, processor, settings, journal, advance,
            judge=judge, about=begun, still_ours=claim.check,
        )  # fmt: skip
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
    """Without a model only sizes are needed."""
    folder = None if args.model is None else assets_of(args.model)
    made = ImageProcessor() if folder is None else ImageProcessor.from_folder(folder)
    return made.with_tokens(args.image_tokens)


def _resizing(processor: ImageProcessor) -> str:
    """All that a size depends on, beside the budget."""
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
    """Who is asked and how: all that answers, and verdicts on them, depend on."""
    probe = Record("", "?", "A", Picture(), ("1", "2"))
    prompt = json.dumps(_dialogue(model, _processor(args)).messages(probe))
    return {
        "dtype": model.cfg.dtype,
        "checkpoint": model.step,
        **model.identity,
        "prompt": hashlib.sha256(prompt.encode()).hexdigest()[:32],
        "turn_tokens": args.turn_tokens,
        "temperature": _temperature(args),
        "judge": args.judge_model,
    }


def _dialogue(model: LoadedModel, processor: ImageProcessor) -> Dialogue:
    tokenizer = Tokenizer.from_folder(model.assets)
    chat = ChatTemplate.from_folder(model.assets, tokenizer)
    return Dialogue(tokenizer, chat, processor, Toolbox(()))


def _answers(
    args: argparse.Namespace,
    model: LoadedModel,
    processor: ImageProcessor,
    records: Sequence[Record],
) -> Ask:
    mesh = _mesh(args)
    dialogue = _dialogue(model, processor)
    with progress.waiting(f"measuring {len(records)} questions"):
        text = text_buckets({text for _, text in sizes(dialogue, records)})
    shapes = RolloutShapes(
        slots=args.slots,
        image_tokens=args.image_tokens,
        prompt_text=text,
        capacity=args.image_tokens + text.sizes[-1] + args.turn_tokens,
        prefill_rows=together(args.slots, groups=mesh.shape["data"]),
        window=processor.window,
    )
    sampling = Sampling(temperature=_temperature(args))
    rules = Rules(max_turns=1, turn_tokens=args.turn_tokens, sampling=sampling)
    engine = Engine(model.cfg, dialogue, shapes, rules, mesh=mesh)
    engine.load(model.params)
    with progress.waiting("compiling"):
        engine.warm_up()
    return EngineAnswers(engine, n_answers=args.n_answers, seed=args.seed)


def _publish(
    args: argparse.Namespace,
    settings: Settings,
    about: dict[str, Any],
    processor: ImageProcessor,
    records: Sequence[Record],
    unsound: Sequence[Rejected],
) -> None:
    """Every process's journal, put together in the order of the set."""
    shares = []
    for process in range(jax.process_count()):
        own = records[process :: jax.process_count()]
        begun = about | {"processes": jax.process_count()}
        shares.append(
            select(own, _nobody, processor, settings, _journal(args, process), about=begun)
        )
    found = [shares[place % len(shares)][place // len(shares)] for place in range(len(records))]
    lost = [one for one in found if isinstance(one, Rejected)]
    check_share(" ".join(args.data), lost, len(found), args.max_lost)
    with (args.out / "levels.jsonl").open("w") as file:
        for one in found:
            if isinstance(one, Selected):
                file.write(json.dumps(asdict(one)) + "\n")
    summary = summarise([*found, *unsound])
    (args.out / "report.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    plot(summary, args.out / "report.png")
    chosen = (
        replace(record, longest_side=one.longest_side)
        for record, one in zip(records, found, strict=True)
        if isinstance(one, Selected)
    )
    made = {
        FROM: args.data,
        "by": None if args.model is None else str(args.model),
        SELECTION: asdict(settings) | about,
    }
    count, _ = layout.write(args.out, chosen, copy_files=False, about=made)
    gone, unsuited = map(len, parted([*lost, *unsound]))
    print(
        f"wrote {args.out}: {count} records, {summary.without_picture} of them without a "
        f"picture and so without a gap, {gone} lost, {unsuited} unsuited (videos, several "
        "pictures), "
        f"{summary.never_diverged:.1%} never diverged, {summary.asked} questions asked "
        f"({summary.scan} by a scan)"
    )
    for warning in _warnings(args, summary):
        print(f"warning: {warning}", file=sys.stderr)


def _warnings(args: argparse.Namespace, summary: Summary) -> Iterator[str]:
    """What of a selection was not measured, and what to do."""
    in_full = summary.answers.get(0)
    asked = in_full.total // args.n_answers if in_full else 0
    remedy = (
        "a model that calls a tool without having one must see prompts without it first (see "
        "`without_tool` in docs/training.md), one that is cut off needs more --turn-tokens"
    )
    if summary.unanswered > _MANY * asked:
        yield (
            f"{summary.unanswered} of {asked} records were not answered even in full, so their gap "
            f"was not measured and is the harshest: look at levels.jsonl (`unanswered`); {remedy}"
        )
    below = [one for level, one in summary.answers.items() if level]
    none, given = sum(one.unanswered for one in below), sum(one.total for one in below)
    if none > _MANY * given:
        yield (
            f"{none} of {given} answers at levels under the original are none, and do not count as "
            f"different: look at levels.jsonl (`answers`); {remedy}"
        )
    undecided = sum(one.undecided for one in below)
    told = given - none
    if undecided > _MANY * told:
        judged = "" if args.judge_url else "; give a --judge-url, or --exact for a fixed vocabulary"
        yield (
            f"{undecided} of {told} answers could not be compared with the original's, and do not "
            f"count as different{judged}"
        )
    whole = summary.levels.get(0, 0)
    pictured = summary.records - summary.without_picture
    if args.strategy != "none" and whole > _MANY * pictured:
        yield (
            f"{whole} of {pictured} records have no gap: --image-tokens {args.image_tokens} "
            f"shows them no larger than --harshest {args.harshest} pixels; lower that, raise the "
            "budget, or leave them out"
        )
