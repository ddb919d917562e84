"""An engine whose model is a few lines of Python, over the real dialogue, episodes and tools.

Its world: grey pictures with one small coloured square, and the same colour as a stripe on the left
for those who only look at the whole. Options are four colours.

python -m support.rigged OUT DATA [SECONDS] [FLAGS] runs the command with the reader
of crops, so slowly, for killing it.
"""

import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import PIL.Image

from lfpc_jax.data import layout
from lfpc_jax.evaluation.alter import altered
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.results import Results, grade_all, results
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.trajectory import Group, Picture, Record

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 40, 220), "white": (250,) * 3}
SIZE, SIDE, STRIPE = 320, 40, 32
CAPACITY = 4000


def digest(*parts) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest())


def world(count: int) -> list[Record]:
    return [one(number) for number in range(count)]


def one(number: int) -> Record:
    rng = np.random.default_rng(number)
    names = [list(COLOURS)[place] for place in rng.permutation(4)]
    right = int(rng.integers(4))
    x, y = (int(value) for value in rng.integers(60, SIZE - SIDE - 10, 2))
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    pixels[:, :STRIPE] = pixels[y : y + SIDE, x : x + SIDE] = COLOURS[names[right]]
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "PNG")
    box = (float(x), float(y), float(x + SIDE), float(y + SIDE))
    return Record(
        f"w{number}", "Which colour is the square?", "ABCD"[right], Picture(data=out.getvalue()),
        tuple(names), ((box,),), category=("near", "far")[number % 2],
    )  # fmt: skip


def named(pixels: np.ndarray) -> str | None:
    """The colour of the middle, if it is one of the world's."""
    height, width = pixels.shape[:2]
    middle = pixels[height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3]
    apart = {name: np.abs(middle.mean((0, 1)) - rgb).max() for name, rgb in COLOURS.items()}
    name = min(apart, key=apart.__getitem__)
    return name if apart[name] < 40 else None


def guess(record: Record, *why) -> str:
    return record.options[digest(record.id, *why) % 4]


def call(box, text="I look closer.") -> str:
    numbers = ", ".join(f"{value:g}" for value in box)
    arguments = f'{{"bbox_2d": [{numbers}]}}'
    return (
        f'{text}<tool_call>{{"name": "image_zoom_in_tool", "arguments": {arguments}}}</tool_call>'
    )


def answer(record: Record, colour: str) -> str:
    return f"<answer>{'ABCD'[record.options.index(colour)]}</answer>"


def shown_box(episode: Episode):
    """The target in pixels of the shown image."""
    view = episode.opening.view
    height, width = view.shown.shape[:2]
    x1, y1, x2, y2 = episode.opening.record.targets[0][0]
    across, down = width / view.original.width, height / view.original.height
    return x1 * across, y1 * down, x2 * across, y2 * down


def stripe(episode: Episode) -> str:
    return named(episode.opening.view.shown[:, :10])


def reads_the_whole(episode: Episode) -> str:
    """Crops somewhere for show, and answers from the stripe."""
    if can_call(episode):
        return call((20, 20, 60, 60))
    return answer(episode.opening.record, stripe(episode))


def reads_the_crop(episode: Episode) -> str:
    """Crops the square, and guesses if the crop does not show it."""
    if can_call(episode):
        return call(shown_box(episode))
    record, crops = episode.opening.record, episode.crops
    seen = named(crops[-1]) if crops else None
    return answer(record, seen or guess(record, len(crops)))


def misses_half(episode: Episode) -> str:
    """The same, but every other record is cropped in the corner."""
    if can_call(episode) and digest(episode.opening.record.id) % 2:
        return call((12, 2, 50, 20))
    return reads_the_crop(episode)


def answers_first(episode: Episode) -> str:
    if can_call(episode):
        return call((20, 20, 60, 60), f"The square is {stripe(episode)}. I verify.")
    return answer(episode.opening.record, stripe(episode))


def can_call(episode: Episode) -> bool:
    return bool(episode.dialogue.toolbox.tools) and not episode.turns


@dataclass
class RiggedEngine:
    """As an engine: the same episodes, in an order of its own."""

    say: Callable[[Episode], str]
    dialogue: Dialogue
    rules: Rules = field(default_factory=Rules)
    pause: float = 0.0
    asked: int = 0

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        for record in reversed(list(records)):
            time.sleep(self.pause)
            self.asked += 1
            opening = self.dialogue.open(record)
            episodes = [
                Episode(opening, number, self.rules, self.dialogue, CAPACITY)
                for number in range(rollouts)
            ]
            for episode in episodes:
                self._live(episode)
            yield Group(
                record,
                tuple(episode.trajectory() for episode in episodes),
                opening.view.shown,
                tuple(tuple(episode.crops) for episode in episodes),
            )

    def run_altered(self, records, alters, **how) -> Iterator[tuple[str, Group]]:
        """As an engine does: an episode without a crop is the altered one, too."""
        records, groups = list(records), {}
        for group in self.run(records, **how):
            groups[group.record.id] = group
            yield "", group
        records = [record for record in records if record.id in groups]
        for name in dict.fromkeys(name for record in records for name in alters(record)):
            with_it = [record for record in records if name in alters(record)]
            looked = [one for one in with_it if _looks(groups[one.id])]
            yield from ((name, groups[one.id]) for one in with_it if one not in looked)
            with altered(self, alters(with_it[0])[name]):
                yield from ((name, group) for group in self.run(looked, **how))

    def _live(self, episode: Episode) -> None:
        tokenizer = self.dialogue.tokenizer
        while episode.end is None:
            ids = tokenizer.encode(self.say(episode)).tolist()
            episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
            request = episode.close_turn(stopped=True)
            if request is not None:
                episode.take(self.dialogue.reply(request, episode.opening, episode.cut))


def _looks(group: Group) -> bool:
    return any(turn.crop for episode in group.trajectories for turn in episode.turns)


class RiggedEngines:
    """What the command asks, in place of a model."""

    def __init__(self, engine: RiggedEngine) -> None:
        self.made = engine
        self.asked = {"image_token": engine.dialogue.tokenizer.image_pad, "dtype": "float32"}

    def keep_assets(self, folder: Path) -> None:
        from support import small

        shutil.copytree(small.folder(), folder, dirs_exist_ok=True)

    def engine(self, tokens: int, records: Sequence[Record]) -> RiggedEngine:
        return self.made


def counted(journal: Journal) -> Results:
    """What stored answers come to, by rule."""
    return results(journal.settings(), grade_all(journal))


def write_set(folder: Path, count: int) -> Path:
    layout.write(folder, world(count))
    return folder


def engines(engine: RiggedEngine) -> type:
    """For the command's place of its own."""
    return type("Engines", (), {"load": staticmethod(lambda args: RiggedEngines(engine))})


def command(out: Path | str, data: Path | str, *more: str) -> list[str]:
    return [str(out), "--model", "rigged", "--data", f"set={data}", "--diagnose", "noise", *more]


def main(out: str, data: str, seconds: str = "0", *more: str) -> int:
    from lfpc_jax.cli import evaluate
    from support import small

    engine = RiggedEngine(reads_the_crop, small.dialogue(), pause=float(seconds))
    evaluate.Engines = engines(engine)
    return evaluate.main(command(out, data, *more))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
