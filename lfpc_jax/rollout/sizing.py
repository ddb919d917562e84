"""How large an engine's programs must be for given questions, measured before anything compiles."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.chat import Grid
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.items import beginning
from lfpc_jax.shapes import Buckets, RolloutShapes, geometric, windows_for
from lfpc_jax.trajectory import Picture, Record

CHUNK = 8
"""Tokens that are drawn between two looks at what has ended, for questions with one answer each:
there turns end all the time, and a row that waits draws nothing."""

_STEP = 64
_TOGETHER = 8


def sizes(dialogue: Dialogue, records: Sequence[Record]) -> Iterator[tuple[Grid, int]]:
    """The image grid and the text length of each prompt. Records that cannot become prompts are
    left to the engine, which names them."""
    for record in records:
        with suppress(Unusable, ValueError):
            yield dialogue.size(record)


def beginnings(dialogue: Dialogue, records: Sequence[Record]) -> Iterator[tuple[Grid, int]]:
    """The same for the prompts' beginnings, which engines that keep these compute by themselves."""
    token = dialogue.tokenizer.image_pad
    for record in records:
        with suppress(Unusable, ValueError):
            grid, _ = dialogue.size(record)
            shown = [(1, 1)] if math.prod(grid) else []
            ids = dialogue.chat.encode(dialogue.messages(record), shown, True)
            yield grid, beginning(ids, token) - len(shown)


def share_pictures(records: Sequence[Record]) -> bool:
    """Whether any two of the records are about the same picture."""
    pictures = [record.picture for record in records if record.picture != Picture()]
    return len(set(pictures)) < len(pictures)


def in_buckets(prompts: Iterable[tuple[Grid, int]], shapes: RolloutShapes) -> set[tuple[int, int]]:
    """The programs that these prompts need, as `Engine.warm_up` takes them: image grids and text
    lengths in their buckets. Images over the budget are left to the engine, which names them."""
    return {
        (
            shapes.image_windows.fit(windows_for(*grid, shapes.window), "windows of an image"),
            shapes.prompt_text.fit(text, "tokens of a question"),
        )
        for grid, text in prompts
        if math.prod(grid) <= shapes.image_tokens
    }


def text_buckets(lengths: Collection[int]) -> Buckets:
    """Buckets from the shortest of the lengths to the longest."""
    return geometric(*(rounded(end) for end in (min(lengths, default=1), max(lengths, default=1))))


def rounded(length: int) -> int:
    """A number of tokens, up to the next step of buckets."""
    return -(-length // _STEP) * _STEP


def together(slots: int, groups: int) -> int:
    """How many prompts, or observations, go through a program at once. One at a time could not keep
    `slots` rows busy when answers are short; all at once would need too much memory."""
    return groups * max(1, min(_TOGETHER, slots // groups))
