"""ViCrop's boxes by relative attention (`rel_att`), which need no training.

A model reads the image and the question, and the attention of the prompt's last token to the
image's tokens is taken at one layer, as the mean over heads. It is divided by the same under a
neutral question, so that what the model looks at whatever it is asked cancels. Squares of `side`
pixels of the original, times each of `RATIOS`, slide over this map. For each size the square with
the largest sum counts. Of all sizes, the one is taken whose sum exceeds those of the squares one
cell beside it (their mean) by the most per cell.

Deviations from the authors' code: centres and sides are not truncated to whole pixels, which moves
a box by at most two; a square smaller than a cell of the map covers one cell, where theirs covers
none; where the neutral attention is 0, the smallest positive number stands for it.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float

from lfpc_jax.arrays import Tree
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.evaluation.alter import shows
from lfpc_jax.model import qwen
from lfpc_jax.model.config import ModelConfig, TextConfig
from lfpc_jax.processing.batch import collate
from lfpc_jax.processing.geometry import Box
from lfpc_jax.rollout.dialogue import Dialogue, View, question
from lfpc_jax.shapes import geometric, window_buckets, windows_for
from lfpc_jax.trajectory import Box4, Images, Record, Size, Tokens

log = logging.getLogger(__name__)

NEUTRAL = "Write a general description of the image."
INSTRUCTION = "Answer the question using a single word or phrase."
PUBLISHED_LAYER = 22
RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
_TEXT = geometric(64, 2048)


@dataclass(frozen=True)
class RelativeAttention:
    """The settings. `layer` counts from 0; None takes `usual_layer`. `side` is that of the smallest
    square, in pixels of the original. `instruction` follows both questions. `rows` records are
    computed at once."""

    layer: int | None = None
    side: float = 224.0
    instruction: str = INSTRUCTION
    rows: int = 8

    def __post_init__(self) -> None:
        if self.side <= 0 or self.rows < 1:
            raise ValueError(f"{self}: side must be positive, and rows at least 1")

    def depth(self, text: TextConfig) -> int:
        """The layer of a model, checked."""
        depth = usual_layer(text) if self.layer is None else self.layer
        if not 0 <= depth < text.layers:
            raise ValueError(
                f"rel_att: layer {depth} of a model whose {text.layers} layers count from 0; "
                f"choose one up to {text.layers - 1}"
            )
        return depth


def usual_layer(text: TextConfig) -> int:
    """Layer 22 of the 36 of Qwen2.5-VL-3B, as published; as deep in other models."""
    return PUBLISHED_LAYER * text.layers // 36


@dataclass(frozen=True, eq=False)
class _Asked:
    """A record's picture, and its two prompts: about the question, and the neutral one."""

    place: int
    view: View
    ids: tuple[np.ndarray, np.ndarray]


def relative_attention_boxes(
    params: Tree,
    cfg: ModelConfig,
    dialogue: Dialogue,
    records: Sequence[Record],
    settings: RelativeAttention | None = None,
) -> Iterator[Box4 | None]:
    """For each record, in order, its box in pixels of the original. A record that cannot be shown
    is logged, and has none. `params` are stacked or not; `dialogue` has the model's tokenizer and
    template and the budget of the image."""
    settings = settings or RelativeAttention()
    depth = settings.depth(cfg.text)
    at_once = 8 * settings.rows
    for start in range(0, len(records), at_once):
        boxes: dict[int, Box4 | None] = {}
        batches: dict[tuple[int, int], list[_Asked]] = defaultdict(list)
        for place, record in enumerate(records[start : start + at_once]):
            try:
                asked = _asked(place, record, dialogue, settings.instruction)
                batches[_buckets(asked, dialogue)].append(asked)
            except (Unusable, ValueError) as error:
                log.warning("record %r skipped: %s", record.id, error)
                boxes[place] = None
        for (windows, length), batch in batches.items():
            for first in range(0, len(batch), settings.rows):
                part = batch[first : first + settings.rows]
                padded = part + part[-1:] * (settings.rows - len(part))
                arrays = _arrays(padded, dialogue, cfg.image_token, windows, length)
                weights = jax.device_get(_weights(params, *arrays, cfg=cfg, depth=depth))
                for row, asked in enumerate(part):
                    relative = _map(weights[:, row], arrays[0].image_index[row], asked, dialogue)
                    size = asked.view.original.size
                    boxes[asked.place] = attended_box(relative, size, settings.side)
        yield from (boxes[place] for place in range(len(boxes)))


