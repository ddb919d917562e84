"""What `rollout.py` rolls out: a small random model that crops and answers, and its pictures.

The weights are random, but each token is biased towards those that may follow it: filler words,
then a call or an answer. So turns are tens of tokens long, and episodes have one to five of them.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.run.dialogues import after_prompt
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Picture, Record

_HEAD = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
_FILLERS = tuple(f"word{n}" for n in range(40))
_LEFT, _TOP = tuple(f"{n}, " for n in (4, 90, 160)), tuple(f"{n}.0, " for n in (8, 60, 150))
_RIGHT, _END = tuple(f"{n}, " for n in (200, 290, 430)), "]}}</tool_call>"
_BOTTOM = tuple(f"{n}{_END}" for n in (210, 300, 440))
_ANSWER = "<answer>red</answer>"
_CALLS_TO_ANSWERS = 3.0
_PUSH = 20.0


@dataclass(frozen=True, eq=False)
class World:
    cfg: ModelConfig
    params: Any
    dialogue: Dialogue
    shapes: RolloutShapes
    ends: tuple[int, ...]
    """Ids that end a turn: special ones, and those that complete a call."""


def make_world(text: TextConfig, vision: VisionConfig, *, slots: int, chunk: int) -> World:
    """A model with images of 256 visual tokens."""
    crops = ImageProcessor(min_pixels=784).with_tokens(64)
    toolbox = Toolbox((Zoom(crops, aspect_limit=16.0),))
    folder = Path(tempfile.mkdtemp(prefix="rollout-bench-"))
    whole = (_HEAD, *_FILLERS, *_LEFT, *_TOP, *_RIGHT, *_BOTTOM, _ANSWER)
    texts = [system_prompt(toolbox), "Which colour is the small mark?"] * 5
    write_tokenizer(folder, texts, text.vocab, ImageProcessor(min_pixels=784), whole=whole)
    tokenizer = Tokenizer.from_folder(folder)
    cfg = ModelConfig(text, vision, tied=False, image_token=tokenizer.image_pad, dtype="float32")
    processor = ImageProcessor(min_pixels=784).with_tokens(256)
    dialogue = Dialogue(tokenizer, ChatTemplate.from_folder(folder, tokenizer), processor, toolbox)
    shapes = RolloutShapes(
        slots=slots,
        chunk=chunk,
        capacity=1536,
        image_tokens=256,
        crop_tokens=64,
        prompt_text=Buckets((320,)),
        observation_text=64,
        crop_buckets=Buckets((4, 8, 16)),
        image_buckets=Buckets((16, 64)),
    )
    completing = [tokenizer.encode(text).item() for text in _BOTTOM]
    ends = (tokenizer.im_end, tokenizer.endoftext, tokenizer.encode("</tool_call>").item())
    return World(cfg, _pushed(cfg, tokenizer), dialogue, shapes, (*ends, *completing))


def with_images(world: World, tokens: int, *, capacity: int) -> World:
    """The same model with images of another budget."""
    processor = world.dialogue.processor.with_tokens(tokens)
    shapes = replace(world.shapes, image_tokens=tokens, image_buckets=None, capacity=capacity)
    return replace(world, dialogue=replace(world.dialogue, processor=processor), shapes=shapes)


def as_configured(shapes: RolloutShapes, rules: Rules, rollouts: int) -> RolloutShapes:
    """The shapes that a run's settings would give for so many rollouts of a prompt."""
    members = min(rollouts, shapes.slots)
    return replace(
        shapes,
        members=members,
        prefixes=min(shapes.slots, -(-3 * shapes.slots // (2 * members))),
        own=after_prompt(rules, shapes.crop_tokens),
    )


def records(count: int, seed: int = 0, *, side: int = 448) -> list[Record]:
    """Questions about square pictures; a visual token is 28 pixels wide and high."""
    rng = np.random.default_rng(seed)
    folder = Path(tempfile.mkdtemp(prefix="rollout-bench-pictures-"))
    asked = []
    for number in range(count):
        path = folder / f"{number}.png"
        PIL.Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
        question = "Which colour is the small mark?"
        asked.append(Record(f"r{number}", question, "red", Picture(path=str(path))))
    return asked


def _pushed(cfg: ModelConfig, tokenizer: Tokenizer) -> Any:
    params = spec.init(jax.random.key(0), cfg, dtype="float32")
    rng = np.random.default_rng(0)
    embed = rng.standard_normal((cfg.text.vocab, cfg.text.width)).astype(np.float32)
    unembed = np.zeros_like(embed)

    def push(before: Sequence[str], after: Sequence[str], times: float = 1.0) -> None:
        for first in before:
            direction = embed[tokenizer.encode(first).item()] / cfg.text.width
            for following in after:
                at = tokenizer.encode(following).item()
                unembed[at] += (_PUSH + np.log(times)) * direction

    push(("\n", *_FILLERS), _FILLERS)
    push(_FILLERS, (_HEAD,), _CALLS_TO_ANSWERS)
    push(_FILLERS, (_ANSWER,))
    push((_HEAD,), _LEFT)
    push(_LEFT, _TOP)
    push(_TOP, _RIGHT)
    push(_RIGHT, _BOTTOM)
    push((_ANSWER,), ("<|im_end|>",))
    return params | {"embed": jnp.asarray(embed), "unembed": jnp.asarray(unembed)}
