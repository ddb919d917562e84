"""The body of a chat request, read: what is asked, and how it is to be sampled.

Fields that change nothing here are left alone, as other servers do. What would change the answer
and cannot be done is refused by name.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfpc_jax.jsonfile import brief
from lfpc_jax.rollout.sampling import COLDEST, Sampling
from lfpc_jax.serve.refused import Refused, invalid

Number = int | float

MOST_CHOICES = 8
_MOST_STOPS = 4
_LONGEST_STOP = 200
_NOT_DONE = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "functions": ([], None),
    "function_call": (None, "none"),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""Fields that are not served, and the values that ask for nothing."""


@dataclass(frozen=True)
class Function:
    """A tool that the client carries out, as it declared it."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A chat request. `looks` is the mode in which the server runs the crop loop; there
    `longest_side` is the size to which the shown image is downsampled, if it is."""

    model: str
    messages: Sequence[Any]
    sampling: Sampling
    seed: int
    tokens: int | None
    choices: int
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    tools: tuple[Function, ...]
    looks: bool
    longest_side: int | None
    ids: bool = False
    """Whether the sampled ids are sent, too."""


def read(body: bytes, models: Mapping[str, bool], *, temperature: float) -> Wanted:
    """Raises `Refused`. `models` says of each name whether it looks; `temperature` is the usual
    one."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body is not valid JSON", None, "invalid_json") from None
    if not isinstance(fields, dict):
        raise invalid(f"the body is {brief(fields)}; it must be a JSON object", None)
    model = _one(fields, "model", str, None)
    if model not in models:
        raise Refused(
            404,
            f"there is no model {brief(model)}; the models are {', '.join(models)}",
            param="model",
            code="model_not_found",
        )
    for name, idle in _NOT_DONE.items():
        if fields.get(name) not in (*idle, None):
            raise invalid(f"{name} is not served here; leave it out", name, "unsupported_parameter")
    _check_format(fields.get("response_format"))
    looks = models[model] or bool(_one(fields, "look", bool, False))
    tools = _tools(fields)
    if looks and tools:
        raise invalid(
            "the server runs its own tool in this mode; leave tools out, or name a model that "
            "does not look",
            "tools",
        )
    longest = _number(fields, "longest_side", None, 1, 1 << 16, whole=True)
    if longest is not None and not looks:
        raise invalid("longest_side needs the mode that looks", "longest_side")
    options = _one(fields, "stream_options", dict, {})
    return Wanted(
        model=model,
        messages=_messages(fields),
        sampling=_sampling(fields, temperature),
        seed=_seed(fields),
        tokens=_tokens(fields),
        choices=_number(fields, "n", 1, 1, MOST_CHOICES, whole=True),
        stops=_stops(fields, looks),
        stream=bool(_one(fields, "stream", bool, False)),
        usage=bool(_one(options, "include_usage", bool, False)),
        tools=tools,
        looks=looks,
        longest_side=longest,
        ids=bool(_one(fields, "return_token_ids", bool, False)),
    )


def _messages(fields: Mapping[str, Any]) -> list[Any]:
    messages = _one(fields, "messages", list, None)
    if not messages:
        raise invalid("messages is empty or missing; give at least one", "messages")
    return messages


def _sampling(fields: Mapping[str, Any], usual: float) -> Sampling:
    temperature = float(_number(fields, "temperature", usual, 0, 100))
    if 0 < temperature < COLDEST:
        temperature = 0.0  # some clients write 0 so
    top_p = float(_number(fields, "top_p", 1, 0, 1))
    top_k = _number(fields, "top_k", 0, -1, 1 << 30, whole=True)
    if top_p == 0:  # the likeliest token alone
        return Sampling(0.0)
    return Sampling(temperature, max(top_k, 0), top_p)


def _seed(fields: Mapping[str, Any]) -> int:
    seed = _number(fields, "seed", None, -(1 << 63), 1 << 63, whole=True)
    return secrets.randbits(48) if seed is None else seed


def _tokens(fields: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        most = _number(fields, name, None, 1, 1 << 30, whole=True)
        if most is not None:
            return most
    return None


def _stops(fields: Mapping[str, Any], looks: bool) -> tuple[str, ...]:
    stop = fields.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > _MOST_STOPS:
        raise invalid(f"stop is {brief(stop)}; give up to {_MOST_STOPS} texts", "stop")
    for each in stops:
        if not isinstance(each, str) or not 0 < len(each) <= _LONGEST_STOP:
            raise invalid(
                f"stop holds {brief(each)}; each is a text of 1 to {_LONGEST_STOP} characters",
                "stop",
            )
    if stops and looks:
        raise invalid("stop is not served in the mode that looks; leave it out", "stop")
    return tuple(stops)


def _tools(fields: Mapping[str, Any]) -> tuple[Function, ...]:
    choice = fields.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise invalid(
            f"tool_choice is {brief(choice)}; only auto and none are served", "tool_choice"
        )
    found = []
    for tool in _one(fields, "tools", list, []):
        match tool:
            case {"type": "function", "function": {"name": str(name)} as function} if name:
                found.append(Function(name, {"type": "function", "function": function}))
            case _:
                raise invalid(f"tools holds {brief(tool)}; give functions with names", "tools")
    return () if choice == "none" else tuple(found)


def _check_format(wanted: Any) -> None:
    if wanted not in (None, {"type": "text"}):
        raise invalid(
            f"response_format is {brief(wanted)}; only text is served",
            "response_format",
            "unsupported_parameter",
        )


def _one(fields: Mapping[str, Any], name: str, kind: type, usual: Any) -> Any:
    value = fields.get(name)
    if value is None:
        return usual
    if not isinstance(value, kind):
        raise invalid(f"{name} is {brief(value)}, of another type than {kind.__name__}", name)
    return value


def _number(
    fields: Mapping[str, Any],
    name: str,
    usual: Number | None,
    least: Number,
    most: Number,
    *,
    whole: bool = False,
) -> Any:
    value = fields.get(name)
    if value is None:
        return usual
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise invalid(f"{name} is {brief(value)}; it must be {kind} from {least} to {most}", name)
    return value
