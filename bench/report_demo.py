"""Writes runs to try the report on. Their episodes are scripted, not sampled from a model.

    python bench/report_demo.py FOLDER [--records 16] [--rollouts 4] [--parts 2] [--seed 0]

Writes FOLDER/scripted-a and FOLDER/scripted-b. Scenes, questions, tool, tokenizer and rewards are
the project's own. What a model would write comes from a script whose boxes and answers improve with
the step; log-probabilities and curves are drawn from invented distributions. So a page of these
runs shows what the report looks like and says nothing about the method.
"""

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.data.world import World
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rewards.total import Rewards, compute_rewards
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.tools import Toolbox, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Group, Record, Trajectory

RUNS = {"scripted-a": 1.0, "scripted-b": 0.35}
_STEPS = 80
_REWARDS = Rewards(grounding=1.0)
_THOUGHTS = (
    "The mark is too small to read from here. I will look closer at it.",
    "I can find the object, but not what is on it, so I zoom in.",
    "Let me cut out the part around it and look again.",
)
_SEEN = (
    "Now the stripes can be told apart on both halves.",
    "In the crop the pattern is clear.",
    "This is the object that was asked for, and its mark is sharp enough.",
)
_GUESS = "From the whole picture it seems that I can already tell."


@dataclass(frozen=True, eq=False)
class Script:
    """Writes a model's turns; `skill` from 0 to 1 makes its boxes and answers better."""

    rng: np.random.Generator
    skill: float

    def turns(self, record: Record, frame: Frame) -> Iterator[str]:
        calls = int(self.rng.random() < 0.35 + 0.6 * self.skill) * int(self.rng.integers(1, 3))
        for call in range(calls):
            yield f"<think>{self.rng.choice(_THOUGHTS)}</think>\n{self._call(record, frame, call)}"
        right = self.rng.random() < 0.3 + 0.3 * self.skill + 0.3 * self.skill * bool(calls)
        wrong = [letter for letter in "ABCD"[: len(record.options)] if letter != record.answer]
        said = record.answer if right else self.rng.choice(wrong)
        why = self.rng.choice(_SEEN) if calls else _GUESS
        yield f"<think>{why}</think>\n<answer>{said}</answer>"

    def _call(self, record: Record, frame: Frame, number: int) -> str:
        nest = record.targets[number % len(record.targets)]
        target = frame.to(Box(*nest[-1]), "original", "shown")
        width, height = target.x2 - target.x1, target.y2 - target.y1
        loose = 0.15 + 1.6 * (1 - self.skill)
        off = self.rng.normal(0, 0.25 * loose, 4)
        grown = 0.5 * loose * self.rng.random()
        box = [
            round(target.x1 + (off[0] - grown) * width),
            round(target.y1 + (off[1] - grown) * height),
            round(target.x2 + (off[2] + grown) * width),
            round(target.y2 + (off[3] + grown) * height),
        ]
        if self.rng.random() < 0.08 * (1 - self.skill):
            box = box[:3]
        arguments = {"bbox_2d": [max(0, side) for side in box], "label": record.category}
        call = {"name": "image_zoom_in_tool", "arguments": arguments}
        return f"<tool_call>{json.dumps(call)}</tool_call>"


def play(dialogue: Dialogue, opening: Opening, rollout: int, script: Script) -> Trajectory:
    """An episode with scripted turns: prompt, crops, refusals and its end are the real ones."""
    episode = Episode(opening, rollout, Rules(), dialogue, capacity=8192)
    assert opening.view is not None
    tokenizer = dialogue.tokenizer
    for text in script.turns(opening.record, opening.view.frame):
        ids = tokenizer.encode(text).tolist()
        ids += [] if text.endswith("</tool_call>") else [tokenizer.im_end]
        pieces = [tokenizer.decode(np.array([token], np.int32)) for token in ids]
        likely = [0.9 if any(c.isdigit() for c in piece) else 0.16 for piece in pieces]
        logprobs = (-script.rng.gamma(0.5, likely)).tolist()
        episode.drew(ids, logprobs, logprobs)
        request = episode.close_turn(stopped=True)
        if request is None:
            break
        episode.take(dialogue.reply(request, opening, episode.cut))
    return episode.trajectory()


