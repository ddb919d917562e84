"""The text of an episode: its prompt, and what comes back after a turn. Ids are only appended.

Everything here runs on the host and in any thread. Pictures are opened, cut and resized, and text
is encoded, but sampled tokens are never encoded again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import PIL.Image
from jaxtyping import Int32, UInt8

from lfpc_jax.data import pictures
from lfpc_jax.processing.chat import ChatTemplate, Grid, Message
from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.protocol import Action, Call, Refusal, read_turn
from lfpc_jax.rollout.tools import NO_IMAGE, Observation, Ready, Toolbox, refuse, system_prompt
from lfpc_jax.trajectory import Crop, Picture, Record

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, eq=False)
class View:
    """A picture as it is shown to the model, and the original that its crops are cut from."""

    shown: UInt8[np.ndarray, "height width 3"]
    original: PIL.Image.Image

    @property
    def frame(self) -> Frame:
        height, width = self.shown.shape[:2]
        return Frame(self.original.size, (width, height))


@dataclass(frozen=True, eq=False)
class Opening:
    """A record's prompt: its ids, their positions, and the picture that it shows, if it has one.

    If the record's rollouts begin differently after these ids, `follow` has what comes next: one
    function for each beginning, called in a worker thread. As many rollouts as are asked for begin
    with each, in order."""

    record: Record
    ids: Int32[np.ndarray, "T"]
    positions: Int32[np.ndarray, "3 T"]
    view: View | None
    follow: tuple[Callable[[], "ToolReply"], ...] = ()

    @property
    def position(self) -> int:
        """The position of the last id, which is text."""
        return int(self.positions[0, -1])


@dataclass(frozen=True, eq=False)
class ToolReply:
    """What follows a turn of the model, or an opening that goes on in several ways: ids up to the
    cue of the next turn, and the picture among them, if there is one.

    After a turn, `ids` begin after its <|im_end|>, which the turn may have left unwritten. If more
    pictures follow before the next turn, `then` gives what comes next.
    """

    ids: Int32[np.ndarray, "T"]
    grids: tuple[Grid, ...] = ()
    picture: UInt8[np.ndarray, "height width 3"] | None = None
    crop: Crop | None = None
    then: "Callable[[], ToolReply] | None" = None


Alter = Callable[[Ready, Observation, Opening, Sequence[Crop]], Observation]
"""Returns what is shown instead of what a call gave; the crops are the episode's earlier ones, as
the model asked for them."""


@dataclass(frozen=True)
class Dialogue:
    """`processor` has the budget of the shown image; every tool brings its own for what it gives.
    `alter`, if given, replaces what calls give; its pictures must keep to the crops' budget.
    `answers` says whether the model that the dialogue is with answers by itself."""

    answers: ClassVar[bool] = True

    tokenizer: Tokenizer
    chat: ChatTemplate
    processor: ImageProcessor
    toolbox: Toolbox
    alter: Alter | None = None

    def open(self, record: Record) -> Opening:
        """Makes a record's prompt. Raises `Unusable` for a picture that cannot be read, and
        ValueError for a text or a shape that cannot be shown."""
        return self.opening(record, None if record.picture == Picture() else self.look(record))

    def opening(self, record: Record, view: View | None) -> Opening:
        """The same, for a record whose picture is open."""
        grids = [] if view is None else [self.processor.grid_of(view.shown)]
        ids = self.chat.encode(self.messages(record), grids, True)
        positions, _ = mrope_positions(ids, grids, self.tokenizer.image_pad)
        return Opening(record, ids, positions, view)

    def size(self, record: Record) -> tuple[Grid, int]:
        """The grid of the picture that `open` shows, (0, 0) without one, and the number of text
        tokens beside it. Only the head of the picture's file is read."""
        if record.picture == Picture():
            return (0, 0), len(self.chat.encode(self.messages(record), [], True))
        size = pictures.shrunk(pictures.size(record.picture), record.longest_side)
        text = len(self.chat.encode(self.messages(record), [(1, 1)], True)) - 1
        return self.processor.grid(*size), text

    def look(self, record: Record) -> View:
        """The record's picture at the size that its information gap and the token budget leave."""
        return self.view_of(pictures.original(record.picture), record.longest_side)

    def view_of(self, original: PIL.Image.Image, longest_side: int | None) -> View:
        seen = original if longest_side is None else pictures.shrink(original, longest_side)
        return View(self.processor.resize(seen), original)

    def messages(self, record: Record) -> list[Message]:
        image = [] if record.picture == Picture() else [{"type": "image"}]
        return [
            {"role": "system", "content": system_prompt(self.toolbox)},
            {"role": "user", "content": [*image, {"type": "text", "text": question(record)}]},
        ]

    def read(self, text: str) -> Action:
        """What a finished turn of the model means."""
        return read_turn(text)

    def validate(self, call: Call, opening: Opening) -> Ready | Refusal:
        if opening.view is None:
            return Refusal(NO_IMAGE, "there is no image to look at")
        return self.toolbox.validate(call, opening.view.frame)

    def reply(
        self, request: Ready | Refusal, opening: Opening, earlier: Sequence[Crop]
    ) -> ToolReply:
        """Carries out a call, or tells the model what was wrong with it; `earlier` are the
        episode's crops so far."""
        if isinstance(request, Refusal):
            return ToolReply(self.chat.encode_after_reply(refuse(request), []))
        assert opening.view is not None, "a valid call without a picture"
        seen = request.execute(opening.view.original)
        if self.alter is not None:
            seen = self.alter(request, seen, opening, earlier)
        grids = (self.processor.grid_of(seen.picture),)
        ids = self.chat.encode_after_reply(request.tool.render(seen), grids)
        return ToolReply(ids, grids, seen.picture, seen.crop)


def question(record: Record) -> str:
    """The question as the model reads it, with its options by letter if it has some."""
    if not record.options:
        return record.question
    return f"{listed(record)}\nAnswer with the letter of the right option."


def listed(record: Record) -> str:
    """The question, and its options by letter below it."""
    options = [f"{letter}. {text}" for letter, text in zip(LETTERS, record.options)]
    return "\n".join((record.question, *options))