def attended_box(attention: Float[np.ndarray, "rows columns"], size: Size, side: float) -> Box:
    """The square of an image of this size that a map of attention over it selects. An image that
    the smallest square covers is selected whole. Of equal sums the leftmost counts, then the
    topmost; of equal sizes the smallest."""
    rows, columns = attention.shape
    cell = size[0] / columns, size[1] / rows
    best: tuple[float, Box] | None = None
    for ratio in RATIOS:
        across = min(max(1, int(side * ratio / cell[0])), columns)
        down = min(max(1, int(side * ratio / cell[1])), rows)
        if (down, across) == (rows, columns):
            break  # and so would be every larger square
        windows = np.lib.stride_tricks.sliding_window_view(attention, (down, across))
        sums = windows.sum(axis=(2, 3), dtype=np.float64)
        x, y = divmod(int(sums.T.argmax()), sums.shape[0])
        beside = [
            sums[y + dy, x + dx]
            for dy, dx in ((0, -1), (0, 1), (-1, 0), (1, 0))
            if 0 <= y + dy < sums.shape[0] and 0 <= x + dx < sums.shape[1]
        ]
        sharpness = float(sums[y, x] - np.mean(beside)) / (across * down)
        if best is None or sharpness > best[0]:
            centre = (x + across / 2) * cell[0], (y + down / 2) * cell[1]
            best = sharpness, _square(centre, side * ratio, size)
    return best[1] if best else Box(0.0, 0.0, float(size[0]), float(size[1]))


def _square(centre: tuple[float, float], side: float, size: Size) -> Box:
    """The square about `centre`, shifted into the image; where the image is smaller, all of it."""
    sides = [min(side, extent) for extent in size]
    x, y = (
        min(max(middle - length / 2, 0.0), extent - length)
        for middle, length, extent in zip(centre, sides, size)
    )
    return Box(x, y, x + sides[0], y + sides[1])


def _asked(place: int, record: Record, dialogue: Dialogue, instruction: str) -> _Asked:
    if not shows(record):
        raise ValueError("there is no image to attend to")
    view = dialogue.look(record)
    grid = dialogue.processor.grid_of(view.shown)

    def prompt(text: str) -> np.ndarray:
        content = [{"type": "image"}, {"type": "text", "text": f"{text} {instruction}"}]
        return dialogue.chat.encode([{"role": "user", "content": content}], [grid], True)

    return _Asked(place, view, (prompt(question(record)), prompt(NEUTRAL)))


def _buckets(asked: _Asked, dialogue: Dialogue) -> tuple[int, int]:
    """The windows of the picture and the tokens of both prompts, in their buckets."""
    processor = dialogue.processor
    rows, columns = processor.grid_of(asked.view.shown)
    budget = processor.max_pixels // processor.factor**2
    windows = window_buckets(budget, processor.window).fit(
        windows_for(rows, columns, processor.window), "windows of an image"
    )
    text = max(len(ids) for ids in asked.ids) - rows * columns
    visual = min(windows * processor.window**2, budget)
    return windows, visual + _TEXT.fit(text, "text tokens of a question for rel_att")


def _arrays(
    batch: Sequence[_Asked], dialogue: Dialogue, image_token: int, windows: int, length: int
) -> tuple[Tokens, Tokens, Images | None]:
    """The prompts about the questions, the neutral ones, and the pictures of both."""
    pictures = [[asked.view.shown] for asked in batch]
    (about, images), (neutral, _) = (
        collate(
            ids,
            pictures,
            processor=dialogue.processor,
            image_token=image_token,
            length=length,
            windows=windows,
        )
        for ids in zip(*(asked.ids for asked in batch))
    )
    return about, neutral, images


@partial(jax.jit, static_argnames=("cfg", "depth"))
def _weights(
    params: Tree, about: Tokens, neutral: Tokens, images: Images, *, cfg: ModelConfig, depth: int
) -> Float[Array, "2 B T"]:
    """The attention of both prompts' last tokens, the mean over heads. Pictures are encoded
    once."""
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    both = (
        qwen.last_weights(params, tokens, embeddings, cfg=cfg, depth=depth).mean(axis=1)
        for tokens in (about, neutral)
    )
    return jax.numpy.stack(tuple(both))


def _map(
    weights: Float[np.ndarray, "2 T"], image_index: np.ndarray, asked: _Asked, dialogue: Dialogue
) -> Float[np.ndarray, "rows columns"]:
    """The relative attention to the tokens of the picture, which lie at the same places in both
    prompts: the text before it is the same."""
    about, neutral = weights[:, image_index >= 0].astype(np.float64)
    relative = about / np.maximum(neutral, np.finfo(np.float32).tiny)
    return relative.reshape(dialogue.processor.grid_of(asked.view.shown))
