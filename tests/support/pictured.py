"""Records with small pictures of their own."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.trajectory import Picture, Record


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A small picture that differs from those of other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def record(name: str = "r", **changes) -> Record:
    whole = {"question": "What is it?", "answer": "a", "picture": Picture(data=jpeg())}
    return Record(id=name, **(whole | changes))


def dialogue(folder: Path, *, image_tokens: int) -> Dialogue:
    """What a run opens its records with, with a tokenizer of bytes."""
    write_tokenizer(folder, ["a"], 300, ImageProcessor())
    return zooming(folder, image_tokens=image_tokens, crop_tokens=64)
