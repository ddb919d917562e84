"""An episode as one picture: the original with its boxes, and beside it what the model saw, which
is the shown image and the crops. A crop network's box stands beside the pixels that it cuts."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import UInt8

from lfpc_jax.data import pictures
from lfpc_jax.processing.geometry import Box, crop_box
from lfpc_jax.trajectory import Group

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4")
_GREY = "#4a4f57"
_HEIGHT = 720
_CROP = 320
_GAP = 12
_LABEL = 22


def draw(group: Group, number: int = 0) -> PIL.Image.Image:
    """Draws one episode of a group that was rolled out in this process. Groups from an archive lack
    the pictures that the model saw."""
    if group.image is None or not group.crops:
        raise ValueError(
            f"record {group.record.id!r}: the group does not hold the pictures that the model saw; "
            "roll it out again, or write a report of the archive by lfpc report"
        )
    original = pictures.original(group.record.picture)
    episode = group.trajectories[number]
    boxes = [Box(*turn.crop.box) for turn in episode.turns if turn.crop is not None]
    if episode.end == "proposed":
        return sketch(original, group.image, [(box, cut(original, box)) for box in boxes], "cut")
    crops = list(zip(boxes, group.crops[number], strict=True))
    return sketch(original, group.image, crops)


def cut(original: PIL.Image.Image, box: Box) -> UInt8[np.ndarray, "_ _ 3"]:
    """The pixels of the original that a box touches. A crop network does not see them, and its
    target at a size of its own."""
    return np.array(original.crop(crop_box(box, original.size)))


def sketch(
    original: PIL.Image.Image,
    shown: UInt8[np.ndarray, "_ _ 3"],
    crops: Sequence[tuple[Box, UInt8[np.ndarray, "_ _ 3"]]],
    crops_are: str = "seen",
) -> PIL.Image.Image:
    """Boxes are in pixels of the original. `crops_are` says what their pixels are."""
    left = outlined(original, [box for box, _ in crops], _HEIGHT)
    size = left.size
    column = [_card(shown, "shown", _GREY)]
    for number, (_, pixels) in enumerate(crops):
        column.append(_card(pixels, f"crop {number + 1}, {crops_are}", colour(number)))
    height = max(size[1], sum(card.height + _GAP for card in column))
    page = PIL.Image.new("RGB", (size[0] + 2 * _GAP + _CROP, height), "white")
    page.paste(left, (0, 0))
    top = 0
    for card in column:
        page.paste(card, (size[0] + _GAP, top))
        top += card.height + _GAP
    return page


def outlined(original: PIL.Image.Image, boxes: Sequence[Box], height: int) -> PIL.Image.Image:
    """The original with numbered boxes, scaled to a height, or to twice that in width if it is
    wider."""
    scale = height / original.height
    if original.width * scale > 2 * height:
        scale = 2 * height / original.width
    size = (max(1, round(original.width * scale)), max(1, round(original.height * scale)))
    picture = original.resize(size, PIL.Image.Resampling.LANCZOS)
    draw = PIL.ImageDraw.Draw(picture)
    for number, box in enumerate(boxes):
        _outline(draw, _scaled(box, scale), number)
    return picture


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


def _card(pixels: UInt8[np.ndarray, "_ _ 3"], what: str, colour: str) -> PIL.Image.Image:
    """A picture under a label with its size. It is resized without smoothing, so that its pixels
    stay visible."""
    picture = PIL.Image.fromarray(pixels)
    scale = min(_CROP / picture.width, _CROP / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    card = PIL.Image.new("RGB", (_CROP, size[1] + _LABEL), "white")
    draw = PIL.ImageDraw.Draw(card)
    draw.rectangle((0, 0, _CROP, _LABEL - 1), fill=colour)
    label = f"{what} as {picture.width} x {picture.height}"
    draw.text((6, 2), label, fill="white", font=PIL.ImageFont.load_default(16))
    card.paste(picture.resize(size, PIL.Image.Resampling.NEAREST), (0, _LABEL))
    return card
