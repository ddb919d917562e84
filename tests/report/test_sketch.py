"""The picture that ask.py writes."""

import numpy as np
import PIL.Image

from lfpc_jax.processing.geometry import Box
from lfpc_jax.report.sketch import colour, sketch


def test_what_the_model_saw_stands_beside_the_original_with_its_boxes():
    original = PIL.Image.new("RGB", (360, 360), "#000000")
    shown = np.full((56, 56, 3), 60, np.uint8)
    crop = np.full((28, 84, 3), 120, np.uint8)
    page = sketch(original, shown, [(Box(90, 90, 180, 180), crop), (Box(0, 0, 90, 360), crop)])
    assert page.size == (720 + 12 + 320 + 12, 720)
    assert page.getpixel((300, 181)) == PIL.Image.new("RGB", (1, 1), colour(0)).getpixel((0, 0))
    assert page.getpixel((300, 300)) == (0, 0, 0)
    beside = [page.getpixel((900, y)) for y in range(720)]
    heights = {level: beside.count((level,) * 3) for level in (60, 120)}
    assert heights == {60: 320, 120: 2 * round(320 / 3)}


def test_without_a_crop_there_is_what_was_shown():
    page = sketch(PIL.Image.new("RGB", (720, 360)), np.full((28, 28, 3), 60, np.uint8), [])
    assert (60, 60, 60) in {page.getpixel((1440 + 12 + 160, y)) for y in range(720)}
