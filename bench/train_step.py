"""An update compared with the same loss in PyTorch, on the same CPU, weights and tokens.

    JAX_PLATFORMS=cpu python bench/train_step.py [--json FILE] [--without sharing pictures ...]

The batches are real trajectories (several turns, uneven lengths, a shown image of 256 tokens that a
group shares, crops) and dense rows of 512 text tokens. Both sides run the forward pass, the clipped
surrogate, the backward pass, clipping by global norm and AdamW, in float32 with two threads. The
figures are medians of runs that alternate. PyTorch runs transformers' model on batches that are
padded to their longest episode; its eager attention and its scaled-dot-product attention are both
tried, and the faster one counts. Compilation is printed separately. Before anything is timed, the
loss and the gradient norm of both sides must agree.

With `--without`, our update also runs with one part of it switched off: a group's prompt computed
once (sharing), each distinct picture encoded once (pictures; off, once an episode), logits only of
sampled tokens (places), or attention only over blocks with a visible pair (blocks).
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from rich.console import Console
from rich.table import Table
from rollout import SIZES
from rollout_reference import Reference
from rollout_world import World, make_world, records

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.advantage import group_advantages
from lfpc_jax.grpo.items import counts, items_of
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.packing import Item, MiniBatch, SeenPicture, pack
from lfpc_jax.model import attention_xla
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Group, Picture, Record, Trajectory

RATE = 1e-5
PARTS = ("sharing", "pictures", "places", "blocks")
Step = Callable[[], tuple[float, float]]
"""A full update, from packing to new weights; its loss and gradient norm."""


@dataclass(frozen=True)
class Case:
    """What is learned from, and how it is laid out on our side and on theirs."""

    name: str
    items: list[Item]
    shapes: TrainShapes
    batch: int

    @property
    def tokens(self) -> int:
        return sum(len(item.trajectory.ids) for item in self.items)

    def without(self, part: str) -> "Case":
        """The case with a part of our update switched off."""
        if part == "sharing":
            return replace(self, shapes=replace(self.shapes, shared=False))
        if part == "places":
            return replace(self, shapes=replace(self.shapes, places=self.shapes.row_tokens))
        if part == "pictures":
            return replace(self, items=[_alone(item) for item in self.items])
        return self


def _alone(item: Item) -> Item:
    """The item with pictures that no other shows."""
    episode = item.trajectory.record, item.trajectory.rollout
    pictures = [SeenPicture((episode, n), p.pixels) for n, p in enumerate(item.pictures)]
    return replace(item, pictures=tuple(pictures))


def main() -> None:
    args = _parser().parse_args()
    torch.set_num_threads(2)
    world = make_world(*SIZES[args.size], slots=16, chunk=8)
    cases = [CASES[name](world, args) for name in args.cases]
    figures: dict[str, Any] = {}
    for case in cases:
        figures[case.name] = _measure(world, case, args)
        figures[f"ratio_{case.name}"] = figures[case.name]["ratio"]
    _print(figures, [case.name for case in cases])
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--cases", choices=CASES, nargs="+", default=[*CASES])
    parser.add_argument("--records", type=int, default=3)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8, help="dense rows; and PyTorch's batch")
    parser.add_argument("--dense-rows", type=int, default=4, help="of them at once on our side")
    parser.add_argument("--row-tokens", type=int, help="of packed rows; chosen if left out")
    parser.add_argument("--windows", type=int, help="of pictures at once; chosen if left out")
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="none")
    parser.add_argument("--without", choices=PARTS, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


# ---------------------------------------------------------------- what is learned from


def _trajectories(world: World, args: argparse.Namespace) -> Case:
    engine = Engine(world.cfg, world.dialogue, world.shapes, Rules(episode_tokens=256))
    engine.load(world.params)
    found = list(engine.run(records(args.records), rollouts=args.rollouts, seed=0))
    items = _items(found)

    def case(row_tokens: int, windows: int) -> Case:
        shapes = TrainShapes.of(
            world.shapes,
            max_turns=Rules().max_turns,
            rows=1,
            row_tokens=row_tokens,
            windows=windows,
            shared=True,
        )
        return Case("trajectories", items, shapes, args.rows)

    def tokens(row_tokens: int) -> int:
        return _packed(world, case(row_tokens, 0)).filling.all_tokens

    def windows(count: int) -> int:
        return _packed(world, case(0, count)).filling.all_windows

    # As `plan.py --search` does: the size with which the fewest are computed, and of these the
    # smallest.
    least, span = -(-world.shapes.capacity // 512) * 512, case(0, 0).shapes.span
    row_tokens = args.row_tokens or min(range(least, 3 * least + 1, 512), key=tokens)
    return case(row_tokens, args.windows or min(range(4 * span, 10 * span + 1, span), key=windows))


def _dense(world: World, args: argparse.Namespace) -> Case:
    rng = np.random.default_rng(0)
    allowed = np.flatnonzero(allowed_ids(world.dialogue.tokenizer, world.cfg.text.vocab))
    trajectories = []
    for number in range(args.rows):
        ids = rng.choice(allowed, 512).astype(np.int32)
        sampled = np.arange(512) > 0
        logprobs = np.where(sampled, -7, 0).astype(np.float32)
        trajectories.append(
            Trajectory(
                "dense",
                number,
                ids,
                sampled,
                logprobs,
                logprobs,
                (0, 0),
                (0, 0),
                (),
                "answered",
                None,
            )
        )
    record = Record("dense", "?", "a", Picture())
    group = Group(record, tuple(trajectories), crops=((),) * args.rows)
    shapes = TrainShapes(512, args.dense_rows, places=512, windows=1, span=1)
    return Case("dense", _items([group]), shapes, args.rows)


CASES = {"trajectories": _trajectories, "dense": _dense}


def _items(groups: Sequence[Group]) -> list[Item]:
    """Half of each group did well."""
    alternating = [
        replace(
            group,
            advantages=group_advantages([float(i % 2) for i in range(len(group.trajectories))]),
        )
        for group in groups
    ]
    episodes, tokens = (sum(n) for n in zip(*map(counts, alternating)))
    return items_of(alternating, aggregate="token", episodes=episodes, tokens=tokens)


# ---------------------------------------------------------------- both sides


def _measure(world: World, case: Case, args: argparse.Namespace) -> dict[str, Any]:
    sides = {"jax": _ours(world, case, args)}
    for part in args.without:
        sides[f"jax, without {part}"] = _ours(world, case.without(part), args, part)
    for attention in ("eager", "sdpa"):  # each with weights and moments of its own
        sides[f"torch, {attention}"] = _theirs(Reference(world), world, case, attention)
    start = time.perf_counter()
    firsts = {"jax": sides["jax"]()}
    compiled_within = time.perf_counter() - start
    firsts |= {name: run() for name, run in sides.items() if name != "jax"}
    filling = _packed(world, case).filling
    _agree(case, firsts)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.repeats):
        for name, run in sides.items():
            time.sleep(1)  # threads of the previous run still spin for a while
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"{case.name}, {name}: {seconds[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    speeds = {name: case.tokens / median for name, median in medians.items()}
    best = max(speed for name, speed in speeds.items() if name.startswith("torch"))
    return {
        "ratio": speeds["jax"] / best,
        "tokens_per_second": speeds,
        "tokens": case.tokens,
        "episodes": len(case.items),
        "fill": filling.tokens / filling.all_tokens,
        "windows_fill": filling.windows / max(filling.all_windows, 1),
        "row_tokens": case.shapes.row_tokens,
        "windows": case.shapes.windows,
        "compile_seconds": compiled_within - medians["jax"],
        "first_update": {
            name: {"loss": loss, "norm": norm} for name, (loss, norm) in firsts.items()
        },
    }


def _agree(case: Case, firsts: dict[str, tuple[float, float]]) -> None:
    """At ratio 1 all losses of one batch are nearly 0, but no two gradients are alike."""
    loss, norm = firsts["jax"]
    for name, (their_loss, their_norm) in firsts.items():
        if abs(norm - their_norm) > 1e-3 * their_norm or abs(loss - their_loss) > 1e-4:
            raise SystemExit(f"{case.name}: {name} has another loss or gradient norm: {firsts}")


def _packed(world: World, case: Case) -> MiniBatch:
    return pack(
        case.items, case.shapes, world.dialogue.processor, shards=1,
        image_token=world.cfg.image_token,
    )  # fmt: skip


def _ours(world: World, case: Case, args: argparse.Namespace, without: str = "") -> Step:
    cfg = replace(world.cfg, remat=args.remat)
    learner = Learner(
        cfg,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=0.0)),
        objective=Objective(),
        trainable=Trainable(),
        allowed=allowed_ids(world.dialogue.tokenizer, cfg.text.vocab),
        mesh=make_mesh(devices=jax.devices()[:1]),
        unstacked=tuning().unstacked,  # as train.py has it
    )
    copied = jax.tree.map(lambda x: x.copy(), world.params)
    state = learner.start(copied, jax.random.key(0))

    def step() -> tuple[float, float]:
        """Packing is part of an update."""
        nonlocal state
        with pytest.MonkeyPatch.context() as patch:  # read when the programs are traced
            if without == "blocks":
                patch.setattr(attention_xla, "LONG", math.inf)
            state, metrics, _ = learner.update(state, learner.place(_packed(world, case)))
        return float(metrics["loss"]), float(metrics["gradient_norm"])

    return step


def _theirs(reference: Reference, world: World, case: Case, attention: str) -> Step:
    model = reference.model
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    allowed = torch.tensor(allowed_ids(world.dialogue.tokenizer, world.cfg.text.vocab))

    def step() -> tuple[float, float]:
        model.set_attn_implementation(attention)
        optimizer.zero_grad()
        total = 0.0
        for first in range(0, len(case.items), case.batch):
            loss = _loss(reference, case.items[first : first + case.batch], allowed)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total, norm.item()

    return step


def _loss(reference: Reference, items: Sequence[Item], allowed: torch.Tensor) -> torch.Tensor:
    """The surrogate at its own policy, whose ratio is 1, over rows padded at their end."""
    length = max(len(item.trajectory.ids) for item in items)
    ids = torch.zeros((len(items), length), dtype=torch.long)
    mask, weights, advantages = torch.zeros_like(ids), *torch.zeros((2, len(items), length))
    for row, item in enumerate(items):
        n = len(item.trajectory.ids)
        ids[row, :n] = torch.tensor(item.trajectory.ids)
        mask[row, :n] = 1
        weights[row, :n] = torch.tensor(item.weights)
        advantages[row] = item.advantage
    pictures = [[picture.pixels for picture in item.pictures] for item in items]
    logits = reference.model(**reference.inputs(ids, mask, pictures), use_cache=False).logits
    logits = logits[:, :-1].masked_fill(~allowed, -1e30)
    logprobs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    ratio = (logprobs - logprobs.detach()).exp()
    gain = torch.minimum(ratio * advantages[:, 1:], ratio.clamp(0.8, 1.2) * advantages[:, 1:])
    return -(weights[:, 1:] * gain).sum()


def _print(figures: dict[str, Any], names: Sequence[str]) -> None:
    table = Table(title="A full update, tokens/s")
    sides = [*figures[names[0]]["tokens_per_second"]]
    for column in ("", *sides, "ratio", "compiled in"):
        table.add_column(column, justify="right")
    for name in names:
        row = figures[name]
        speeds = row["tokens_per_second"]
        table.add_row(
            f"{name} ({row['episodes']} episodes, {row['tokens']:,} tokens)",
            *(f"{speeds[side]:,.0f}" for side in sides),
            f"{row['ratio']:.2f}",
            f"{row['compile_seconds']:.0f} s",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
