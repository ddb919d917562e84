"""How a model is to be asked, in a file that travels with it.

`asking.json` lies among a model's assets (config, tokenizer, processor files). A training run
writes it, and everything that copies assets copies it as well: runs that begin from this one,
exports, stores and evaluations. Commands take from it what their flags leave open.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lfpc_jax.jsonfile import brief, read_object
from lfpc_jax.processing.chat import Message
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.dialogue import question
from lfpc_jax.rollout.episode import with_limits
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.tools import Observation, Toolbox, refuse, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Picture, Record

FILE = "asking.json"
FORMAT = 1

Conversation = Literal["zoom", "box", "target"]
"""What is held with a model: questions answered with the zoom tool, a box for a target model, or
the answers of a target model to questions with a crop in view."""

BOX: Mapping[str, Any] = {"convention": "percent", "max_turns": 1}
"""What every crop network's settings are."""


_LEAST = {
    **{"image_tokens": 1, "crop_tokens": 1},
    **{"max_turns": 1, "turn_tokens": 1, "episode_tokens": 0},
}
_MOST = 1 << 30
_KINDS = {int: "a whole number", str: "a text"}


@dataclass(frozen=True)
class Asking:
    """How a model is to be asked. `dialogue` is what is asked of it. `convention` is that of the
    boxes that the model writes; budgets and limits are those of `RolloutShapes` and `Rules`.
    `prompt` is all the text around questions and pictures; it is empty if nobody noted it. A crop
    network (`box`) has one turn, in which it writes its box in hundredths of the shown image."""

    convention: Convention = "shown"
    image_tokens: int = 1024
    crop_tokens: int = 1024
    max_turns: int = 5
    turn_tokens: int = 2048
    episode_tokens: int = 0
    prompt: str = ""
    dialogue: Conversation = "zoom"

    def __post_init__(self) -> None:
        for name, known in (("convention", Convention), ("dialogue", Conversation)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it must be one of "
                    f"{', '.join(get_args(known))}"
                )
        for name, minimum in _LEAST.items():
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value <= _MOST:
                raise ValueError(
                    f"{name} is {brief(value)}; it must be a whole number, at least {minimum} and "
                    f"at most {_MOST:,}"
                )
        for name, only in BOX.items() if self.dialogue == "box" else ():
            if getattr(self, name) != only:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, and a crop network's (dialogue box) is "
                    f"{only}; set it to that"
                )

    @classmethod
    def of_settings(cls, rollout: Mapping[str, Any], *, prompt: str = "") -> "Asking":
        """Read from the rollout settings of a run, of any version."""
        named = with_limits(rollout)
        kept = {field.name for field in dataclasses.fields(cls)} & set(named)
        return cls(**{name: named[name] for name in kept}, prompt=prompt)

    @classmethod
    def read(cls, assets: Path) -> "Asking | None":
        """What a folder of assets says, or None if it says nothing."""
        file = assets / FILE
        if not file.is_file():
            return None
        try:
            raw = read_object(file)
            if (version := raw.pop("format")) != FORMAT:
                raise ValueError(f"format {version!r}, where {FORMAT} is read")
            for name, value in raw.items():
                kind = int if name in _LEAST else str
                if type(value) is not kind:
                    raise ValueError(f"{name} is {brief(value)}; it must be {_KINDS[kind]}")
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(f"{error!s:.200}".split())
            raise ValueError(
                f"{file}: does not say how the model is to be asked ({reason}); restore it, or "
                "remove it and give every flag"
            ) from error

    @property
    def text(self) -> str:
        """The text of `asking.json`. It names the dialogue of crop networks alone, so that earlier
        versions can still read all other files."""
        content = {"format": FORMAT} | dataclasses.asdict(self)
        if self.dialogue == "zoom":
            del content["dialogue"]
        return json.dumps(content, indent=2) + "\n"

    def changed(self, now: "Asking") -> str:
        """Everything in which `now` differs, in one line; empty if nothing does."""
        told = [
            f"{name} {getattr(now, name)}, not {getattr(self, name)}"
            for name in (field.name for field in dataclasses.fields(self))
            if name != "prompt" and getattr(now, name) != getattr(self, name)
        ]
        alike = (self.convention, self.dialogue) == (now.convention, now.dialogue)
        if alike and self.prompt and now.prompt and self.prompt != now.prompt:
            lines = itertools.zip_longest(self.prompt.splitlines(), now.prompt.splitlines())
            before, after = next(pair for pair in lines if pair[0] != pair[1])
            told.append(
                f"the prompt, whose first changed line is {after!r:.60}, not {before!r:.60}"
            )
        return "; ".join(told)


def toolbox(processor: ImageProcessor, crop_tokens: int, convention: Convention) -> Toolbox:
    """The tools of all commands that answer questions. What is added here is in every prompt, and
    in what `asking.json` says of prompts. Pictures that a tool gives must keep to `crop_tokens`."""
    return Toolbox((Zoom.within(crop_tokens, processor, convention),))


def prompt_text(convention: Convention) -> str:
    """All the text that a dialogue with the tools puts around questions and pictures, as this code
    has it. What differs between records stands in capitals."""
    tools = toolbox(ImageProcessor(), Asking.crop_tokens, convention)
    record = Record("", "QUESTION", "", Picture(), options=("FIRST", "SECOND"))
    seen = Observation(np.zeros((1, 1, 3), np.uint8), None)
    parts = {
        "system": system_prompt(tools),
        "system, without the tool": system_prompt(Toolbox(())),
        "question with options": question(record),
        "after a crop": "\n".join(_said(tool.render(seen)) for tool in tools.tools),
        "after a refused call": _said(refuse(Refusal("", "REASON"))),
    }
    return "\n\n".join(f"[{name}]\n{text}" for name, text in parts.items()) + "\n"


def digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _said(messages: Sequence[Message]) -> str:
    return "".join(
        part["text"] if part["type"] == "text" else "IMAGE"
        for message in messages
        for part in message["content"]
    )
