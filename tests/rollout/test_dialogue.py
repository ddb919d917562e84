"""What a prompt will need, known without opening its picture."""

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.trajectory import Picture
from support import small


def sideways(width, height):
    """A JPEG whose EXIF data turns it."""
    image = PIL.Image.new("RGB", (width, height), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return Picture(data=out.getvalue())


RECORDS = {
    "plain": small.record(1),
    "strip": small.record(2, picture=small.picture(2, 1200, 60)),
    "large": small.record(3, picture=small.picture(3, 900, 700)),
    "gap": small.record(4, picture=small.picture(3, 900, 700), longest_side=57),
    "no gap": small.record(5, longest_side=4000),
    "sideways": small.record(6, picture=sideways(400, 130)),
    "no picture": small.record(7, picture=Picture()),
    "options": small.record(8, options=("red", "blue"), answer="A"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_size_of_a_prompt_is_that_of_what_opens(name):
    for dialogue in (small.dialogue(), replace(small.dialogue(), toolbox=Toolbox(()))):
        grid, text = dialogue.size(RECORDS[name])
        opening = dialogue.open(RECORDS[name])
        visual = int((np.asarray(opening.ids) == dialogue.tokenizer.image_pad).sum())
        assert grid[0] * grid[1] == visual
        assert text == len(opening.ids) - visual
        if opening.view is not None:
            assert grid == dialogue.processor.grid_of(opening.view.shown)
