"""Replaces crops before the model sees them, to find out whether it reads them.

    noise         random pixels
    blank         the mean grey of the processor's normalisation
    other         the same part of another record's original
    downsampled   the same part of the shown image: what the model has seen already, no more
    truth         the target's smallest box; of several targets see `true_box`

An alteration takes the call, what it gave, the episode's opening and its earlier crops, and returns
what is shown instead. The first four keep the picture's size, and `truth` goes through the tool
itself, so every picture stays within the crops' budget and the same compiled programs serve. The
recorded crop remains the one that the model asked for. An alteration depends only on the record,
the seed and the boxes that were asked for.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.geometry import Box, Frame, clamp, crop_box, grow, hull
from lfpc_jax.rollout.dialogue import Alter, Dialogue, Opening
from lfpc_jax.rollout.tools import Observation, Ready
from lfpc_jax.rollout.zoom import Region, Zoom
from lfpc_jax.trajectory import Crop, Picture, Record

log = logging.getLogger(__name__)

Alteration = Literal["noise", "blank", "other", "downsampled", "truth"]
ALTERATIONS: tuple[Alteration, ...] = get_args(Alteration)


@runtime_checkable
class HasDialogue(Protocol):
    """An engine, as far as this file needs it."""

    dialogue: Dialogue


def alteration(name: str, records: Sequence[Record] = (), *, seed: int = 0) -> Alter:
    """The alteration of this name. `other` takes its pictures from `records`."""
    match name:
        case "noise":
            return Noise(seed)
        case "blank":
            return Blank()
        case "other":
            return Other(records, seed)
        case "downsampled":
            return Downsampled()
        case "truth":
            return Truth()
    raise ValueError(f"no alteration of crops is called {name!r}; there are {ALTERATIONS}")


def applies(name: str, record: Record) -> bool:
    """Whether a record has what the alteration needs."""
    return bool(record.targets) if name == "truth" else shows(record)


def shows(record: Record) -> bool:
    return record.picture != Picture()


@contextmanager
def altered(engine: HasDialogue, alter: Alter | None) -> Iterator[None]:
    """Alters all crops of the runs that begin and end in the block. Nothing is compiled again."""
    before = engine.dialogue
    engine.dialogue = replace(before, alter=alter)
    try:
        yield
    finally:
        engine.dialogue = before


@dataclass(frozen=True)
class Noise:
    seed: int = 0

    def __call__(
        self, request: Ready, seen: Observation, opening: Opening, earlier: Sequence[Crop]
    ) -> Observation:
        number = _digest(f"noise\0{self.seed}\0{opening.record.id}\0{seen.crop}")
        pixels = np.random.default_rng(number).integers(0, 256, seen.picture.shape, np.uint8)
        return replace(seen, picture=pixels)


@dataclass(frozen=True)
class Blank:
    """A grey that is about zero after normalisation with Qwen's means."""

    grey: tuple[int, int, int] = (123, 117, 104)

    def __call__(
        self, request: Ready, seen: Observation, opening: Opening, earlier: Sequence[Crop]
    ) -> Observation:
        return replace(seen, picture=np.full_like(seen.picture, self.grey))


@dataclass(frozen=True, eq=False)
class Downsampled:
    """Cuts from the shown image and enlarges it, as if the tool did not have the original."""

    def __call__(
        self, request: Ready, seen: Observation, opening: Opening, earlier: Sequence[Crop]
    ) -> Observation:
        assert opening.view is not None, "a crop without a picture"
        frame = opening.view.frame
        box = frame.to(Box(*_crop(request, seen).box), "original", "shown")
        picture = PIL.Image.fromarray(opening.view.shown)
        return replace(seen, picture=_cut(picture, box, like=seen.picture))


