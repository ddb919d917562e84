"""Benchmarks of a model, and whether its crops matter.

    evaluate.py OUT --model DIR --data hr_bench_8k.tsv hr_bench_4k.parquet vstar_bench
    evaluate.py OUT --model DIR --data world/ --image-tokens 1024 16384 --direct --diagnose
    evaluate.py OUT --rescore --judge-url http://host:8000/v1 --judge-model NAME

DIR is a Hugging Face folder, one that convert.py wrote, or a training run. --data takes HR-Bench
(TSV or parquet), V* (its folder, or its JSON list) and sets in our layout, each also as NAME=PATH.
Crops are always cut from the original, whatever budget the shown image has.

Answers go into OUT as they come: after a kill the same command goes on where it was, and more
benchmarks, budgets and diagnostics may be added later. --rescore counts again what is there,
without the model. OUT gets results.json, results.png, timing.json, and trajectories/ that the
report shows.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
from jax.experimental import multihost_utils
from rich.console import Console

from lfpc_jax.checkpoint import assets
from lfpc_jax.cli import progress
from lfpc_jax.cli.model_folder import LoadedModel, load_model
from lfpc_jax.data.losses import MAX_SHARE
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.evaluation.alter import ALTERATIONS, alteration
from lfpc_jax.evaluation.benchmark import Benchmark, open_benchmark
from lfpc_jax.evaluation.conditions import DIRECT, TOOL, Asks
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.plots import plot
from lfpc_jax.evaluation.published import column_of
from lfpc_jax.evaluation.results import encoded, results, timing
from lfpc_jax.evaluation.run import ask
from lfpc_jax.evaluation.tables import tables
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rewards.judge import Judge, JudgeSettings
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.shapes import Buckets, RolloutShapes

_OBSERVATION = 256
_TEXT = Buckets((512, 2048))


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return evaluate(args)
    except (ValueError, OSError) as error:
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
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[1024], help="budgets")
    parser.add_argument("--crop-tokens", type=int, default=1024, help="budget of a crop")
    parser.add_argument("--direct", action="store_true", help="also without the tool")
    parser.add_argument(
        "--diagnose", nargs="*", choices=ALTERATIONS, metavar="ALTERATION",
        help=f"also with crops altered: {', '.join(ALTERATIONS)}; all, if none is named",
    )  # fmt: skip
    parser.add_argument("--rollouts", type=int, default=1, help="answers to each question")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-turns", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=2048, help="sampled over all turns")
    parser.add_argument("--convention", choices=get_args(Convention), default="shown")
    parser.add_argument("--limit", type=int, help="the first questions of each benchmark only")
    parser.add_argument("--max-lost", type=float, default=MAX_SHARE, help="share of questions")
    parser.add_argument("--slots", type=int, default=32, help="conversations at once")
    parser.add_argument("--rescore", action="store_true", help="ask nothing")
    parser.add_argument("--judge-url", default="", help="an OpenAI-compatible server, with its /v1")
    parser.add_argument("--judge-model", default="")
    parser.add_argument("--judge-key-variable", default="", help="environment variable of its key")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--tensor", type=int, default=1, help="devices to spread the model over")
    return parser


def evaluate(args: argparse.Namespace) -> int:
    journal = Journal(args.out, jax.process_index())
    judge = _judge(args)
    # ------------------------------------------------------------------ the answers
    if not args.rescore:
        if args.model is None or not args.data:
            raise ValueError("give --model and --data, or --rescore for the answers that are there")
        _answer(args, journal)
        multihost_utils.sync_global_devices("answered")
    # ------------------------------------------------------------------ what they come to
    if jax.process_index() == 0:
        with progress.waiting("scoring"):
            found, seconds = results(journal, judge), timing(journal)
        (args.out / "results.json").write_bytes(encoded(found))
        (args.out / "timing.json").write_bytes(encoded(seconds))
        plot(found, args.out / "results.png")
        Console(width=None if sys.stdout.isatty() else 160).print(tables(found, seconds))
        print(f"wrote {args.out / 'results.json'}")
    multihost_utils.sync_global_devices("scored")
    return 0


def _judge(args: argparse.Namespace) -> Judge | None:
    if bool(args.judge_url) != bool(args.judge_model):
        raise ValueError("a judge needs both --judge-url and --judge-model")
    if not args.judge_url:
        return None
    cache = str(args.out / "verdicts")
    return Judge(
        JudgeSettings(args.judge_url, args.judge_model, cache, key_variable=args.judge_key_variable)
    )


def _answer(args: argparse.Namespace, journal: Journal) -> None:
    benchmarks = _benchmarks(args)
    conditions = [TOOL, *([DIRECT] if args.direct else [])]
    if args.diagnose is not None:
        conditions += args.diagnose or ALTERATIONS
    for benchmark in benchmarks:
        for name in set(conditions) & set(ALTERATIONS):
            alteration(name, benchmark.records)  # refuses what it cannot alter, before any hour
    asker = Asker.load(args)
    known = asker.asked | {
        "model": str(args.model.absolute()),
        "checkpoint": _newest(args.model),
        "rollouts": args.rollouts,
        "seed": args.seed,
        "temperature": args.temperature,
        "max_turns": args.max_turns,
        "max_tokens": args.max_tokens,
        "crop_tokens": args.crop_tokens,
        "convention": args.convention,
    }
    journal.begin(known, {one.name: _about(one) for one in benchmarks})
    if journal.process == 0:
        asker.keep_assets(args.out / "assets")
    for tokens in dict.fromkeys(args.image_tokens):
        engine = asker.engine(tokens)
        for benchmark in benchmarks:
            ask(
                engine,
                benchmark,
                tokens,
                conditions,
                journal,
                rollouts=args.rollouts,
                seed=args.seed,
                bar=progress.bar,
            )


def _newest(model: Path) -> int | None:
    """The step that a training run has come to: once it goes on, its answers are others."""
    steps = [int(path.name) for path in (model / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=None)


def _benchmarks(args: argparse.Namespace) -> list[Benchmark]:
    made: list[Benchmark] = []
    for given in args.data:
        name, equals, path = given.partition("=")
        if not equals:
            name, path = "", given
        with progress.waiting(f"checking {path}"):
            one = open_benchmark(
                Path(path),
                pictures=args.out / "pictures",
                seed=args.seed,
                name=name,
                limit=args.limit,
                max_share=args.max_lost,
            )
        if one.name in [other.name for other in made]:
            raise ValueError(f"two benchmarks are called {one.name!r}; give one as NAME={path}")
        for loss in one.losses:
            print(f"{one.name}: left out {loss}", file=sys.stderr)
        made.append(one)
    return made


def _about(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "kind": benchmark.kind,
        "column": column_of(benchmark),
        "questions": len(benchmark.records),
        "digest": benchmark.digest,
        "losses": [str(loss) for loss in benchmark.losses],
    }


@dataclass(frozen=True, eq=False)
class Asker:
    """A loaded model, and the engines that it makes: one for each budget of the shown image."""

    args: argparse.Namespace
    model: LoadedModel
    mesh: jax.sharding.Mesh

    @classmethod
    def load(cls, args: argparse.Namespace) -> "Asker":
        mesh = make_mesh(data=-1, tensor=args.tensor, devices=jax.local_devices())
        return cls(args, load_model(args.model, dtype=args.dtype, mesh=mesh), mesh)

    @property
    def asked(self) -> dict[str, Any]:
        """What of the model decides how answers are read, and which they are."""
        return {"image_token": self.model.cfg.image_token, "dtype": self.model.cfg.dtype}

    def keep_assets(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        assets.copy(self.model.assets, folder)

    def engine(self, tokens: int) -> Asks:
        args = self.args
        tokenizer = Tokenizer.from_folder(self.model.assets)
        processor = ImageProcessor.from_folder(self.model.assets)
        crops = processor.with_tokens(args.crop_tokens)
        zoom = Zoom(crops, args.convention, aspect_limit=float(min(100, args.crop_tokens)))
        dialogue = Dialogue(
            tokenizer,
            ChatTemplate.from_folder(self.model.assets, tokenizer),
            processor.with_tokens(tokens),
            Toolbox((zoom,)),
        )
        rules = Rules(
            max_turns=args.max_turns,
            max_tokens=args.max_tokens,
            sampling=Sampling(temperature=args.temperature),
        )
        turns = (args.max_turns - 1) * (args.crop_tokens + _OBSERVATION)
        shapes = RolloutShapes(
            slots=args.slots,
            image_tokens=tokens,
            crop_tokens=args.crop_tokens,
            prompt_text=_TEXT,
            capacity=tokens + _TEXT.sizes[-1] + turns + args.max_tokens,
            prefill_rows=len(jax.local_devices()) // args.tensor,
            extend_rows=len(jax.local_devices()) // args.tensor,
            window=processor.window,
        )
        engine = Engine(self.model.cfg, dialogue, shapes, rules, mesh=self.mesh)
        engine.load(self.model.params)
        with progress.waiting(f"compiling for {tokens} tokens"):
            engine.warm_up()
        return engine
