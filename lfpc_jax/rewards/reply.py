"""A judge's reply: its one word, or what is wrong with it.

A server may repeat the API key that it was sent, in any spelling: in its status line, headers and
error texts, escaped or cut to pieces. So nothing that it wrote is quoted, and no list of spellings
has to be complete. A failure names the status by its number, an error code if it is one of
`_CODES`, and lengths; every word is ours.
"""

import json
from contextlib import suppress
from http.client import responses
from typing import Any

from lfpc_jax.rewards.endpoint import Reply

_WORDS = {"yes": True, "no": False}
_AGAIN = frozenset({408, 409, 425, 429})
_OF_THE_CLAIM = frozenset({400, 413, 422})
"""Statuses that may be about what was asked; others would meet any claim."""
_CODES = frozenset({
    "authentication_error", "billing_not_active", "context_length_exceeded", "insufficient_quota",
    "internal_server_error", "invalid_api_key", "invalid_request_error", "model_not_found",
    "not_found_error", "overloaded_error", "permission_error", "rate_limit_error",
    "rate_limit_exceeded", "server_error", "unsupported_parameter", "unsupported_value",
})  # fmt: skip


class Failed(Exception):
    """An attempt without a verdict. `cause` is what such failures have in common. `again` says that
    another attempt may help, after `wait` seconds; `alike` that other claims would fare no better.
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
    ) -> None:
        super().__init__(f"{cause}{detail}")
        self.cause, self.detail, self.status = cause, detail, status
        self.again, self.wait, self.alike = again, wait, alike


def read_verdict(reply: Reply) -> bool:
    """Yes or no, the only word of the reply; anything else raises `Failed`."""
    if reply.status != 200:
        raise _refused(reply)
    completion: Any = None
    with suppress(ValueError, RecursionError):
        completion = json.loads(reply.body)
    try:
        choice = completion["choices"][0]
        content = choice["message"]["content"]
        word = content.strip().strip("*.\"'!").casefold()
    except (KeyError, IndexError, TypeError, AttributeError):
        what = (
            "no JSON" if completion is None else "JSON without choices[0].message.content as a text"
        )
        raise Failed("no chat completion", f": {len(reply.body)} bytes, {what}") from None
    if word not in _WORDS:
        raise Failed("neither yes nor no", _instead(content, choice), alike=False)
    return _WORDS[word]


def _refused(reply: Reply) -> Failed:
    code = ""
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
        error = json.loads(reply.body)["error"]
        code = next((f", {c}" for c in (error.get("code"), error.get("type")) if c in _CODES), "")
    phrase = responses.get(reply.status, "")
    return Failed(
        f"HTTP {reply.status}",
        f"{' ' * bool(phrase)}{phrase}{code}",
        status=reply.status,
        again=reply.status in _AGAIN or reply.status >= 500,
        wait=reply.wait,
        alike=reply.status not in _OF_THE_CLAIM,
    )


def _instead(content: str, choice: Any) -> str:
    """What came in place of the word."""
    length = f", but {len(content)} characters"
    if "<think>" in content:
        return f"{length} that begin to think aloud"
    return f"{length}, cut off" if choice.get("finish_reason") == "length" else length