class Other:
    """The seed arranges all records in a circle, and each is shown the picture of the next one
    whose picture is different: the four cycles of an HR-Bench sample share one. Pictures that
    cannot be opened are skipped."""

    def __init__(self, records: Sequence[Record], seed: int = 0) -> None:
        drawn = sorted(records, key=lambda record: _digest(f"other\0{seed}\0{record.id}"))
        self._circle = tuple({record.picture: record for record in drawn if shows(record)})
        self._place = {picture: place for place, picture in enumerate(self._circle)}
        if len(self._circle) < 2:
            raise ValueError(
                f"the alteration `other` shows another record's picture, but {len(records)} "
                f"records have {len(self._circle)} different ones; give some with at least two"
            )

    def __call__(
        self, request: Ready, seen: Observation, opening: Opening, earlier: Sequence[Crop]
    ) -> Observation:
        assert opening.view is not None, "a crop without a picture"
        picture = self._other(opening.record)
        frame = Frame(opening.view.original.size, picture.size)
        box = frame.to(Box(*_crop(request, seen).box), "original", "shown")
        return replace(seen, picture=_cut(picture, box, like=seen.picture))

    def _other(self, record: Record) -> PIL.Image.Image:
        place = self._place.get(record.picture)
        if place is None:
            raise ValueError(
                f"record {record.id!r} is not among those that `other` was made from; make it from "
                "all that are asked"
            )
        for other in (*self._circle[place + 1 :], *self._circle[:place]):
            try:
                return pictures.original(other)
            except Unusable as error:
                log.warning("the alteration `other` passes over a picture: %s", error)
        raise ValueError(f"no picture but that of record {record.id!r} can be opened")


TRUTH = "all, then each"
"""The rule of `true_box`, by name: what was answered under one is not mixed with another's."""


@dataclass(frozen=True)
class Truth:
    """With `together` off, every call shows the nearest target, as evaluations did before
    `true_box`."""

    together: bool = True

    def __call__(
        self, request: Ready, seen: Observation, opening: Opening, earlier: Sequence[Crop]
    ) -> Observation:
        tool, asked = request.tool, _crop(request, seen)
        if not isinstance(tool, Zoom):
            raise ValueError(f"the alteration `truth` works on {Zoom.name}, not on {tool.name}")
        if not opening.record.targets:
            raise ValueError(
                f"record {opening.record.id!r} has no targets, which `truth` needs; leave it out"
            )
        assert opening.view is not None, "a crop without a picture"
        frame = request.parsed.frame
        targets = [clamp(Box(*nest[0]), frame.original) for nest in opening.record.targets]
        boxes = [Box(*crop.box) for crop in (*earlier, asked)]
        truth = true_box(targets, boxes) if self.together else _nearest(targets, boxes[-1])
        region = Region(truth, fitting(tool, truth, frame), frame)
        return Observation(tool.execute(region, opening.view.original).picture, asked)


def true_box(targets: Sequence[Box], asked: Sequence[Box]) -> Box:
    """What the last of an episode's calls is shown; each call asked for a box.

    The first call shows the smallest box around all targets, since there may be no second call and
    every target must have been visible. From the second on, each call shows one target: the nearest
    to its box among those not shown yet. After the last target they begin again.
    """
    if len(asked) == 1:
        return hull(targets)
    left: list[Box] = []
    for box in asked[1:]:
        left = left or list(targets)
        nearest = _nearest(left, box)
        left.remove(nearest)
    return nearest


def _nearest(targets: Sequence[Box], box: Box) -> Box:
    return min(targets, key=lambda target: abs(_centre(target) - _centre(box)))


def fitting(tool: Zoom, box: Box, frame: Frame) -> Box:
    """A box as the tool would cut it. A narrow box grows until the tool accepts it."""
    region = grow(box, tool.minimum_side, frame.original)
    side = max(region.x2 - region.x1, region.y2 - region.y1)
    touched = side + 2  # no side touches more whole pixels
    return grow(
        region, max(tool.minimum_side, int(touched / tool.aspect_limit) + 1), frame.original
    )


def _crop(request: Ready, seen: Observation) -> Crop:
    if seen.crop is None:
        raise ValueError(f"the tool {request.tool.name} gave no crop; only crops can be altered")
    return seen.crop


def _cut(
    picture: PIL.Image.Image, box: Box, *, like: UInt8[np.ndarray, "height width 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    height, width = like.shape[:2]
    piece = picture.crop(crop_box(box, picture.size))
    return np.asarray(piece.resize((width, height), PIL.Image.Resampling.BICUBIC))


def _centre(box: Box) -> complex:
    return complex(box.x1 + box.x2, box.y1 + box.y2) / 2


def _digest(name: str) -> int:
    encoded = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest())
