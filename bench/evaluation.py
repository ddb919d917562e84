"""What it is worth that an evaluation computes equal beginnings once.

    JAX_PLATFORMS=cpu python bench/evaluation.py [--json FILE]

A file in HR-Bench's format, every sample in four cycles, is evaluated under `tool`, `direct`,
`noise`, `blank` and `other` by a small random model that crops and answers: once with beginnings
and embeddings kept and altered episodes that go on from the recorded ones, and once with neither,
where every prompt, picture and first turn is computed again under every condition. Seconds are
those inside the device's programs, after they have compiled. Both must give the same `scores.jsonl`
byte for byte, and the same ids of every episode.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from rollout import SIZES
from rollout_world import World, as_configured, make_world, with_images

from lfpc_jax.data.benchmarks import write_hr_bench
from lfpc_jax.evaluation.benchmark import Benchmark, open_benchmark
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.results import grade_all
from lfpc_jax.evaluation.run import ask
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sizing import CHUNK, beginnings, in_buckets, sizes, text_buckets
from lfpc_jax.trajectory import Picture, Record

CONDITIONS = ("tool", "noise", "blank", "other")
OPTIONS = ("red", "green", "blue", "white")


@dataclass
class Anew:
    """An engine that can only run one condition after the other."""

    engine: Engine

    def run(self, records: Sequence[Record], *, rollouts: int, seed: int) -> Any:
        return self.engine.run(records, rollouts=rollouts, seed=seed)

    @property
    def dialogue(self) -> Dialogue:
        return self.engine.dialogue

    @dialogue.setter
    def dialogue(self, dialogue: Dialogue) -> None:
        self.engine.dialogue = dialogue

    @property
    def rules(self) -> Rules:
        return self.engine.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self.engine.rules = rules


def main() -> None:
    args = _parser().parse_args()
    made = make_world(*SIZES[args.size], slots=args.slots, chunk=CHUNK)
    world = with_images(made, args.image_tokens, capacity=8 * args.image_tokens + 1024)
    with tempfile.TemporaryDirectory(prefix="evaluation-bench-") as name:
        folder = Path(name)
        write_hr_bench(folder / "hr_bench.tsv", _samples(args.samples, args.side))
        benchmark = open_benchmark(
            folder / "hr_bench.tsv", pictures=folder / "pictures", seed=0, name="hr_bench"
        )
        ways = {
            name: _evaluated(world, benchmark, folder / name, args, keep=name == "kept")
            for name in ("kept", "anew")
        }
    kept, anew = ways["kept"], ways["anew"]
    figures: dict[str, Any] = {
        "samples": args.samples,
        "questions": len(benchmark.records),
        "device_seconds": {name: way["seconds"] for name, way in ways.items()},
        "programs": {name: way["programs"] for name, way in ways.items()},
        "prompts": {name: way["prompts"] for name, way in ways.items()},
        "sampled": {name: way["sampled"] for name, way in ways.items()},
        "ratio": anew["seconds"] / kept["seconds"],
        "same_scores": kept["scores"] == anew["scores"],
        "same_ids": kept["ids"] == anew["ids"],
        "episodes": len(kept["ids"]),
        "late": kept["late"] + anew["late"],
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--image-tokens", type=int, default=1024)
    parser.add_argument("--side", type=int, default=2048, help="of the square pictures, in pixels")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--together", type=int, default=4, help="prompts, or observations")
    parser.add_argument("--episode-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _samples(count: int, side: int) -> list[Record]:
    """Pictures of smooth noise, which are small as files."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        small = PIL.Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8))
        file = io.BytesIO()
        small.resize((side, side), PIL.Image.Resampling.BICUBIC).save(file, "JPEG")
        question = f"Which colour is the small mark {number}?"
        picture = Picture(data=file.getvalue())
        category = ("single", "cross")[number % 2]
        answer = "ABCD"[number % 4]
        made.append(Record(str(number), question, answer, picture, OPTIONS, category=category))
    return made


def _evaluated(
    world: World, benchmark: Benchmark, out: Path, args: argparse.Namespace, *, keep: bool
) -> dict[str, Any]:
    rules = Rules(episode_tokens=args.episode_tokens, max_turns=3)
    both = world.dialogue, without_tool(world.dialogue)
    seen = {size for dialogue in both for size in sizes(dialogue, benchmark.records)}
    texts = text_buckets([text for _, text in seen])
    shapes = replace(
        as_configured(world.shapes, rules, 1),
        prompt_text=texts,
        prefixes=0,
        prefill_rows=args.together,
        extend_rows=args.together,
        kept=args.together if keep else 0,
    )
    if keep:
        seen = {size for dialogue in both for size in beginnings(dialogue, benchmark.records)}
    engine = Engine(world.cfg, world.dialogue, shapes, rules)
    engine.load(world.params)
    engine.warm_up(in_buckets(seen, engine.shapes))
    engine.slots.seconds.clear()
    journal = Journal(out)
    asked = {"image_token": world.cfg.image_token, "rollouts": 1}
    journal.begin(asked, {benchmark.name: {"kind": benchmark.kind, "digest": benchmark.digest}})
    ask(
        lambda: engine if keep else Anew(engine),
        benchmark,
        args.image_tokens,
        CONDITIONS,
        journal,
        rollouts=1,
        seed=args.seed,
    )
    journal.write_scores(grade_all(journal))
    programs = {name: s for name, s in engine.slots.seconds.items() if name != "waiting"}
    return {
        "seconds": sum(programs.values()),
        "programs": programs,
        "prompts": engine.stats.prompts,
        "sampled": engine.stats.sampled,
        "scores": (out / "scores.jsonl").read_bytes(),
        "ids": {
            (part.name, group.record.id): group.trajectories[0].ids.tolist()
            for part in journal.parts()
            for group in journal.read(part, 1)
        },
        "late": len(engine.slots.programs.late),
    }


if __name__ == "__main__":
    main()
