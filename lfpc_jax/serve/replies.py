"""Events of the engine, as the chunks and the body that OpenAI's clients know.

A chat's text is sent as it comes. In the mode that looks, `content` is the answer alone; all that
the model writes on the way there is `reasoning_content`, and what became of each turn is in `lfpc`.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Opening
from lfpc_jax.rollout.protocol import CALL
from lfpc_jax.serve.spoken import TextDecoder, Watched, tool_call
from lfpc_jax.serve.wanted import Wanted
from lfpc_jax.serve.worker import Drew, Event, Over, Replied, Unanswered

Finish = Literal["stop", "length", "tool_calls"]
Delta = dict[str, Any]

_CUT_OFF = ("max_tokens", "context_full", "max_turns")


@dataclass
class Choice(ABC):
    """What was said so far. `delta` is what a chunk says, `message` what the whole reply does."""

    wanted: Wanted
    tokenizer: Tokenizer
    sampled: int = 0
    finish: Finish | None = None
    ids: list[int] = field(default_factory=list)
    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": ""})

    def __post_init__(self) -> None:
        self.decoder = TextDecoder(self.tokenizer)

    def add(self, event: Drew | Replied | Over) -> Iterator[Delta]:
        """The deltas that an event leads to."""
        if self.finish is not None:
            return
        if isinstance(event, Drew):
            self.sampled += len(event.ids)
            self.ids += event.ids
            yield from self.drew(self.decoder.add(event.ids))
        elif isinstance(event, Replied):
            yield from self.drew(self.decoder.add((), last=True))
            yield from self.replied(event)
        else:
            yield from self.drew(self.decoder.add((), last=True))
            yield from self.over(event)

    @abstractmethod
    def drew(self, text: str) -> Iterator[Delta]:
        """What the model writes."""

    @abstractmethod
    def replied(self, event: Replied) -> Iterator[Delta]:
        """What a tool says, and what became of the turn before."""

    @abstractmethod
    def over(self, event: Over) -> Iterator[Delta]:
        """The end."""


class ChatChoice(Choice):
    """A turn of the model, for a client that goes on itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.watched = Watched(self.wanted.stops, (CALL,) if self.wanted.tools else ())

    def drew(self, text: str) -> Iterator[Delta]:
        yield from self._said(self.watched.add(text))
        if self.watched.stopped:
            self.finish = "stop"

    def replied(self, event: Replied) -> Iterator[Delta]:
        yield from ()

    def over(self, event: Over) -> Iterator[Delta]:
        self.finish = "length" if event.end in _CUT_OFF else "stop"
        yield from self._said(self.watched.add("", last=True))
        call = tool_call(self.watched.held)
        if call is None:
            yield from self._said(self.watched.held)
            return
        function = {"name": call.name, "arguments": call.arguments}
        told = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
        self.message["tool_calls"] = [told]
        self.finish = "tool_calls"
        yield {"tool_calls": [{"index": 0, **told}]}

    def _said(self, text: str) -> Iterator[Delta]:
        if text:
            self.message["content"] += text
            yield {"content": text}


class LookingChoice(Choice):
    """An episode, told as it goes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.message |= {"reasoning_content": "", "lfpc": []}

    def drew(self, text: str) -> Iterator[Delta]:
        if text:
            self.message["reasoning_content"] += text
            yield {"reasoning_content": text}

    def replied(self, event: Replied) -> Iterator[Delta]:
        turn = event.turn
        if turn.crop is not None and event.crop is not None:
            height, width = event.crop.shape[:2]
            yield from self._told({
                "event": "crop",
                "box": [round(edge, 2) for edge in turn.crop.box],
                "written": list(turn.crop.written),
                "size": [width, height],
                "image": event.image,
            })  # fmt: skip
        elif turn.call:
            yield from self._told({"event": "refused", "cause": turn.fault})

    def over(self, event: Over) -> Iterator[Delta]:
        self.finish = "length" if event.end in _CUT_OFF else "stop"
        if event.answer is not None:
            self.message["content"] = event.answer
            yield {"content": event.answer}
        yield from self._told({"event": "end", "end": event.end, "answer": event.answer})

    def _told(self, told: dict[str, Any]) -> Iterator[Delta]:
        self.message["lfpc"].append(told)
        yield {"lfpc": told}


@dataclass
class ReplyBuilder:
    """A reply in the making: chunks as they come, and the whole."""

    wanted: Wanted
    opening: Opening
    prompt_tokens: int
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        kind = LookingChoice if self.wanted.looks else ChatChoice
        self.choices = [kind(self.wanted, self.tokenizer) for _ in range(self.wanted.choices)]
        self.prompt = self.prompt_tokens
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.wanted.model,
        }

    @property
    def over(self) -> bool:
        return all(choice.finish for choice in self.choices)

    def first(self) -> Iterator[dict[str, Any]]:
        """The chunks that go before all others."""
        for number in range(len(self.choices)):
            yield self._chunk(number, {"role": "assistant", "content": ""} | self._about(), None)

    def add(self, event: Event) -> Iterator[dict[str, Any]]:
        """The chunks that an event leads to. Raises the `Refused` of a failure."""
        if isinstance(event, Unanswered):
            raise event.why
        choice = self.choices[event.choice]
        before = choice.finish
        if isinstance(event, Over) and self.wanted.looks:  # crops were prompts, too
            self.prompt += event.ids - event.sampled - self.prompt_tokens
        for delta in choice.add(event):
            yield self._chunk(event.choice, delta, None)
        if choice.finish != before:
            yield self._chunk(event.choice, {}, choice.finish)

    def usage(self) -> dict[str, Any]:
        sampled = sum(choice.sampled for choice in self.choices)
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": sampled,
            "total_tokens": self.prompt + sampled,
        }

    def last(self) -> Iterator[dict[str, Any]]:
        if self.wanted.usage:
            yield self._body("chat.completion.chunk", [], usage=self.usage())

    def whole(self) -> dict[str, Any]:
        choices = [
            {
                "index": number,
                "message": _without_empty(choice.message),
                "finish_reason": choice.finish,
                "logprobs": None,
                **({"token_ids": choice.ids} if self.wanted.ids else {}),
            }
            for number, choice in enumerate(self.choices)
        ]
        return self._body("chat.completion", choices, usage=self.usage(), **self._about())

    def _about(self) -> dict[str, Any]:
        """What a client cannot know: the seed, if it gave none, and the sizes of its picture."""
        view = self.opening.view
        about: dict[str, Any] = {"seed": self.wanted.seed}
        if self.wanted.looks:
            about["event"] = "begin"
            about["original"] = None if view is None else list(view.frame.original)
            about["shown"] = None if view is None else list(view.frame.shown)
        return {"lfpc": about}

    def _chunk(self, number: int, delta: Delta, finish: Finish | None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._body("chat.completion.chunk", [choice])

    def _body(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {**self.head, "object": kind, "choices": choices, **more}


def _without_empty(message: dict[str, Any]) -> dict[str, Any]:
    """A message that only calls has no content."""
    if message.get("tool_calls") and not message["content"]:
        return {**message, "content": None}
    return message
