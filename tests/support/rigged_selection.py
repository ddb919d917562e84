"""The selection command with a rigged model: it says "red" while an image is shown at a level above
the record's critical one, and "blue" from there on.

rigged.py DATA OUT ... runs the command so, slowly, a chunk at a time.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import PIL.Image

from lfpc_jax.data import layout
from lfpc_jax.infogap.levels import pyramid
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Picture, Record

PROCESSOR = ImageProcessor().with_tokens(16384)
SIDE = 2520
SIDES = pyramid((SIDE, SIDE), PROCESSOR)


def critical(name: str) -> int:
    """The level at which a record is rigged to diverge; `len(SIDES)` never does."""
    return 1 + int(name.removeprefix("r")) % len(SIDES)


class Rigged:
    """An asker that counts, and sleeps `pause` seconds at each call."""

    def __init__(self, pause: float = 0.0, n_answers: int = 1) -> None:
        self.pause, self.n_answers, self.asked = pause, n_answers, 0

    def __call__(self, questions: Sequence[Record]) -> list[tuple[str, ...]]:
        time.sleep(self.pause)
        self.asked += len(questions)
        return [(self.answer(question),) * self.n_answers for question in questions]

    def answer(self, question: Record) -> str:
        name, side = question.id.split("@")
        assert question.longest_side in (None, int(side))
        return "red" if SIDES.index(int(side)) < critical(name) else "blue"


def records(count: int, folder: Path) -> list[Record]:
    """All of one large image."""
    file = folder / "square.jpg"
    if not file.exists():
        PIL.Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(file)
    picture = Picture(path=str(file))
    return [Record(f"r{i}", "Which colour?", "A", picture, ("red", "blue")) for i in range(count)]


def main(data: str, out: str, *more: str) -> int:
    from lfpc_jax.cli import select_resolution as command

    asker = Rigged(pause=0.05)
    command._load = lambda args: "rigged"
    command._processor = lambda args: PROCESSOR
    command._asked = lambda args, model: {"weights": str(args.model)}
    command._answers = lambda *_: asker
    return command.main([data, out, "--model", "rigged", "--chunk", "2", *more])


def make_set(folder: Path, count: int = 40) -> Path:
    folder.mkdir()
    layout.write(folder, records(count, folder), copy_files=False)
    return folder


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
