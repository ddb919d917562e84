"""Paints a planned scene: background, clutter, objects and their marks.

Pillow draws everything large on one RGB canvas, so that an 8K scene takes little more memory than
the picture itself. numpy only makes patches of an object's size, and the small grids that a
procedural background is enlarged from.
"""

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from lfpc_jax.data import pictures
from lfpc_jax.data.marks import GREY, draw_plate
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.data.scene import COLOURS, Scene, Shape, Thing
from lfpc_jax.trajectory import Picture, Size

_PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp")
_COARSENESS = 8
_OVERSAMPLING = 4
_PAINTING = 1


def paint(scene: Scene) -> PIL.Image.Image:
    """The scene's picture, which is the same every time."""
    settings = scene.settings
    rng = np.random.default_rng((*scene.entropy, _PAINTING))
    if settings.photographs:
        canvas = _photograph(settings.photographs, settings.size, rng)
    else:
        canvas = _procedural(settings.size, settings.roughness, settings.slope, rng)
    pen = PIL.ImageDraw.Draw(canvas)
    for _ in range(settings.clutter):
        _draw_clutter(pen, settings.size, settings.object_side[1], rng)
    for thing in scene.things:
        _paint_thing(canvas, thing)
        x, y, right, _ = (int(edge) for edge in thing.mark_box)
        side = right - x
        margin = max(1, side // 12)
        tint, colour = settings.tint, COLOURS[thing.colour]
        ground = [tint * level + (1 - tint) * GREY for level in colour]
        plate = draw_plate(scene.kind, thing.mark, side, margin, settings.cycles, rng, ground)
        canvas.paste(PIL.Image.fromarray(plate), (x - margin, y - margin))
    return canvas


def _procedural(
    size: Size, roughness: float, slope: float, rng: np.random.Generator
) -> PIL.Image.Image:
    """Clouds of muted colours: noise at several scales, summed small and enlarged once."""
    small = max(2, size[0] // _COARSENESS), max(2, size[1] // _COARSENESS)
    tone = rng.uniform(95, 160) + rng.uniform(-18, 18, 3)
    if not roughness and not slope:
        return PIL.Image.new("RGB", size, (int(tone[0]), int(tone[1]), int(tone[2])))
    total = np.zeros((small[1], small[0], 3)) + tone
    total[..., 0] += slope * np.linspace(-1, 1, small[0])
    total[..., 1] += slope * np.linspace(-1, 1, small[1])[:, None]
    for cells, swing in ((3, 60), (10, 26), (40, 16)):
        grid = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        grid = (grid + 2 * grid.mean(axis=2, keepdims=True)) / 3  # less colour than light
        layer = PIL.Image.fromarray(grid.astype(np.uint8)).resize(
            small, PIL.Image.Resampling.BICUBIC
        )
        total += (np.asarray(layer) / 127.5 - 1) * swing * roughness
    total += rng.normal(0, 5 * roughness, (*total.shape[:2], 1))
    coarse = PIL.Image.fromarray(total.clip(0, 255).astype(np.uint8))
    return coarse.resize(size, PIL.Image.Resampling.BICUBIC)


def _photograph(folder: str, size: Size, rng: np.random.Generator) -> PIL.Image.Image:
    """A random part of a random photograph, in the canvas' proportions."""
    paths = photographs_in(folder)
    photograph = _opened(paths[rng.integers(len(paths))])
    scale = min(photograph.width / size[0], photograph.height / size[1]) * rng.uniform(0.6, 1)
    width, height = size[0] * scale, size[1] * scale
    x, y = rng.random() * (photograph.width - width), rng.random() * (photograph.height - height)
    part = (x, y, x + width, y + height)
    return photograph.resize(size, PIL.Image.Resampling.BICUBIC, box=part)


@lru_cache(maxsize=8)
def photographs_in(folder: str) -> tuple[Path, ...]:
    """All photographs under a folder, in the order of their names."""
    files = Path(folder).rglob("*")
    paths = tuple(sorted(path for path in files if path.suffix.lower() in _PHOTOGRAPHS))
    if not paths:
        raise ValueError(f"{folder}: no photographs; put files of {', '.join(_PHOTOGRAPHS)} there")
    return paths


@lru_cache(maxsize=4)
def _opened(path: Path) -> PIL.Image.Image:
    try:
        return pictures.original(Picture(path=str(path)))
    except Unusable as error:
        raise ValueError(f"{error}; take it out of the photographs") from error


def _draw_clutter(
    pen: PIL.ImageDraw.ImageDraw, size: Size, largest: int, rng: np.random.Generator
) -> None:
    """A bar, ellipse or ring in a colour too dull to be taken for an object's."""
    shape, tone, red, green, blue, x, y, long, wide, turn = (float(u) for u in rng.random(10))
    colour = tuple(int(40 + 160 * tone + 28 * (hue - 0.5)) for hue in (red, green, blue))
    x, y = x * size[0], y * size[1]
    length, width = largest * (0.15 + 0.4 * long), largest * (0.04 + 0.16 * wide)
    if shape < 1 / 3:
        along, across = math.cos(math.pi * turn), math.sin(math.pi * turn)
        ends = ((length, width), (length, -width), (-length, -width), (-length, width))
        corners = [(x + a * along - b * across, y + a * across + b * along) for a, b in ends]
        pen.polygon(corners, fill=colour)
    elif shape < 2 / 3:
        pen.ellipse((x - length, y - width, x + length, y + width), fill=colour)
    else:
        ring = (x - length, y - length, x + length, y + length)
        pen.ellipse(ring, outline=colour, width=max(1, int(width / 2)))


def _paint_thing(canvas: PIL.Image.Image, thing: Thing) -> None:
    """The body with a shadow, a dark rim and light falling from above."""
    x, y, right, _ = (int(edge) for edge in thing.box)
    side = right - x
    rim = max(1, side // 28)
    shift = max(1, side // 20)
    canvas.paste((20, 20, 20), (x + shift, y + shift), _shadow(thing.shape, side))
    red, green, blue = COLOURS[thing.colour]
    canvas.paste((red // 2, green // 2, blue // 2), (x, y), _body(thing.shape, side))
    inner = side - 2 * rim
    canvas.paste(_lit(thing.colour, inner), (x + rim, y + rim), _body(thing.shape, inner))


@lru_cache(maxsize=256)
def _lit(colour: str, side: int) -> PIL.Image.Image:
    light = np.linspace(1.12, 0.88, side)[:, None, None]
    patch = np.array(COLOURS[colour]) * light * np.ones((side, side, 1))
    return PIL.Image.fromarray(patch.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=256)
def _shadow(shape: Shape, side: int) -> PIL.Image.Image:
    return _body(shape, side).point([cover // 3 for cover in range(256)])


@lru_cache(maxsize=512)
def _body(shape: Shape, side: int) -> PIL.Image.Image:
    """How much of each pixel the shape covers, 0..255."""
    fine = side * _OVERSAMPLING
    image = PIL.Image.new("L", (fine, fine))
    pen = PIL.ImageDraw.Draw(image)
    match shape:
        case "block":
            pen.rounded_rectangle((0, 0, fine - 1, fine - 1), radius=fine // 12, fill=255)
        case "disc":
            pen.ellipse((0, 0, fine - 1, fine - 1), fill=255)
        case "diamond":
            half = fine / 2
            pen.polygon([(half, 0), (fine, half), (half, fine), (0, half)], fill=255)
    return image.reduce(_OVERSAMPLING)
