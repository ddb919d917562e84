"""The labelling command with a rigged target: it finds an answer the likelier, the nearer the edges
of the crop are to those of the record's best box. It says whether a box ties with others.

rigged_labels.py SET OUT ... runs the command so, slowly, a record at a time.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import PIL.Image

from lfpc_jax.cropvlm.grid import cells, in_pixels
from lfpc_jax.cropvlm.target import Likelihood, Question
from lfpc_jax.data import layout, pictures
from lfpc_jax.processing.geometry import Box
from lfpc_jax.trajectory import Picture, Record

SIZE = (200, 100)
GRID = 3
CELLS = cells(GRID)


def best_of(record: Record) -> int:
    """The number of the best box of a record, `rNUMBER`."""
    return (7 * int(record.id.removeprefix("r"))) % len(CELLS)


@dataclass
class RiggedTarget:
    """With every box -1 nat for each pixel by which its edges are off those of the best, in tenths;
    without a crop -100. Records in `tied` like each box as much. `asked` counts boxes."""

    pause: float = 0.0
    tied: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    identity: dict[str, Any] = field(
        default_factory=lambda: {"weights": "rigged", "presentation": "both"}
    )
    asked: int = 0
    dialogue: Any = None

    def answers(self, questions: Sequence[Question], *, seed: int = 0) -> Iterator[Any]:
        raise AssertionError("labels need no answers")

    def likelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[Likelihood, ...]]:
        for question in questions:
            time.sleep(self.pause)
            record = question.record
            if record.id in self.unusable:
                fault = "unreadable picture: its last rows are missing"
                yield (Likelihood(None, fault=fault),) * len(question.boxes)
                continue
            best = in_pixels(CELLS[best_of(record)], GRID, pictures.size(record.picture))
            self.asked += len(question.boxes)
            yield tuple(Likelihood(self.like(record, best, box)) for box in question.boxes)

    def like(self, record: Record, best: Box, box: Box | None) -> float:
        if record.id in self.tied:
            return -2.0
        return -100.0 if box is None else -sum(abs(a - b) for a, b in zip(best, box)) / 10 - 0.25


def records(count: int, folder: Path) -> list[Record]:
    """Two records a picture. Every fourth has a target."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        file = folder / f"p{number // 2}.png"
        if not file.exists():
            PIL.Image.new("RGB", SIZE, (9 * number % 256, 90, 90)).save(file)
        targets = (((70.0, 40.0, 90.0, 60.0),),) if number % 4 == 0 else ()
        made.append(
            Record(
                f"r{number}",
                "which colour is it?",
                "red",
                Picture(path=str(file)),
                targets=targets,
                references=("red", "dark red"),
                metric="anls",
                longest_side=150,
            )
        )
    return made


def make_set(folder: Path, count: int = 40) -> Path:
    layout.write(folder, records(count, folder.with_name("pictures")), copy_files=False)
    return folder


def main(data: str, out: str, *more: str) -> int:
    from lfpc_jax.cli import label_boxes as command

    target = RiggedTarget(pause=0.03, tied=("r3",), unusable=("r5",))
    command._target = lambda *_: target
    flags = ["--target", "rigged", "--grid", f"{GRID}", "--chunk", "3", "--max-lost", "0.1"]
    return command.main([data, out, *flags, *more])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