def write_run(folder: Path, records: Sequence[Record], args: argparse.Namespace) -> None:
    talent = RUNS[folder.name]
    rng = np.random.default_rng([args.seed, int(100 * talent)])
    dialogue = _dialogue(folder / "assets", records)
    settings = {"stage": 1, "rewards": asdict(_REWARDS), "scripted": True, "talent": talent}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    archive = Archive(folder / "trajectories")
    openings = {record.id: dialogue.open(record) for record in records}
    for number in range(args.parts):
        step = round(_STEPS * (number + 1) / args.parts)
        groups = []
        for record in records:
            skill = talent * step / _STEPS
            played = tuple(
                play(dialogue, openings[record.id], rollout, Script(rng, skill))
                for rollout in range(args.rollouts)
            )
            rewards = compute_rewards(played, {record.id: record}, _REWARDS)
            groups.append(Group(record, played, rewards=tuple(reward.parts for reward in rewards)))
        archive.append(f"validation-{step:06d}", groups)
    lines = [json.dumps(line) for line in _metrics(rng, talent)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _dialogue(folder: Path, records: Sequence[Record]) -> Dialogue:
    crops = ImageProcessor().with_tokens(256)
    toolbox = Toolbox((Zoom(crops),))
    texts = [system_prompt(toolbox), *_THOUGHTS, *_SEEN, _GUESS, "<think></think><answer></answer>"]
    write_tokenizer(
        folder, [*texts, *(record.question for record in records)] * 4, 1200, ImageProcessor()
    )
    tokenizer = Tokenizer.from_folder(folder)
    chat = ChatTemplate.from_folder(folder, tokenizer)
    return Dialogue(tokenizer, chat, ImageProcessor().with_tokens(1024), toolbox)


def _metrics(rng: np.random.Generator, talent: float) -> Iterator[dict[str, object]]:
    """Made-up curves of the shapes that one expects."""

    def near(value: float, noise: float) -> float:
        return round(float(value + noise * rng.standard_normal()), 4)

    for step in range(1, _STEPS + 1):
        t = 1 - math.exp(-3 * talent * step / _STEPS)
        accuracy, rate, iou = 0.34 + 0.38 * t, 0.35 + 0.6 * t, 0.08 + 0.4 * t
        yield {
            "step": step,
            "kind": "train",
            "reward/total": near(0.8 * accuracy + 1.1 * accuracy * rate + 0.6 * iou, 0.04),
            "reward/accuracy": near(accuracy, 0.025),
            "reward/format": near(-0.12 * (1 - t), 0.008),
            "reward/tool": near(rate, 0.02),
            "reward/r_geo": near(0.25 + 0.4 * t, 0.02),
            "reward/r_iou": near(0.8 * iou, 0.02),
            "reward/r_l1": near(0.5 + 0.35 * t, 0.02),
            "crop/count": near(1.5 * rate, 0.05),
            "crop/rate": near(rate, 0.02),
            "crop/iou": near(iou, 0.015),
            "crop/overlap": near(0.35 + 0.55 * t, 0.02),
            "crop/area_ratio": near(0.16 - 0.12 * t, 0.006),
            "crop/tokens": near(240 - 120 * t, 6),
            "crop/invalid": near(0.09 * (1 - t), 0.006),
            "fault/not_four_numbers": near(0.06 * (1 - t), 0.004),
            "fault/narrow_box": near(0.02 * (1 - t), 0.002),
            "end/answered": near(0.9 + 0.09 * t, 0.008),
            "end/max_turns": near(0.06 * (1 - t), 0.004),
            "episode/turns": near(1.4 + 0.9 * rate, 0.04),
            "episode/tokens": near(90 + 60 * rate, 4),
            "update/loss": near(0, 0.004),
            "update/gradient_norm": abs(near(0.4, 0.06)),
            "update/clipped_high": abs(near(0.004, 0.001)),
            "update/entropy": near(0.7 - 0.35 * t, 0.015),
            "update/learning_rate": 1e-6 * min(1, step / 8),
            "time/rollout": near(31 + 9 * t, 1.2),
            "time/update": near(18, 0.4),
        }
        if step % 10 == 0:
            blank = 0.36 + 0.08 * t
            yield {
                "step": step,
                "kind": "validation",
                "validation/accuracy": near(accuracy, 0.012),
                "validation/blank_accuracy": near(blank, 0.012),
                "validation/gap": near(accuracy - blank, 0.012),
                "validation/iou": near(iou, 0.012),
                "validation/overlap": near(0.35 + 0.55 * t, 0.012),
                "validation/area_ratio": near(0.16 - 0.12 * t, 0.004),
            }


def make_records(count: int, seed: int, photographs: str = "") -> list[Record]:
    """Scenes in which the marks are lost in the shown image; every third is large."""
    settings = WorldSettings(
        size=(1280, 960),
        objects=(6, 10),
        object_side=(90, 190),
        mark_side=(40, 60),
        clutter=14,
        photographs=photographs,
        longest_side=448,
    )
    large = replace(settings, size=(2048, 1152), longest_side=640)
    worlds = World(settings, seed, "heldout", count), World(large, seed, "heldout", count)
    return [worlds[index % 3 == 0][index] for index in range(count)]


def _photographs() -> Path:
    """Photographs in the public domain that come with the tests' packages."""
    import skimage

    folder = Path(tempfile.mkdtemp(prefix="photographs-"))
    for name in ("coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "chelsea.png"):
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", action="store_true", help="backgrounds without photographs")
    args = parser.parse_args()
    records = make_records(args.records, args.seed, "" if args.drawn else str(_photographs()))
    for name in RUNS:
        write_run(args.folder / name, records, args)
        print(f"wrote {args.folder / name}")


if __name__ == "__main__":
    main()
