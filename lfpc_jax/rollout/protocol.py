"""What a finished turn of the model means: a call, an answer, neither, or a refused call.

A turn is whatever was sampled up to the first `</tool_call>` or the end of turn. Tags count only if
they are spelled exactly, in any position. The format reward deals with `<think>` and stray tags.

- *Answer*: the last complete `<answer>...</answer>`, the inner one of nested ones. It ends the
  episode whatever else the turn says. Beside any tag of a call it is flagged `answer_and_call`:
  the call is not carried out, and the format reward punishes the turn.
- *Call*: exactly one `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, with any text
  before it and none after it. The tags need not be the special tokens: ordinary tokens may spell
  them, and then the model may have written more after them.
- *Refusal*: every other turn with a tag of a call, by the causes below. It counts as a turn.
- *Nothing*: neither tag nor answer.

JSON is read strictly: no comments, no second value for a key, no NaN or Infinity, no number that a
float cannot hold. Its length and depth are limited before it is parsed. All numbers become floats,
since JSON does not distinguish integers. A refusal's message to the model repeats nothing that the
model wrote, so that no turn can bring tags or special tokens into the next.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any

CALL, CALL_END = "<tool_call>", "</tool_call>"
END_OF_TURN = "<|im_end|>"

LONGEST_CALL = 4000
"""Characters of a call's JSON."""

DEEPEST_CALL = 64
"""The most brackets that a call's JSON may open, those in strings included; so its depth is at most
this."""

CAUSES = (
    "answer_and_call",  # an answer and a tag of a call in one turn
    "unopened_call",  # </tool_call> before or without <tool_call>
    "unclosed_call",  # <tool_call> without </tool_call>
    "nested_call",  # <tool_call> inside of a call
    "several_calls",  # <tool_call> after a call
    "text_after_call",
    "call_too_long",
    "call_too_deep",
    "bad_json",
    "duplicate_key",
    "not_finite",  # NaN, Infinity, or a number that no float holds
    "not_a_call",  # JSON, but not an object of a name and arguments
)
"""The causes for which a turn's text is not a valid call; tools and the toolbox add others."""

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A well-formed call; whether the tool exists and takes these arguments is still open."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Why a call is refused: a cause to count, and a sentence for the model."""

    cause: str
    message: str


@dataclass(frozen=True)
class Answer:
    """The answer without surrounding space; `fault` is "answer_and_call" or empty."""

    text: str
    fault: str = ""


@dataclass(frozen=True)
class Nothing:
    """Neither a call nor an answer."""


Action = Call | Refusal | Answer | Nothing


def read_turn(text: str) -> Action:
    """The meaning of a turn's text, with or without the <|im_end|> that ended it. Never raises."""
    written = text.rstrip().removesuffix(END_OF_TURN)
    called = CALL in written or CALL_END in written
    if answers := _ANSWER.findall(written):
        return Answer(answers[-1].strip(), fault="answer_and_call" if called else "")
    return _read_call(written) if called else Nothing()


def _read_call(written: str) -> Call | Refusal:
    before, opened, rest = written.partition(CALL)
    body, closed, after = rest.partition(CALL_END)
    if not opened or CALL_END in before:
        return Refusal("unopened_call", "a tool call was closed that had not been opened")
    if not closed:
        return Refusal("unclosed_call", "the tool call was opened but not closed")
    if CALL in body:
        return Refusal("nested_call", "a tool call was opened inside another")
    if CALL in after:
        return Refusal("several_calls", "there was more than one tool call in the turn")
    if after.strip():
        return Refusal(
            "text_after_call", "there was text after the tool call, which must come last"
        )
    return _read_json(body)


class _Refused(Exception):
    """Carries a refusal out of the JSON parser's hooks."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def _read_json(body: str) -> Call | Refusal:
    if len(body) > LONGEST_CALL:
        return Refusal("call_too_long", f"the tool call is longer than {LONGEST_CALL} characters")
    if body.count("[") + body.count("{") > DEEPEST_CALL:
        return Refusal("call_too_deep", f"the tool call opens more than {DEEPEST_CALL} brackets")
    try:
        value = json.loads(
            body,
            object_pairs_hook=_unique,
            parse_int=_finite,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except _Refused as refused:
        return refused.refusal
    except json.JSONDecodeError as error:
        return Refusal(
            "bad_json", f"the tool call is not valid JSON, from character {error.pos} on"
        )
    match value:
        case {"name": str(name), "arguments": dict(arguments)} if len(value) == 2:
            return Call(name, arguments)
    return Refusal(
        "not_a_call",
        'a tool call is a JSON object of "name", a text, and "arguments", an object, and no more',
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _Refused(Refusal("duplicate_key", "the tool call gives one key twice"))
    return values


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise _Refused(Refusal("not_finite", "the tool call holds a number that is not finite"))
    return value
