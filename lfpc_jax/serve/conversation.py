"""Messages of a chat, as the model reads them.

The first picture has the budget of the shown image, later ones that of a crop, as in an episode of
the engine. A client that runs the crop loop itself, with our tool's schema and no system message of
its own, sends what the engine would: then the prompts are equal, id for id.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image

from lfpc_jax.jsonfile import brief
from lfpc_jax.processing.chat import Message
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.rollout.dialogue import Dialogue, Opening, ToolReply, View
from lfpc_jax.rollout.protocol import CALL, CALL_END, Action, Nothing
from lfpc_jax.rollout.tools import respond, system_prompt_of, tools_text
from lfpc_jax.serve.refused import Refused, invalid
from lfpc_jax.serve.wanted import Function
from lfpc_jax.trajectory import Picture, Record

MOST_MESSAGES = 1024
MOST_PICTURES = 64
RECORD = "asked"
"""The name of every record. Random numbers depend on it, so it is that of `Session.ask`."""

Fetch = Callable[[str], PIL.Image.Image]
"""Opens the picture that a message names."""


@dataclass(frozen=True)
class Chat(Dialogue):
    """A dialogue in which a turn is never read: whatever the model says is the client's."""

    def read(self, text: str) -> Action:
        return Nothing()


@dataclass
class Told:
    """Messages in the template's form, and the names of their pictures in order."""

    messages: list[Message] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    def add(self, role: str, parts: str | list[Message]) -> None:
        self.messages.append({"role": role, "content": parts})


def chat_opening(
    chat: Chat,
    messages: Sequence[Any],
    tools: Sequence[Function],
    fetch: Fetch,
    later: ImageProcessor,
) -> Opening:
    """The opening of a chat. `later` has the budget of pictures after the first."""
    told = _told(messages, tools)
    shown = [
        (later if number else chat.processor).resize(fetch(name))
        for number, name in enumerate(told.pictures)
    ]
    grids = [chat.processor.grid_of(picture) for picture in shown]
    ids = chat.chat.encode(told.messages, grids, True)
    pad = chat.tokenizer.image_pad
    places = np.flatnonzero(ids == pad)
    firsts = np.cumsum([0, *(rows * columns for rows, columns in grids)])[:-1]
    # A piece begins with what opens its picture, so that every piece ends in text.
    cuts = [int(places[first]) - 1 for first in firsts[1:]]
    pieces = np.split(ids, cuts)
    following: ToolReply | None = None
    for number in range(len(pieces) - 1, 0, -1):
        then = None if following is None else _given(following)
        following = ToolReply(pieces[number], (grids[number],), shown[number], then=then)
    positions, _ = mrope_positions(pieces[0], grids[:1], pad)
    view = View(shown[0], PIL.Image.fromarray(shown[0])) if shown else None
    follow = () if following is None else (_given(following),)
    return Opening(_record("", bool(shown)), pieces[0], positions, view, follow)


def length(opening: Opening) -> int:
    """How many ids an opening has, with all that follows."""
    total, reply = len(opening.ids), opening.follow[0]() if opening.follow else None
    while reply is not None:
        total += len(reply.ids)
        reply = None if reply.then is None else reply.then()
    return total


def looking_opening(
    dialogue: Dialogue, messages: Sequence[Any], longest_side: int | None, fetch: Fetch
) -> Opening:
    """The opening of an episode in which the server runs the crop loop."""
    told = _told(messages, ())
    [*others, last] = told.messages
    if others or last["role"] != "user" or len(told.pictures) > 1:
        raise invalid(
            "in the mode that looks, messages is a single user message with one picture at most; "
            "the server writes the system text, and the conversation is its own",
            "messages",
        )
    content = last["content"]
    texts = [content] if isinstance(content, str) else [p.get("text", "") for p in content]
    record = _record("\n".join(text for text in texts if text), bool(told.pictures))
    if not record.question.strip():
        raise invalid("there is no question in the message", "messages")
    view = dialogue.view_of(fetch(told.pictures[0]), longest_side) if told.pictures else None
    return dialogue.opening(record, view)


def _record(question: str, pictured: bool) -> Record:
    """The picture is open already, so its file is not kept."""
    return Record(RECORD, question, "", Picture(data=b"") if pictured else Picture())


def _given(reply: ToolReply) -> Callable[[], ToolReply]:
    return lambda: reply


def _told(messages: Sequence[Any], tools: Sequence[Function]) -> Told:
    if len(messages) > MOST_MESSAGES:
        raise invalid(f"{len(messages)} messages; at most {MOST_MESSAGES} are read", "messages")
    told = Told()
    schemas = [tool.schema for tool in tools]
    systems = [m for m in messages if isinstance(m, dict) and m.get("role") in _SYSTEM]
    if schemas and not systems:
        told.add("system", system_prompt_of(schemas))
    for number, message in enumerate(messages):
        first = bool(systems) and message is systems[0]
        _tell(told, message, f"messages[{number}]", schemas if first else ())
    return told


_SYSTEM = ("system", "developer")


def _tell(told: Told, message: Any, where: str, schemas: Sequence[Mapping[str, Any]]) -> None:
    if not isinstance(message, dict):
        raise invalid(f"{where} is {brief(message)}; it must be an object", where)
    role, content = message.get("role"), message.get("content")
    if role in _SYSTEM:
        text = _text(content, f"{where}.content")
        told.add("system", f"{text}\n\n{tools_text(schemas)}" if schemas else text)
    elif role == "user":
        told.add("user", _parts(told, content, f"{where}.content"))
    elif role == "assistant":
        told.add("assistant", _said(message, where))
    elif role == "tool":
        parts = _parts(told, content, f"{where}.content")
        listed = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        told.messages += respond(*listed)
    else:
        raise invalid(
            f"{where}.role is {brief(role)}; it must be system, user, assistant or tool",
            f"{where}.role",
        )


def _said(message: Mapping[str, Any], where: str) -> str:
    """What the model said in an earlier turn, its calls included."""
    content = message.get("content")
    pieces = [] if content is None else [_text(content, f"{where}.content")]
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise invalid(f"{where}.tool_calls is {brief(calls)}; it must be a list", where)
    for call in calls:
        match call:
            case {"function": {"name": str(name), "arguments": str(arguments)}}:
                written = f'{{"name": {json.dumps(name)}, "arguments": {arguments}}}'
                pieces.append(f"{CALL}{written}{CALL_END}")
            case _:
                raise invalid(
                    f"{where}.tool_calls holds {brief(call)}; a call has a function with a name "
                    "and arguments, both texts",
                    where,
                )
    if not pieces:
        raise invalid(f"{where} has neither content nor tool_calls", where)
    return "".join(pieces)


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return "\n".join(part["text"] for part in content)
    raise invalid(f"{where} is {brief(content)}; it must be text here", where)


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _parts(told: Told, content: Any, where: str) -> str | list[Message]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise invalid(f"{where} is {brief(content)}; give a text, or a list of parts", where)
    parts: list[Message] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                parts.append({"type": "image"})
                told.pictures.append(url)
            case _:
                raise invalid(
                    f"{where} holds {brief(part)}; a part is a text or an image_url", where
                )
    if len(told.pictures) > MOST_PICTURES:
        raise Refused(
            400,
            f"over {MOST_PICTURES} pictures in one request",
            param=where,
            code="too_many_images",
        )
    return parts
