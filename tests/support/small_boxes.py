"""A small crop network: as `small`, but its tokens spell boxes, good ones and bad ones."""

import functools
from pathlib import Path

from lfpc_jax.cropvlm.proposing import OUTLINE, Proposing, proposing
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from support import scratch, small

LEFT, TOP = ("[2, ", "[40, ", "[70, ", "over there"), ("5, ", "30, ", "60, ")
RIGHT, BOTTOM = ("50, ", "75, ", "98, "), ("45].", "80].", "100].", "3].")
FOLLOWS = [(("\n",), LEFT), (LEFT[:3], TOP), (LEFT[3:], (small.END,)), (TOP, RIGHT),
           (RIGHT, BOTTOM), (BOTTOM, (small.END,))]  # fmt: skip


@functools.cache
def folder() -> Path:
    path = scratch.folder("small-boxes-")
    texts = [f"Which colour is it? 0123456789 red blue\n{OUTLINE}"] * 5
    whole = (*LEFT, *TOP, *RIGHT, *BOTTOM)
    write_tokenizer(path, texts, 1000, ImageProcessor(min_pixels=784), whole=whole)
    return path


@functools.cache
def dialogue() -> Proposing:
    return proposing(folder(), image_tokens=32, crop_tokens=16)


def hf_folder(path: Path) -> Path:
    """The crop network as a Hugging Face folder."""
    tokenizer = dialogue().tokenizer
    cfg = small.config(image_token=tokenizer.image_pad)
    return small.write_folder(path, folder(), small.pushed(tokenizer, FOLLOWS), cfg)
