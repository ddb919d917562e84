"""The dialogue that every command holds with a model: its folder's tokenizer and template, with the
zoom tool. Also how much is asked of an engine at once for given questions."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.chat import ChatTemplate, Grid
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.asking import toolbox
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.shapes import Buckets, geometric
from lfpc_jax.trajectory import Record

_STEP = 64
_TOGETHER = 8
_OBSERVATION = 256
"""Tokens of text in which a crop comes back, or a refusal, at most."""


def sizes(dialogue: Dialogue, records: Sequence[Record]) -> Iterator[tuple[Grid, int]]:
    """The image grid and the text length of each prompt. Records that cannot become prompts are
    left to the engine, which names them."""
    for record in records:
        with suppress(Unusable, ValueError):
            yield dialogue.size(record)


def text_buckets(lengths: Collection[int]) -> Buckets:
    """Buckets from the shortest of the lengths to the longest."""
    ends = (min(lengths, default=1), max(lengths, default=1))
    return geometric(*(-(-length // _STEP) * _STEP for length in ends))


def together(slots: int, groups: int) -> int:
    """How many prompts, or observations, go through a program at once. One at a time could not keep
    `slots` rows busy when answers are short; all at once would need too much memory."""
    return groups * max(1, min(_TOGETHER, slots // groups))


def after_prompt(rules: Rules, crop_tokens: int) -> int:
    """The most tokens that can follow a prompt: all that may be sampled, and all replies of the
    tool."""
    return rules.most_sampled + (rules.max_turns - 1) * (crop_tokens + _OBSERVATION)


def zooming(
    assets: Path, *, image_tokens: int, crop_tokens: int, convention: Convention = "shown"
) -> Dialogue:
    """The dialogue with the zoom tool. `assets` holds the tokenizer, the chat template and the
    processor files; budgets are in tokens."""
    tokenizer = Tokenizer.from_folder(assets)
    processor = ImageProcessor.from_folder(assets)
    return Dialogue(
        tokenizer,
        ChatTemplate.from_folder(assets, tokenizer),
        processor.with_tokens(image_tokens),
        toolbox(processor, crop_tokens, convention),
    )


def toolless(assets: Path, processor: ImageProcessor) -> Dialogue:
    """The dialogue without a tool; `processor` has the image budget."""
    tokenizer = Tokenizer.from_folder(assets)
    chat = ChatTemplate.from_folder(assets, tokenizer)
    return Dialogue(tokenizer, chat, processor, Toolbox(()))
