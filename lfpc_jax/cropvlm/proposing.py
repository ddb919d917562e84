"""The crop network's dialogue: one prompt, and one turn that proposes a box.

The prompt is one user turn, as the authors' code has it: the image, the question, and the line
`OUTLINE`. It has no system message; a template that writes one by itself still does.

The model is to write `[x1, y1, x2, y2].`, in hundredths of the shown image's width and height. The
final period may be missing, spaces around the box and its numbers do not matter, and numbers may
have decimals or a minus. Every other turn is refused, by the causes below; a box within other text
is refused, too. The box is then checked as the zoom tool's boxes are: clamped to the image, grown
to the minimum side, and refused if it is reversed, empty or too narrow. A valid box ends the
episode, and its crop is kept in the turn. The crop network never sees it.

Deviations from the authors' code: there, a number below 0 or above 100 makes a box invalid; here
the box is clamped. There, the target is shown a crop of 2 x 2 pixels in place of an invalid box;
here it is shown no crop, and the fault is counted.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lfpc_jax.cropvlm.wording import asked
from lfpc_jax.processing.chat import ChatTemplate, Message
from lfpc_jax.processing.geometry import Box, Convention, Frame, clamp
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.protocol import END_OF_TURN, Action, Call, Refusal
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Box4, Picture, Record

OUTLINE = "Outline the region in the image that would help answer this question."

CONVENTION: Convention = "percent"

CAUSES = (
    NO_BOX := "no_box",  # no list in brackets
    SEVERAL_BOXES := "several_boxes",
    TEXT_AROUND_BOX := "text_around_box",
)
"""Why a turn is refused, beside the causes of the zoom tool: what is no four numbers within the
brackets is `not_four_numbers`."""

_LIST = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_ROUNDING = 1e-6  # of a hundredth: what conversions may add to a number that was whole


@dataclass(frozen=True)
class Proposal(Zoom):
    """The tool whose call is a proposed box. `processor` carries the budget of the target's crop,
    which limits how narrow a box may be."""

    convention: Convention = CONVENTION

    name: ClassVar[str] = "propose_box"
    description: ClassVar[str] = "Proposes the part of the image that helps to answer."
    causes: ClassVar[tuple[str, ...]] = (*CAUSES, *Zoom.causes)
    ends: ClassVar[bool] = True


@dataclass(frozen=True)
class Proposing(Dialogue):
    """The dialogue with a crop network. Its toolbox holds `Proposal` alone."""

    answers: ClassVar[bool] = False

    def messages(self, record: Record) -> list[Message]:
        image = [] if record.picture == Picture() else [{"type": "image"}]
        return [{"role": "user", "content": [*image, {"type": "text", "text": prompt(record)}]}]

    def read(self, text: str) -> Action:
        return read_box(text)


def proposing(assets: Path, *, image_tokens: int, crop_tokens: int) -> Proposing:
    """The dialogue with a crop network. `assets` holds the tokenizer, the chat template and the
    processor files; `crop_tokens` is the budget of the target's crop."""
    tokenizer = Tokenizer.from_folder(assets)
    processor = ImageProcessor.from_folder(assets)
    return Proposing(
        tokenizer,
        ChatTemplate.from_folder(assets, tokenizer),
        processor.with_tokens(image_tokens),
        Toolbox((Proposal.within(crop_tokens, processor),)),
    )


def prompt(record: Record) -> str:
    """The text beside the image."""
    return f"{asked(record)}\n{OUTLINE}"


def prompt_text() -> str:
    """All the text around questions and pictures, as `rollout.asking.prompt_text` writes it for the
    zoom tool's dialogue. What differs between records stands in capitals."""
    options = prompt(Record("", "QUESTION", "", Picture(), options=("FIRST", "SECOND")))
    parts = {
        "question": prompt(Record("", "QUESTION", "", Picture())),
        "question with options": options,
    }
    return "\n\n".join(f"[{name}]\n{text}" for name, text in parts.items()) + "\n"


def read_box(text: str) -> Call | Refusal:
    """The box that a finished turn proposes, with or without the <|im_end|> that ended it. Never
    raises."""
    written = text.rstrip().removesuffix(END_OF_TURN).strip()
    lists = _LIST.findall(written)
    if not lists:
        return Refusal(NO_BOX, "there is no box [x1, y1, x2, y2]")
    if len(lists) > 1:
        return Refusal(SEVERAL_BOXES, "there is more than one box")
    if not _LIST.fullmatch(written.removesuffix(".")):
        return Refusal(TEXT_AROUND_BOX, "there is text beside the box")
    numbers = [number.strip() for number in lists[0].split(",")]
    if len(numbers) != 4 or not all(map(_NUMBER.fullmatch, numbers)):
        return Refusal("not_four_numbers", "a box is four numbers, [x1, y1, x2, y2]")
    return Call(Proposal.name, {"bbox_2d": [float(number) for number in numbers]})


def write_box(box: Box4, frame: Frame) -> str:
    """A box in pixels of the original as a crop network is to write it: in whole hundredths.

    Corners are rounded outward, so that nothing of the box is lost and no box comes out empty. A
    box that reaches beyond the image is cut to it."""
    corners = Box(*box)
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"box {box}: every coordinate must be a finite number; drop this label")
    if corners.x2 < corners.x1 or corners.y2 < corners.y1:
        raise ValueError(f"box {box}: it must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2")
    shares = frame.to(clamp(corners, frame.original), "original", CONVENTION)
    x1, x2 = _outward(shares.x1, shares.x2)
    y1, y2 = _outward(shares.y1, shares.y2)
    return f"[{x1}, {y1}, {x2}, {y2}]."


def _outward(low: float, high: float) -> tuple[int, int]:
    """The whole hundredths around a side: at least one, all between 0 and 100."""
    first = min(math.floor(low + _ROUNDING), 99)
    return first, min(max(math.ceil(high - _ROUNDING), first + 1), 100)
