"""How often the search `bisect` chooses the same level as `scan`, on the synthetic world.

    python bench/selection.py [--count 300] [--json FILE]

Bisection assumes that if answers diverge at one level, they diverge at every level below it. The
model here is a trained classifier that is told where the mark is and reads it from the shown pixels
at each level. It errs more often the smaller the view is, so its answers need not satisfy that
assumption.
"""

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from sklearn.ensemble import ExtraTreesClassifier

from lfpc_jax.data.pictures import shrink
from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.data.world import World
from lfpc_jax.infogap.agreement import Agreement
from lfpc_jax.infogap.levels import Decision, needed, pyramid
from lfpc_jax.processing.geometry import Box, Frame, crop_box, grow
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Record

WORLD = WorldSettings(mark_side=(12, 40), patches=(1,), cross_share=0.0, classes=4,
                      single_options=(4, 4))  # fmt: skip
PROCESSOR = ImageProcessor().with_tokens(256)
HARSHEST = 56


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="records to select for")
    parser.add_argument("--taught", type=int, default=600, help="records the reader learns from")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    sides = pyramid(WORLD.size, PROCESSOR, HARSHEST)
    reader = _taught(World(WORLD, 1, "train", args.taught), sides)
    chosen = {"scan": [], "bisect": []}
    asked = dict.fromkeys(chosen, 0)
    for record in World(WORLD, 0, "train", args.count):
        answers = _read(reader, record, sides)
        for search in chosen:
            decision, count = _search(search, record, answers)
            chosen[search].append(decision)
            asked[search] += count
    same = np.mean([a == b for a, b in zip(chosen["scan"], chosen["bisect"])])
    apart = np.mean([abs(a.level - b.level) for a, b in zip(chosen["scan"], chosen["bisect"])])
    figures = {
        "levels": len(sides),
        "records": args.count,
        "agreement": float(same),
        "levels_apart": float(apart),
        "asked": asked,
        "never_diverges": float(np.mean([not decision.diverged for decision in chosen["scan"]])),
    }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _search(search, record: Record, answers: Sequence[str]) -> tuple[Decision, int]:
    known: dict[int, tuple[str, ...]] = {}
    same = Agreement().of(record)
    while not isinstance(step := needed(known, len(answers), search, same, 0.5), Decision):
        known |= {level: (answers[level],) for level in step}
    return step, len(known)


def _taught(world: World, sides: Sequence[int]) -> ExtraTreesClassifier:
    features, right = [], []
    for record in world:
        for side in sides:
            features.append(_looks(record, side))
            right.append(_text(record))
    return ExtraTreesClassifier(80, min_samples_leaf=2, random_state=0).fit(features, right)


def _read(reader: ExtraTreesClassifier, record: Record, sides: Sequence[int]) -> list[str]:
    """Of the options, the likeliest at each level, as a letter."""
    likely = reader.predict_proba([_looks(record, side) for side in sides])
    classes = list(reader.classes_)
    options = [likely[:, classes.index(text)] for text in record.options]
    return ["ABCD"[place] for place in np.argmax(options, axis=0)]


def _text(record: Record) -> str:
    return record.options["ABCD".index(record.answer)]


def _looks(record: Record, side: int) -> np.ndarray:
    """The mark's place in the shown view, as a small grey picture and its slopes."""
    assert record.picture.data is not None
    image = PIL.Image.open(io.BytesIO(record.picture.data))
    view = shrink(image, side)
    mark = Box(*record.targets[0][0])
    box = Frame(image.size, view.size).to(mark, "original", "shown")
    cut = view.crop(crop_box(grow(box, 3, view.size), view.size)).convert("L")
    grey = np.asarray(cut.resize((16, 16), PIL.Image.Resampling.BICUBIC), float)
    across, down = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    return np.concatenate([grey.ravel(), across.sum(1), down.sum(0), across.ravel(), down.ravel()])


if __name__ == "__main__":
    main()
