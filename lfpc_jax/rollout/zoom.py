"""The zoom tool: cuts a box out of the original and shows it with its own budget of tokens.

A box goes through these steps, and is refused if one fails:
- it must be four finite numbers, corners in order, in the convention of the settings;
- it is clamped to the image, and some of it must remain (`empty_box`);
- it is converted to pixels of the original, grown about its centre to `minimum_side` and shifted
  into the image;
- of the whole pixels that it then touches, no side may be longer than `aspect_limit` times the
  other.

The grown box is recorded and scored, and the box as written is recorded, too. The pixels that it
touches are cut from the original, never from the shown image, which would add no detail.

Qwen's resize refuses strips over 200:1. It exceeds its budget of tokens for strips with a ratio
over the budget, and may exceed one that is hardly above `min_pixels`. Settings under which a crop
could meet any of these raise an error at construction.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import PIL.Image

from lfpc_jax.processing.chat import Message
from lfpc_jax.processing.geometry import Box, Convention, Frame, clamp, crop_box, grow
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.tools import Observation, Tool, respond
from lfpc_jax.shapes import ASPECT_LIMIT
from lfpc_jax.trajectory import Crop

_ROUNDING = 1e-9

_COORDINATES: dict[Convention, str] = {
    "shown": "in pixels of the first image as you see it",
    "original": "in pixels of the first image at its full size",
    "unit": "as shares of the first image's width and height, from 0 to 1",
    "percent": "as shares of the first image's width and height, from 0 to 100",
    "mille": "as shares of the first image's width and height, from 0 to 1000",
}


@dataclass(frozen=True)
class Region:
    """A valid box: as it was written, and as it will be cut, in pixels of the frame's original."""

    written: Box
    box: Box
    frame: Frame

    @property
    def pixels(self) -> tuple[int, int, int, int]:
        return crop_box(self.box, self.frame.original)


