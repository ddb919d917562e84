"""Bodies of chat requests: what is read, and what is refused by name."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.serve.refused import Refused
from lfpc_jax.serve.wanted import read

MODELS = {"m": False, "m:look": True}
LEAST = {"model": "m", "messages": [{"role": "user", "content": "Which?"}]}


def of(**fields):
    return read(json.dumps(LEAST | fields).encode(), MODELS, temperature=0.3)


def test_the_least_that_can_be_asked():
    wanted = of()
    assert wanted.sampling == Sampling(0.3)
    assert (wanted.choices, wanted.tokens, wanted.stream, wanted.looks) == (1, None, False, False)
    assert of().seed != of().seed


def test_everything_that_can_be_asked():
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    wanted = of(temperature=1, top_p=0.5, top_k=-1, seed=7, max_tokens=9, n=3, stop="x",
                stream=True,
                stream_options={"include_usage": True}, tools=[tool], tool_choice="auto",
                return_token_ids=True, user="somebody", logprobs=False,
                response_format={"type": "text"})  # fmt: skip
    assert wanted.sampling == Sampling(1.0, 0, 0.5)
    assert (wanted.seed, wanted.tokens, wanted.choices, wanted.stops) == (7, 9, 3, ("x",))
    assert (wanted.stream, wanted.usage, wanted.ids) == (True, True, True)
    assert wanted.tools[0].schema == tool
    assert of(max_completion_tokens=4, max_tokens=9).tokens == 4
    assert of(tools=[tool], tool_choice="none").tools == ()


def test_the_mode_that_looks_by_name_or_by_field():
    assert of(model="m:look", longest_side=56).longest_side == 56
    assert of(look=True).looks


def test_temperatures_that_mean_the_likeliest_token():
    assert of(temperature=1e-9).sampling == of(temperature=0).sampling == of(top_p=0).sampling
    assert of(temperature=0).sampling == Sampling(0.0)


@pytest.mark.parametrize(("fields", "param", "status"), [
    ({"model": "gpt"}, "model", 404), ({"model": None}, "model", 404), ({"model": 3}, "model", 400),
    ({"messages": []}, "messages", 400), ({"messages": "hi"}, "messages", 400),
    ({"temperature": "hot"}, "temperature", 400), ({"temperature": -1}, "temperature", 400),
    ({"temperature": True}, "temperature", 400), ({"top_p": 1.5}, "top_p", 400),
    ({"n": 0}, "n", 400), ({"n": 100}, "n", 400), ({"n": 1.5}, "n", 400),
    ({"max_tokens": 0}, "max_tokens", 400), ({"stop": [""]}, "stop", 400),
    ({"stop": ["a"] * 5}, "stop", 400), ({"stop": {}}, "stop", 400),
    ({"tools": [{}]}, "tools", 400), ({"tool_choice": "required"}, "tool_choice", 400),
    ({"logprobs": True}, "logprobs", 400), ({"logit_bias": {"5": 1}}, "logit_bias", 400),
    ({"presence_penalty": 0.5}, "presence_penalty", 400), ({"functions": [{}]}, "functions", 400),
    ({"response_format": {"type": "json_object"}}, "response_format", 400),
    ({"longest_side": 56}, "longest_side", 400), ({"model": "m:look", "stop": "x"}, "stop", 400),
    ({"seed": 1 << 80}, "seed", 400), ({"stream": "yes"}, "stream", 400),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(fields, param, status):
    with pytest.raises(Refused) as refused:
        of(**fields)
    assert (refused.value.status, refused.value.param) == (status, param)
    assert refused.value.body["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000,
                                  b"9" * 10_000, b'{"model": NaN}'])  # fmt: skip
def test_bodies_that_are_no_request(body):
    with pytest.raises(Refused) as refused:
        read(body, MODELS, temperature=0.0)
    assert refused.value.status in (400, 404)


LEAF = some.none() | some.booleans() | some.integers() | some.floats() | some.text()
JSON = LEAF | some.lists(LEAF, max_size=3) | some.dictionaries(some.text(), LEAF, max_size=3)
FIELDS = ("model", "messages", "temperature", "top_p", "top_k", "seed", "n", "stop", "stream",
          "tools", "max_tokens", "stream_options", "look", "longest_side", "response_format",
          "tool_choice", "logit_bias", "functions")  # fmt: skip


@given(some.dictionaries(some.sampled_from(FIELDS), JSON, max_size=5))
def test_any_field_of_any_value_is_read_or_refused(fields):
    with suppress(Refused):
        of(**fields)
