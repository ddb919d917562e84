"""What a model says, as text that can be sent on while it comes.

Bytes of a letter that is not whole yet are held back, and so is text that may turn out to be the
beginning of a stop string or of a tool call.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.protocol import CALL, CALL_END, Call, read_turn

_HALF = "\ufffd"
_LONGEST_LETTER = 8
"""The most tokens that spell one letter. Bytes that are no letter by then are sent as U+FFFD."""


@dataclass
class TextDecoder:
    """Ids to text, in pieces that each end with a whole letter."""

    tokenizer: Tokenizer
    _ids: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], *, last: bool = False) -> str:
        ends = (self.tokenizer.im_end, self.tokenizer.endoftext)
        self._ids += [number for number in ids if number not in ends]
        text = self.tokenizer.decode(np.array(self._ids, np.int32)) if self._ids else ""
        if text.endswith(_HALF) and len(self._ids) <= _LONGEST_LETTER and not last:
            return ""
        self._ids.clear()
        return text


@dataclass
class Watched:
    """Text up to the first of `stops`, which is left out, and from the first of `marks` on."""

    stops: Sequence[str]
    marks: Sequence[str] = ()
    text: str = ""
    """What may be sent."""
    held: str = ""
    """What begins with a mark, or may be the beginning of a stop or a mark."""
    stopped: bool = False

    def add(self, more: str, *, last: bool = False) -> str:
        """Returns what of the text may be sent now."""
        if self.stopped:
            return ""
        self.held += more
        found = [at for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            self.held, self.stopped = self.held[: min(found)], True
        marked = [at for mark in self.marks if (at := self.held.find(mark)) >= 0]
        keep = 0 if last or self.stopped else self._may_begin()
        at = min(marked, default=len(self.held) - keep)
        sent, self.held = self.held[:at], self.held[at:]
        self.text += sent
        return sent

    def _may_begin(self) -> int:
        """How long the end of the held text is that may begin a stop or a mark."""
        watched = (*self.stops, *self.marks)
        longest = min(len(self.held), max(map(len, watched), default=1) - 1)
        ends = (
            n for n in range(longest, 0, -1) if any(w.startswith(self.held[-n:]) for w in watched)
        )
        return next(ends, 0)


@dataclass(frozen=True)
class ToolCall:
    """A call for the client to carry out; `arguments` is JSON as the model wrote it."""

    name: str
    arguments: str


def tool_call(held: str) -> ToolCall | None:
    """The call that a turn ends with, or None if it is none that could be carried out."""
    if not isinstance(read_turn(held), Call):
        return None
    written = held.partition(CALL)[2].partition(CALL_END)[0]
    call = json.loads(written)
    if not call["name"].isprintable():  # half a surrogate pair, which no reply could hold
        return None
    return ToolCall(call["name"], json.dumps(call["arguments"]))
