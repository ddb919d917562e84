"""A trajectory's ids as readable blocks, which separate what the model sampled, token by token,
from what it was given.

A block is `{"role", "sampled", "turn", ...}`. A sampled one has `tokens`, each
`[text, [[id, logprob, policy_logprob], ...]]`: more than one id where only several together are
whole characters. A given one has `parts`, texts and `{"image": tokens, "number": n}`; number 0 is
the first image. `turn` is the turn that a block is, or that it follows; -1 before the first.

Without a tokenizer only what was recorded as text is there: the turns, whole.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Int32

from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.trajectory import Size, Trajectory

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes, and so tokens

Block = dict[str, Any]


class Decoder:
    """Decodes trajectories. Without a tokenizer it gives the recorded text of turns alone."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def blocks(self, trajectory: Trajectory) -> list[Block]:
        if self.tokenizer is None or not len(trajectory.ids):
            return [_whole_turn(turn.text, at) for at, turn in enumerate(trajectory.turns)]
        blocks: list[Block] = []
        images = 0
        for start, stop, turn, sampled in _stretches(trajectory):
            if sampled:
                tokens = list(self._tokens(trajectory, start, stop))
                blocks.append(_sampled(turn, tokens))
                continue
            for block in self._given(trajectory.ids[start:stop], turn, images):
                images += sum(isinstance(part, dict) for part in block["parts"])
                if not block["role"] and blocks:
                    blocks[-1]["tail"] = "".join(p for p in block["parts"] if isinstance(p, str))
                elif block["parts"] or block["role"] != "assistant":
                    blocks.append(block)
        return blocks

    def images(self, trajectory: Trajectory) -> list[int]:
        """The tokens of each image in the conversation, in order."""
        if self.tokenizer is None:
            return []
        is_pad = trajectory.ids == self.tokenizer.image_pad
        edges = np.flatnonzero(np.diff(np.concatenate([[0], is_pad.astype(np.int8), [0]])))
        return [int(stop - start) for start, stop in edges.reshape(-1, 2)]

    def _tokens(self, trajectory: Trajectory, start: int, stop: int) -> Iterator[list[Any]]:
        ids = trajectory.ids
        while start < stop:
            end, text = self._character(ids[start : min(stop, start + _LONGEST_CHARACTER)])
            numbers = []
            for place in range(start, start + end):
                entry = [int(ids[place]), _number(trajectory.logprobs[place])]
                policy = _number(trajectory.policy_logprobs[place])
                numbers.append(entry if policy == entry[1] else [*entry, policy])
            yield [text, numbers]
            start += end

    def _character(self, ids: Int32[np.ndarray, "T"]) -> tuple[int, str]:
        """The number of ids that make whole characters, and their text; else the first id alone."""
        first = self._piece(int(ids[0]))
        if _BROKEN not in first:
            return 1, first
        for count in range(2, len(ids) + 1):
            text = self._decode(ids[:count])
            if _BROKEN not in text:
                return count, text
        return 1, first

    def _given(self, ids: Int32[np.ndarray, "T"], turn: int, images: int) -> Iterator[Block]:
        """The given ids split into messages. What precedes the first message has no role."""
        assert self.tokenizer is not None
        cuts = np.flatnonzero(ids == self.tokenizer.im_start)
        edges = sorted({0, len(ids), *(int(cut) for cut in cuts)})
        for start, stop in pairwise(edges):
            parts = self._parts(ids[start:stop], images)
            images += sum(isinstance(part, dict) for part in parts)
            role = ""
            if ids[start] == self.tokenizer.im_start and parts and isinstance(parts[0], str):
                role, _, rest = parts[0].removeprefix("<|im_start|>").partition("\n")
                parts = [rest, *parts[1:]] if rest else parts[1:]
            yield {"role": role, "sampled": False, "turn": turn, "parts": parts}

    def _parts(self, ids: Int32[np.ndarray, "T"], images: int) -> list[Any]:
        assert self.tokenizer is not None
        is_pad = ids == self.tokenizer.image_pad
        cuts = (np.flatnonzero(np.diff(is_pad.astype(np.int8))) + 1).tolist()
        parts: list[Any] = []
        for start, stop in zip([0, *cuts], [*cuts, len(ids)]):
            if is_pad[start]:
                parts.append({"image": stop - start, "number": images})
                images += 1
            else:
                parts.append(self._decode(ids[start:stop]))
        return parts

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self._decode(np.array([token], np.int32))
        return self._pieces[token]

    def _decode(self, ids: Int32[np.ndarray, "T"]) -> str:
        assert self.tokenizer is not None
        if ids.min() < 0 or ids.max() >= self.tokenizer.size:
            raise ValueError(
                f"id {int(ids.max())} is outside the tokenizer's {self.tokenizer.size}; "
                "the run had another tokenizer"
            )
        return self.tokenizer.decode(ids)


def seen_size(tokens: int, cut: Size, side: int) -> Size | None:
    """The size at which the model saw a crop: of the sizes with that many tokens the one nearest to
    the crop's shape. `side` is a token's side in pixels."""
    if tokens < 1 or side < 1:
        return None
    wanted = math.log(cut[0] / cut[1])
    pairs = [(n, tokens // n) for n in range(1, tokens + 1) if tokens % n == 0]
    columns, rows = min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1]) - wanted))
    return columns * side, rows * side


def token_side(tokens: int, shown: Size) -> int:
    """The side of a token in pixels, computed from an image's size and tokens; 0 if they do not
    fit."""
    side = math.isqrt(shown[0] * shown[1] // tokens) if tokens else 0
    return side if side * side * tokens == shown[0] * shown[1] else 0


def _stretches(trajectory: Trajectory) -> Iterator[tuple[int, int, int, bool]]:
    """Start, stop, turn and whether sampled, of each stretch of ids within a turn or between
    two."""
    sampled = np.asarray(trajectory.sampled, bool)
    turn_of = np.full(len(sampled), -1)
    starts = [turn.start for turn in trajectory.turns]
    for number, turn in enumerate(trajectory.turns):
        turn_of[turn.start :] = number
    changes = np.flatnonzero(np.diff(sampled.astype(np.int8))) + 1
    edges = sorted({0, len(sampled), *changes.tolist(), *(s for s in starts if s < len(sampled))})
    for start, stop in pairwise(edges):
        yield start, stop, int(turn_of[start]), bool(sampled[start])


def _whole_turn(text: str, turn: int) -> Block:
    return _sampled(turn, [[text, []]])


def _sampled(turn: int, tokens: list[Any]) -> Block:
    return {"role": "assistant", "sampled": True, "turn": turn, "tokens": tokens}


def _number(value: Any) -> float | None:
    """The value with four decimals; None if it is not finite."""
    return round(float(value), 4) if math.isfinite(value) else None
