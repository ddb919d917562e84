"""How a target model is shown a question: the full image, the crop, or both, and what follows.

A conversation is rendered once by the folder's own template and then split. The left part is what
all boxes of a question share, and it is prefilled once: up to the end of the full image, up to the
crop if there is no full image, or up to the generation cue where the zoom tool is called. What
follows for a box (its crop, the question, the cue) is made in a worker thread.

The full image is shown as `Dialogue.look` shows it, at the target's own budget: a record's
`longest_side` applies to it too, since the crop would otherwise add nothing. The crop is cut from
the original. Without a tool in the toolbox no crop is shown, and neither is one for a box of None:
`both` then shows the full image, `crop` the question alone, and `zoom` asks without the tool.
Boxes that the zoom tool would refuse as too small or too narrow are grown until it takes them.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from lfpc_jax.cropvlm.settings import Presentation, TargetSettings
from lfpc_jax.cropvlm.target import Question
from lfpc_jax.cropvlm.wording import capitalised
from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import fitting, shows
from lfpc_jax.processing.chat import ChatTemplate, Grid, Message, expand
from lfpc_jax.processing.geometry import Box, Convention, area, clamp
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.asking import digest
from lfpc_jax.rollout.dialogue import Dialogue, Opening, ToolReply, View, question
from lfpc_jax.rollout.protocol import CALL, CALL_END, Answer, read_turn
from lfpc_jax.rollout.said import said, untagged
from lfpc_jax.rollout.tools import Observation, Ready, Toolbox
from lfpc_jax.rollout.zoom import Region, Zoom
from lfpc_jax.trajectory import Box4, Picture, Record, Trajectory

BRIEFLY = "Give a very brief answer."

LONGEST: dict[Convention, Box] = {
    "shown": Box(*[99999.0] * 4),
    "original": Box(*[99999.0] * 4),
    "unit": Box(*[0.999] * 4),
    "percent": Box(*[100.0] * 4),
    "mille": Box(*[1000.0] * 4),
}
"""A box that is not written in fewer characters than others."""

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Place(NamedTuple):
    """Where a box is shown: the number of an opening, and of what follows it."""

    opening: int
    follow: int


@dataclass(frozen=True, eq=False)
class Shown:
    """A question as openings with what follows each. For every box, `places` says which of these
    shows it, or why it cannot be shown. Equal boxes have the same place."""

    openings: tuple[Opening, ...]
    places: tuple[Place | str, ...]


@dataclass(frozen=True, eq=False)
class Conversation:
    """What is asked about one box, up to the model's answer, and its pictures in order."""

    messages: list[Message]
    pictures: tuple[Pixels, ...]


