"""An episode as one picture: the original with its boxes, and beside it the crops as seen."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import UInt8

from lfpc_jax.processing.geometry import Box

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")
_HEIGHT = 720
_CROP = 320
_GAP = 12
_LABEL = 22


def sketch(
    original: PIL.Image.Image,
    crops: Sequence[tuple[Box, UInt8[np.ndarray, "_ _ 3"]]],
    targets: Sequence[Box] = (),
) -> PIL.Image.Image:
    """Boxes are in pixels of the original; `targets` are drawn thin and white."""
    scale = _HEIGHT / original.height
    if original.width * scale > 2 * _HEIGHT:
        scale = 2 * _HEIGHT / original.width
    size = (max(1, round(original.width * scale)), max(1, round(original.height * scale)))
    left = original.resize(size, PIL.Image.Resampling.LANCZOS)
    draw = PIL.ImageDraw.Draw(left)
    for target in targets:
        draw.rectangle(_scaled(target, scale), outline="white", width=1)
    for number, (box, _) in enumerate(crops):
        _outline(draw, _scaled(box, scale), number)
    column = [_labelled(pixels, number) for number, (_, pixels) in enumerate(crops)]
    height = max(size[1], sum(crop.height + _GAP for crop in column))
    width = size[0] + (2 * _GAP + _CROP if column else 0)
    page = PIL.Image.new("RGB", (width, height), "white")
    page.paste(left, (0, 0))
    top = 0
    for crop in column:
        page.paste(crop, (size[0] + _GAP, top))
        top += crop.height + _GAP
    return page


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _scaled(box: Box, scale: float) -> tuple[float, float, float, float]:
    return box.x1 * scale, box.y1 * scale, box.x2 * scale, box.y2 * scale


def _outline(
    draw: PIL.ImageDraw.ImageDraw, box: tuple[float, float, float, float], number: int
) -> None:
    draw.rectangle(box, outline=colour(number), width=3)
    above = max(box[1] - _LABEL, 0)
    draw.rectangle((box[0], above, box[0] + _LABEL, above + _LABEL), fill=colour(number))
    font = PIL.ImageFont.load_default(16)
    draw.text((box[0] + 6, above + 2), str(number + 1), fill="white", font=font)


def _labelled(pixels: UInt8[np.ndarray, "_ _ 3"], number: int) -> PIL.Image.Image:
    crop = PIL.Image.fromarray(pixels)
    scale = min(_CROP / crop.width, _CROP / crop.height)
    size = (max(1, round(crop.width * scale)), max(1, round(crop.height * scale)))
    card = PIL.Image.new("RGB", (_CROP, size[1] + _LABEL), "white")
    draw = PIL.ImageDraw.Draw(card)
    draw.rectangle((0, 0, _CROP, _LABEL - 1), fill=colour(number))
    label = f"crop {number + 1}, seen as {crop.width} x {crop.height}"
    draw.text((6, 2), label, fill="white", font=PIL.ImageFont.load_default(16))
    card.paste(crop.resize(size, PIL.Image.Resampling.NEAREST), (0, _LABEL))
    return card
