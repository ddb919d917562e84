"""A small crop network: the small model with a vocabulary in which boxes are a few tokens long.

Most of its turns are valid boxes; others are reversed, empty, cut off, or no boxes at all.
"""

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.cropvlm.proposing import OUTLINE, Proposing, proposing
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.run.config import RolloutSettings
from support import small

IMAGE_TOKENS, CROP_TOKENS = 24, 16
ROLLOUT = RolloutSettings(
    dialogue="box", convention="percent", max_turns=1, turn_tokens=6, prompts=2, rollouts=8,
    slots=8, chunk=4, capacity=128, image_tokens=IMAGE_TOKENS, crop_tokens=CROP_TOKENS,
    prompt_text=(48,), workers=1,
)  # fmt: skip

LEFT, TOP = ("[0, ", "[10, ", "[35, "), ("5, ", "20, ")
RIGHT, BOTTOM = ("15, ", "60, ", "100, "), ("55].", "80].", "90]")
OTHER = ("There", " it is")
FOLLOWS = [
    (("\n",), (*LEFT, "There")),
    (LEFT, TOP),
    (TOP, RIGHT),
    (RIGHT, BOTTOM),
    (BOTTOM, (small.END,)),
    (("There", " it is"), (" it is", small.END)),
]


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="small-cropper-"))
    whole = (*LEFT, *TOP, *RIGHT, *BOTTOM, *OTHER, OUTLINE)
    texts = ["Which colour is it?", "You are a helpful assistant."] * 5
    write_tokenizer(path, texts, 1000, ImageProcessor(min_pixels=784), whole=whole)
    return path


@functools.cache
def dialogue() -> Proposing:
    return proposing(folder(), image_tokens=IMAGE_TOKENS, crop_tokens=CROP_TOKENS)


@functools.cache
def tokenizer() -> Tokenizer:
    return dialogue().tokenizer


@functools.cache
def config():
    return small.config(image_token=tokenizer().image_pad)


@functools.cache
def params(push: float = 12.0):
    """As `small.params`; the ids of its tokens are others."""
    return small.pushed(small.params(), np.random.default_rng(3), tokenizer(), FOLLOWS, push)


def hf_folder(path: Path) -> Path:
    """The model as a Hugging Face folder with its tokenizer."""
    assets = path.with_name("assets")
    shutil.copytree(folder(), assets)
    small.hf_config(config(), tokenizer()).save_pretrained(assets)
    origin = Origin(dtypes=("float32",))
    huggingface.save(params(), path, cfg=config(), assets_from=assets, origin=origin)
    return path