@dataclass(frozen=True)
class Showing(Dialogue):
    """The dialogue with a target. `processor` has the budget of the full image, and the toolbox's
    zoom tool that of crops and the target's convention for boxes. An alteration (`alter`) replaces
    the crops that the target sees."""

    presentation: Presentation = "both"

    @classmethod
    def within(
        cls,
        settings: TargetSettings,
        tokenizer: Tokenizer,
        chat: ChatTemplate,
        processor: ImageProcessor,
        convention: Convention = "shown",
    ) -> "Showing":
        """The dialogue with the budgets and the presentation of the settings."""
        return cls(
            tokenizer,
            chat,
            processor.with_tokens(settings.image_tokens),
            Toolbox((Zoom.within(settings.crop_tokens, processor, convention),)),
            presentation=settings.presentation,
        )

    @classmethod
    def from_folder(
        cls, assets: Path, settings: TargetSettings, convention: Convention = "shown"
    ) -> "Showing":
        """`assets` holds the tokenizer, the chat template and the processor files."""
        tokenizer = Tokenizer.from_folder(assets)
        chat = ChatTemplate.from_folder(assets, tokenizer)
        return cls.within(settings, tokenizer, chat, ImageProcessor.from_folder(assets), convention)

    # What is asked

    def show(self, asked: Question) -> Shown:
        """The openings of a question, and where each of its boxes is. Raises `Unusable` for a
        picture that cannot be read, and ValueError for a text or a shape that cannot be shown."""
        record = asked.record
        view = self.view(record)
        boxes = [box if self._crops(record) else None for box in asked.boxes]
        openings: dict[bool, Opening] = {}  # by whether the zoom tool is called
        places: dict[Box4 | None, Place | str] = {}
        for box in dict.fromkeys(boxes):
            try:
                region = self._region(box, view)
            except ValueError as error:
                places[box] = str(error)
                continue
            called = region is not None and self.presentation == "zoom"
            if called not in openings:
                openings[called] = self._left(record, view, called)
            opening = openings[called]
            follow = partial(self._follow, record, opening.ids, view, region)
            places[box] = Place([*openings].index(called), len(opening.follow))
            openings[called] = replace(opening, follow=(*opening.follow, follow))
        return Shown(tuple(openings.values()), tuple(places[box] for box in boxes))

    def view(self, record: Record) -> View | None:
        """The record's picture, opened; None without one."""
        return self.look(record) if shows(record) else None

    def with_box(self, record: Record, box: Box4 | None) -> Opening:
        """The opening of a question, which goes on with one box or without. Raises what `show`
        raises, and ValueError for a box that cannot be shown."""
        shown = self.show(Question(record, (box,)))
        [place] = shown.places
        if isinstance(place, str):
            raise ValueError(f"record {record.id!r}: {place}")
        return shown.openings[place.opening]

    def conversation(self, record: Record, box: Box4 | None, view: View | None) -> Conversation:
        """All that a target is shown about one box, as messages and pictures: what a server is
        sent. `view` is that of the record. Raises ValueError for a box that cannot be shown."""
        region = self._region(box if self._crops(record) else None, view)
        call = None if region is None else self._call(region.written)
        seen = self._seen(record, view, region)
        pictures = tuple(picture for picture in seen if picture is not None)
        return Conversation(self._messages(record, call), pictures)

    def pictures(self, record: Record, box: Box4 | None) -> tuple[Pixels | None, Pixels | None]:
        """The full image and the crop as the target sees them for a box; None where it sees none.
        They depend only on the record, the box and the dialogue, so a report makes them again."""
        view = self.view(record)
        return self._seen(record, view, self._region(box if self._crops(record) else None, view))

    def answer(self, trajectory: Trajectory) -> str:
        """What a target that was asked has said, empty if nothing. After a call of the zoom tool
        the answer is read as `said` reads it. Elsewhere it is what `read_answer` reads. An answer
        that was cut off at its limit is the target's own, and is scored as it stands."""
        if self.presentation == "zoom":
            return said(trajectory) or ""
        return read_answer(trajectory.turns[-1].text if trajectory.turns else "")

    def answer_text(self, record: Record) -> str:
        """How the right answer is written where its likelihood is asked for, without the end of the
        turn."""
        right = record.answer.strip()
        if not right:
            raise ValueError(f"record {record.id!r} has no answer whose likelihood could be asked")
        if self.presentation == "zoom":
            return f"<answer>{right}</answer>"
        return f"{capitalised(right)}{'' if right.endswith('.') else '.'}"

    def answer_ids(self, record: Record) -> Int32[np.ndarray, "T"]:
        """The ids of the right answer and of the end of the turn, which follow the cue."""
        text = self.answer_text(record)
        if token := self.tokenizer.reserved_in(text):
            raise ValueError(
                f"record {record.id!r}: its answer spells the special token {token}; skip it"
            )
        return np.append(self.tokenizer.encode(text), np.int32(self.tokenizer.im_end))

    @property
    def wording(self) -> str:
        """A digest of the text around questions and right answers, which is part of this code."""
        probe = Record("", "QUESTION", "ANSWER", Picture(path="any"), ("FIRST", "SECOND"))
        return digest(json.dumps([self.messages(probe), self.answer_text(probe)]))

    # Lengths

    def size(self, record: Record) -> tuple[Grid, int]:
        """The grid of the full image, (0, 0) if it is not shown, and the first of `texts`. Only the
        head of a picture's file is read."""
        grid = (0, 0)
        if self._full(record):
            size = pictures.shrunk(pictures.size(record.picture), record.longest_side)
            grid = self.processor.grid(*size)
        return grid, self.texts(record)[0]

    def texts(self, record: Record) -> tuple[int, int]:
        """The number of text tokens in the longest left part that `show` may give, and the most
        that follow it up to the cue, beside pictures. No file is read."""
        left = self._cut(record, self._crops(record) and self.presentation == "zoom")
        following = [len(self._encoded(record, None)) - len(self._cut(record, False))]
        if self._crops(record):
            whole = self._encoded(record, self._call(LONGEST[self._zoom.convention]))
            following.append(len(whole) - len(left) - 1)
        return len(left) - self._full(record), max(following)

    # Parts of a conversation

    def messages(self, record: Record) -> list[Message]:
        """The conversation up to the first cue; with the zoom tool, before it is called."""
        if self.presentation == "zoom":
            return super().messages(record)
        return self._messages(record, None)

    def _messages(self, record: Record, call: str | None) -> list[Message]:
        """The whole conversation with a crop, for which the zoom tool is called as `call` says, or
        without one."""
        if self.presentation == "zoom":
            if call is None:
                return Dialogue.messages(replace(self, toolbox=Toolbox(())), record)
            response = self._zoom.render(Observation(np.zeros((1, 1, 3), np.uint8), None))
            return [*super().messages(record), {"role": "assistant", "content": call}, *response]
        pictures = [{"type": "image"}] * (self._full(record) + (call is not None))
        text = {"type": "text", "text": f"{capitalised(question(record))}\n{BRIEFLY}"}
        return [{"role": "user", "content": [*pictures, text]}]

    def _encoded(self, record: Record, call: str | None) -> Int32[np.ndarray, "T"]:
        """The whole conversation with one placeholder for each picture."""
        pictures = self._full(record) + (call is not None)
        return self.chat.encode(self._messages(record, call), [(1, 1)] * pictures, True)

    def _cut(self, record: Record, called: bool) -> Int32[np.ndarray, "T"]:
        """The left part, with one placeholder for each picture."""
        if called:
            pictures = [(1, 1)] * self._full(record)
            return self.chat.encode(super().messages(record), pictures, True)
        whole = self._encoded(record, None)
        if self._full(record):
            picture = int(np.flatnonzero(whole == self.tokenizer.image_pad)[0])
            return whole[: picture + 2]  # up to the token that closes the picture, which is text
        if not self._crops(record):
            return whole[:-1]
        with_crop = self._encoded(record, "")
        shared = min(len(whole), len(with_crop))
        same = whole[:shared] == with_crop[:shared]
        return whole[: int(np.argmin(np.append(same, False)))]

    def _left(self, record: Record, view: View | None, called: bool) -> Opening:
        pad = self.tokenizer.image_pad
        grids = self._full_grid(record, view)
        ids = expand(self._cut(record, called), grids, pad)
        positions, _ = mrope_positions(ids, grids, pad)
        return Opening(record, ids, positions, view if grids else None)

    def _follow(
        self,
        record: Record,
        left: Int32[np.ndarray, "T"],
        view: View | None,
        region: Region | None,
    ) -> ToolReply:
        """What follows a left part about a region, or without one: ids up to the cue, and the
        crop."""
        call = None if region is None else self._call(region.written)
        _, crop = self._seen(record, view, region)
        grids = [] if crop is None else [self.processor.grid_of(crop)]
        every = [*self._full_grid(record, view), *grids]
        ids = expand(self._encoded(record, call), every, self.tokenizer.image_pad)
        if not np.array_equal(ids[: len(left)], left):
            raise ValueError(
                f"record {record.id!r}: the conversation about a box does not begin with the part "
                "that all boxes share; use a chat template that leaves earlier turns as they are"
            )
        cut = None if region is None else self._zoom.crop(region)
        return ToolReply(ids[len(left) :], tuple(grids), crop, cut)

    def _seen(
        self, record: Record, view: View | None, region: Region | None
    ) -> tuple[Pixels | None, Pixels | None]:
        """The full image and the crop, altered if this dialogue alters crops."""
        full = view.shown if view is not None and self._full(record) else None
        if view is None or region is None:
            return full, None
        request = Ready(self._zoom, region)
        crop = request.execute(view.original)
        if self.alter is not None:
            opening = Opening(record, np.zeros(0, np.int32), np.zeros((3, 0), np.int32), view)
            crop = self.alter(request, crop, opening, ())
        return full, crop.picture

    def _region(self, box: Box4 | None, view: View | None) -> Region | None:
        """The part of the picture that is shown for a box."""
        if box is None or view is None:
            return None
        size = view.frame.original
        inside = clamp(Box(*box), size)
        if area(inside) == 0:
            raise ValueError(
                f"the box {tuple(box)} covers nothing of its picture of {size[0]}x{size[1]} pixels"
            )
        zoom = self._zoom
        cut = fitting(zoom, inside, view.frame)
        written = view.frame.to(cut, "original", zoom.convention)
        digits = 3 if zoom.convention == "unit" else 0
        region = Region(Box(*(round(side, digits) for side in written)), cut, view.frame)
        x1, y1, x2, y2 = region.pixels
        short, long = sorted((x2 - x1, y2 - y1))
        if long > zoom.aspect_limit * short:
            raise ValueError(
                f"the box {tuple(box)} spans {long} by {short} pixels of its picture, which is no "
                f"wider there; its sides may differ by a factor of {zoom.aspect_limit:g} at most "
                "(raise crop_tokens)"
            )
        return region

    def _call(self, written: Box) -> str:
        """The zoom tool's call for a box in the target's convention."""
        sides = [int(side) if side == int(side) else side for side in written]
        call = {"name": self._zoom.name, "arguments": {"bbox_2d": sides}}
        return f"{CALL}{json.dumps(call)}{CALL_END}"

    def _full_grid(self, record: Record, view: View | None) -> list[Grid]:
        return [self.processor.grid_of(view.shown)] if view and self._full(record) else []

    def _full(self, record: Record) -> bool:
        """Whether the full image is shown."""
        return self.presentation != "crop" and shows(record)

    def _crops(self, record: Record) -> bool:
        """Whether a box is shown as a crop."""
        return self.presentation != "image" and bool(self.toolbox.tools) and shows(record)

    @property
    def _zoom(self) -> Zoom:
        [tool] = self.toolbox.tools
        assert isinstance(tool, Zoom), tool
        return tool


def read_answer(written: str) -> str:
    """All that was written, without thoughts and, if it is tagged, without its tags. The final
    period, with which an answer is to end (see `Showing.answer_text`), is no part of it, as in the
    authors' code: ANLS would count it as an error."""
    action = read_turn(written)
    text = action.text if isinstance(action, Answer) else untagged(written)
    return text.removesuffix(".").rstrip()


def prompt_text() -> str:
    """All the text that `both`, `crop` and `image` put around questions and pictures, as
    `rollout.asking.prompt_text` writes it. What differs between records stands in capitals."""
    parts = {
        name: f"{question(Record('', 'QUESTION', '', Picture(), options=options))}\n{BRIEFLY}"
        for name, options in (("question", ()), ("question with options", ("FIRST", "SECOND")))
    }
    return "\n\n".join(f"[{name}]\n{text}" for name, text in parts.items()) + "\n"