@dataclass(frozen=True)
class Zoom(Tool[Region]):
    """The zoom tool; `processor` carries the crops' token budget."""

    processor: ImageProcessor
    convention: Convention = "shown"
    minimum_side: int = 28
    aspect_limit: float = 100.0

    name: ClassVar[str] = "image_zoom_in_tool"
    description: ClassVar[str] = (
        "Shows a part of the first image again, cut from the full-size picture, so that small "
        "details can be seen."
    )
    causes: ClassVar[tuple[str, ...]] = (
        "not_four_numbers",
        "reversed_box",
        "empty_box",  # no area, or none of it in the image
        "narrow_box",  # over the aspect limit
    )

    def __post_init__(self) -> None:
        if self.minimum_side < 1:
            raise ValueError(f"zoom: minimum_side is {self.minimum_side}; it must be at least 1")
        if not 1 <= self.aspect_limit <= ASPECT_LIMIT:
            raise ValueError(
                f"zoom: aspect_limit is {self.aspect_limit}; it must lie between 1 and "
                f"{ASPECT_LIMIT}, over which Qwen's resize refuses pictures"
            )
        budget = self.processor.max_pixels / self.processor.factor**2
        if self.aspect_limit > budget:
            raise ValueError(
                f"zoom: aspect_limit is {self.aspect_limit} and the crop budget {budget:g} tokens: "
                "the resize breaks the budget for strips of a ratio over it; set aspect_limit to "
                f"at most {budget:g}, or raise the budget"
            )
        stretched = _most_stretched(self.processor, self.aspect_limit)
        if stretched > budget:
            raise ValueError(
                f"zoom: small crops are stretched to up to {stretched} tokens, over the crop "
                f"budget of {budget:g}; raise the budget, or lower min_pixels "
                f"({self.processor.min_pixels}) or aspect_limit ({self.aspect_limit})"
            )

    @classmethod
    def within(
        cls, tokens: int, processor: ImageProcessor, convention: Convention | None = None
    ) -> "Zoom":
        """The tool with a budget of so many tokens for a crop, and the largest `aspect_limit` that
        keeps to it."""
        return cls(
            processor.with_tokens(tokens),
            convention or cls.convention,
            aspect_limit=float(min(100, tokens)),
        )

    @property
    def parameters(self) -> dict[str, Any]:
        box = {
            "type": "array",
            "items": {"type": "number"},
            "minItems": 4,
            "maxItems": 4,
            "description": f"The part as [x1, y1, x2, y2], {_COORDINATES[self.convention]}.",
        }
        label = {"type": "string", "description": "What should be there."}
        return {
            "type": "object",
            "properties": {"bbox_2d": box, "label": label},
            "required": ["bbox_2d"],
        }

    def validate(self, arguments: Mapping[str, Any], frame: Frame) -> Region | Refusal:
        if "bbox_2d" not in arguments or not set(arguments) <= {"bbox_2d", "label"}:
            return Refusal("bad_arguments", "the arguments are bbox_2d and, if you like, label")
        if not isinstance(arguments.get("label", ""), str):
            return Refusal("bad_arguments", "label must be a text")
        numbers = arguments["bbox_2d"]
        if not (isinstance(numbers, list) and len(numbers) == 4 and all(map(_finite, numbers))):
            return Refusal("not_four_numbers", "bbox_2d must be a list of four finite numbers")
        return self._region(Box(*map(float, numbers)), frame)

    def _region(self, written: Box, frame: Frame) -> Region | Refusal:
        if written.x2 < written.x1 or written.y2 < written.y1:
            return Refusal("reversed_box", "bbox_2d is [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        width, height = frame.extent(self.convention)
        inside = clamp(written, (width, height))  # before any product could overflow
        if not (inside.x1 < inside.x2 and inside.y1 < inside.y2):
            return Refusal(
                "empty_box",
                f"bbox_2d covers nothing of the image, which extends from (0, 0) to "
                f"({width}, {height})",
            )
        box = frame.to(inside, self.convention, "original")
        region = Region(written, grow(box, self.minimum_side, frame.original), frame)
        x1, y1, x2, y2 = region.pixels
        sides = sorted((x2 - x1, y2 - y1))
        if sides[1] > self.aspect_limit * sides[0]:
            return Refusal(
                "narrow_box",
                f"bbox_2d is too narrow: one side is over {self.aspect_limit:g} times the other",
            )
        return region

    def execute(self, parsed: Region, original: PIL.Image.Image) -> Observation:
        if original.size != parsed.frame.original or original.mode != "RGB":
            raise ValueError(
                f"zoom into a picture of size {original.size} and mode {original.mode}, for a call "
                f"on an RGB original of {parsed.frame.original}; open the record's picture with "
                "to_rgb and measure the frame on that"
            )
        picture = self.processor.resize(original.crop(parsed.pixels))
        return Observation(picture, self.crop(parsed))

    def crop(self, parsed: Region) -> Crop:
        return Crop(written=parsed.written, box=parsed.box)

    def render(self, observation: Observation) -> list[Message]:
        return respond(
            {"type": "image"},
            {"type": "text", "text": "\nBoxes still refer to the first image."},
        )


def _finite(value: Any) -> bool:
    """Whether a JSON value is a number that a float holds; true and false are none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _most_stretched(processor: ImageProcessor, aspect_limit: float) -> int:
    """No picture stretched to `min_pixels` can get more tokens than this.

    With m tokens as the minimum, a ratio r gives ceil(sqrt(m / r)) by ceil(sqrt(m r)) tokens; the
    short side has `rows` of them only while r <= m / (rows - 1)^2. Roots that are whole may come
    out a rounding error higher (19x19 pixels become 3x3 tokens, not 2x2), so all count as if.
    """
    least = processor.min_pixels / processor.factor**2
    worst = 0
    for rows in range(1, _floor_root(least) + 2):
        ratio = min(aspect_limit, least / (rows - 1) ** 2) if rows > 1 else aspect_limit
        worst = max(worst, rows * (_floor_root(least * ratio) + 1))
    return worst


def _floor_root(value: float) -> int:
    return math.floor(math.sqrt(value) + _ROUNDING)
