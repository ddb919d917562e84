"""A chat completion, read from a server's reply, or what is wrong with it.

A server may repeat the API key that it was sent, in any spelling: in its status line, headers and
error texts, escaped or cut to pieces. So nothing that it wrote is quoted, and no list of spellings
has to be complete. A failure names the status by its number, an error code if it is one of
`_CODES`, and lengths; every word is ours.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import responses
from typing import Any, Literal

from lfpc_jax.remote.request import Reply

_AGAIN = frozenset({408, 409, 425, 429})
_OF_THE_REQUEST = frozenset({400, 413, 422})
"""Statuses that may be about what was asked; others would meet any request."""
_CODES = frozenset({
    "authentication_error", "billing_not_active", "context_length_exceeded", "insufficient_quota",
    "internal_server_error", "invalid_api_key", "invalid_request_error", "model_not_found",
    "not_found_error", "overloaded_error", "permission_error", "rate_limit_error",
    "rate_limit_exceeded", "server_error", "unsupported_parameter", "unsupported_value",
})  # fmt: skip


class Failed(Exception):
    """A request without a usable answer. `cause` is what such failures have in common. `again` says
    that another attempt may help, after `wait` seconds; `alike` that other requests would fare no
    better. The remedy is that of the cause `remedy`, if that is another.
    """

    def __init__(
        self,
        cause: str,
        detail: str = "",
        *,
        status: int | None = None,
        again: bool = True,
        wait: float = 0.0,
        alike: bool = True,
        remedy: str = "",
    ) -> None:
        super().__init__(f"{cause}{detail}")
        self.cause, self.detail, self.status = cause, detail, status
        self.again, self.wait, self.alike = again, wait, alike
        self.remedy = remedy or cause


@dataclass(frozen=True)
class Completion:
    """The text of the first choice, and whether the server cut it off."""

    content: str
    cut_off: bool


def read_completion(reply: Reply, *, empty_if_cut_off: bool = False) -> Completion:
    """Raises `Failed` for anything that is not a chat completion with a text. With
    `empty_if_cut_off` the missing text of a model that was cut off while it thought is empty."""
    if reply.status != 200:
        raise _refused(reply)
    body = _json(reply)
    try:
        choice = body["choices"][0]
        content = choice["message"]["content"]
        cut_off = how_it_ended(reply) == "cut off"
        if content is None and cut_off and empty_if_cut_off:
            content = ""
        if isinstance(content, str):
            return Completion(content, cut_off)
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    what = "no JSON" if body is None else "JSON without choices[0].message.content as a text"
    raise Failed("no chat completion", f": {len(reply.body)} bytes, {what}")


@dataclass(frozen=True)
class ServerTurn:
    """A turn of a conversation. `calls` are the tool calls that the server has taken out of the
    text, each as its name and its arguments (JSON, as the model wrote it). `stop` is the stop
    string that ended the turn, empty if none did, and None if the server does not say. `prompt` and
    `sampled` are the tokens that it counted, None if it did not."""

    text: str
    calls: tuple[tuple[str, str], ...]
    cut_off: bool
    stop: str | None
    prompt: int | None
    sampled: int | None


def read_said(reply: Reply) -> ServerTurn:
    """Raises `Failed` for anything that is not a chat completion with a text or a call."""
    if reply.status != 200:
        raise _refused(reply)
    ended = how_it_ended(reply)
    if ended == "declined":
        raise Failed("declined", ": the model would not answer", again=False, alike=False)
    with suppress(KeyError, IndexError, TypeError, AttributeError, ValueError):
        body = _json(reply)
        choice = body["choices"][0]
        content = choice["message"]["content"]
        functions = [call["function"] for call in choice["message"].get("tool_calls") or ()]
        calls = tuple((function["name"], function["arguments"]) for function in functions)
        if content is None and (calls or ended == "cut off"):
            content = ""
        texts = [content, *(text for call in calls for text in call)]
        if all(isinstance(text, str) for text in texts):
            usage = body.get("usage") or {}
            counted = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            prompt, sampled = (count if type(count) is int else None for count in counted)
            return ServerTurn(content, calls, ended == "cut off", _stop(choice), prompt, sampled)
    raise Failed(
        "no chat completion", f": {len(reply.body)} bytes without a text or calls of tools"
    )


def _stop(choice: Mapping[str, Any]) -> str | None:
    """The stop string that ended a turn, which vLLM and SGLang tell under these names, with null or
    a token's id for the end of the turn."""
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            return choice[name] if isinstance(choice[name], str) else ""
    return None


def how_it_ended(reply: Reply) -> Literal["", "declined", "cut off"]:
    """Whether the model would not answer (or what it said was held back), or was cut off; empty for
    neither, and for what is no completion."""
    with suppress(KeyError, IndexError, TypeError, AttributeError):
        choice = _json(reply)["choices"][0]
        refused = not choice["message"].get("content") and bool(choice["message"].get("refusal"))
        if refused or choice.get("finish_reason") == "content_filter":
            return "declined"
        if choice.get("finish_reason") == "length":
            return "cut off"
    return ""


def _json(reply: Reply) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(reply.body)
    return None


def _refused(reply: Reply) -> Failed:
    code = ""
    with suppress(KeyError, TypeError, AttributeError):
        error = _json(reply)["error"]
        code = next((f", {c}" for c in (error.get("code"), error.get("type")) if c in _CODES), "")
    phrase = responses.get(reply.status, "")
    return Failed(
        f"HTTP {reply.status}",
        f"{' ' * bool(phrase)}{phrase}{code}",
        status=reply.status,
        again=reply.status in _AGAIN or reply.status >= 500,
        wait=reply.wait,
        alike=reply.status not in _OF_THE_REQUEST,
    )
