"""A contact sheet of scenes: the scene, what its downsampled view keeps, and what a crop shows."""

from collections.abc import Sequence

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from lfpc_jax.data.canvas import paint
from lfpc_jax.data.pictures import shrink
from lfpc_jax.data.scene import Scene
from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.trajectory import Nests

_TILE = 240
_CAPTION = 46
_MARGIN = 8
_NESTS = ("#ffffff", "#ffe000", "#ff40ff")
_DARK = "#202020"
_SHARP = PIL.Image.Resampling.NEAREST


def sheet(scenes: Sequence[Scene], targets: Sequence[Nests], *, shown_side: int) -> PIL.Image.Image:
    """One row of pictures a scene: the scene with its `targets`, its view at `shown_side` pixels,
    and each object asked about, cut from the original and from that view."""
    tiles = 2 + 2 * max(scene.asked for scene in scenes)
    strips = [_strip(scene, nests, shown_side, tiles) for scene, nests in zip(scenes, targets)]
    width, height = strips[0].size
    whole = PIL.Image.new("RGB", (width, len(strips) * height), _DARK)
    for place, strip in enumerate(strips):
        whole.paste(strip, (0, place * height))
    return whole


def _strip(scene: Scene, nests: Nests, shown_side: int, width: int) -> PIL.Image.Image:
    image = paint(scene)
    view = shrink(image, shown_side)
    tiles = [_with_boxes(image, nests), _tile(view)]
    for thing in scene.things[: scene.asked]:
        frame = Frame(image.size, view.size)
        seen = frame.to(Box(*thing.box), "original", "shown")
        tiles.append(image.resize((_TILE, _TILE), _SHARP, box=thing.box))
        tiles.append(view.resize((_TILE, _TILE), _SHARP, box=seen))
    strip = PIL.Image.new("RGB", (width * (_TILE + _MARGIN), _TILE + _CAPTION), _DARK)
    for place, tile in enumerate(tiles):
        strip.paste(tile, (place * (_TILE + _MARGIN), 0))
    options = "   ".join(f"{letter} {text}" for letter, text in zip("ABCD", scene.options))
    pen, font = PIL.ImageDraw.Draw(strip), PIL.ImageFont.load_default(size=14)
    pen.text((4, _TILE + 4), scene.question, fill="white", font=font)
    answer = f"{options}      right: {scene.answer}      {scene.id}"
    pen.text((4, _TILE + 22), answer, fill="#b0ffb0", font=font)
    return strip


def _with_boxes(image: PIL.Image.Image, nests: Nests) -> PIL.Image.Image:
    tile = _tile(image)
    scale = tile.width / image.width
    pen = PIL.ImageDraw.Draw(tile)
    for nest in nests:
        for box, colour in zip(nest, _NESTS):
            pen.rectangle([edge * scale for edge in box], outline=colour)
    return tile


def _tile(image: PIL.Image.Image) -> PIL.Image.Image:
    """The picture made smaller smoothly, or larger with its pixels left visible."""
    small = shrink(image, _TILE)
    scale = _TILE / max(small.size)
    width, height = (max(1, round(side * scale)) for side in small.size)
    return small.resize((width, height), _SHARP)
