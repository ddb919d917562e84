"""A remote target that is slow, wrong or gone: every failure is a fault with its cause, none is an
answer, none is kept, and nothing of the API key is told."""

import json
import logging
import time

import pytest

from lfpc_jax.cropvlm.remote import RemoteTarget, TargetFailed
from lfpc_jax.cropvlm.target import Said
from support.judge_server import (
    cut_short,
    drip,
    drip_headers,
    hang_up,
    late,
    raw,
    say,
    status,
)
from support.target_server import TargetServer, ask, asking, boxes, record, settings
from support.told_key import KEY, SERVERS, told

BOX = (20.0, 10.0, 120.0, 70.0)


def scripted(*behaviours):
    return lambda index, asked: behaviours[min(index, len(behaviours) - 1)]


def choice(finish="stop", **message):
    body = {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}]}
    return raw(json.dumps(body).encode())


FAULTS = {
    "busy": (status(429), "HTTP 429", 3),
    "broken": (status(500), "HTTP 500", 3),
    "away": (status(503), "HTTP 503", 3),
    "refused": (status(401), "HTTP 401", 1),
    "moved": (status(301, ("Location", "http://127.0.0.1:1/")), "HTTP 301", 1),
    "too large": (status(413), "HTTP 413", 1),
    "hung up": (hang_up, "no connection", 3),
    "cut short": (cut_short, "no chat completion", 3),
    "truncated": (raw(b'{"choices": [{"message": {"content": "Exi'), "no chat completion", 3),
    "no JSON": (raw(b"<html>"), "no chat completion", 3),
    "deep": (raw(b"[" * 100_000), "no chat completion", 3),
    "no choice": (raw(b'{"choices": []}'), "no chat completion", 3),
    "no message": (raw(b'{"choices": [{"message": "Exit."}]}'), "no chat completion", 3),
    "no content": (choice(content=None), "no chat completion", 3),
    "a number": (choice(content=7), "no chat completion", 3),
    "a list": (choice(content=["Exit."]), "no chat completion", 3),
    "an object": (choice(content={"text": "Exit."}), "no chat completion", 3),
    "an error": (raw(b'{"error": {"message": "overloaded"}}'), "no chat completion", 3),
    "declined": (choice(content=None, refusal="I cannot help"), "declined", 1),
    "filtered": (choice("content_filter", content="Ex"), "declined", 1),
    "cut off with no message": (
        raw(b'{"choices": [{"finish_reason": "length"}]}'),
        "no chat completion",
        3,
    ),
    "too long": (choice(content="x" * 100_000), "too long", 1),
    "huge": (choice(content="x" * (1 << 21)), "no chat completion", 3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_is_a_fault_and_never_an_answer(tmp_path, name):
    """It is counted by its cause, which comes first, says where it was, and is not kept."""
    behave, cause, requests = FAULTS[name]
    with asking(scripted(behave), tmp_path) as (target, server):
        ((said,),) = ask(target, (record(), (BOX,)))
        assert said.answer is None
        assert said.fault.partition(":")[0] == cause
        assert f"{server.url}/chat/completions, model seer-1" in said.fault
        assert f"(attempt {requests})" in said.fault
        assert len(server.requests) == requests
        assert not list(tmp_path.iterdir())
        server.behave = scripted(say("Exit."))
        assert ask(target, (record(), (BOX,))) == [(Said("Exit"),)]


@pytest.mark.parametrize(
    ("behave", "answer"),
    [
        (choice("length", content="The sign says that the ex"), "The sign says that the ex"),
        (choice("length", content="Exit."), "Exit"),
        (choice("length", content="<think>The sign"), ""),
        (choice("length", content=""), ""),
        (choice("length", content=None), ""),  # all of it was thought
    ],
)
def test_an_answer_that_was_cut_off_is_the_model_s_own(tmp_path, behave, answer):
    """It is scored as it stands and kept like any other, as a local target's is."""
    with asking(scripted(behave), tmp_path) as (target, server):
        assert ask(target, (record(), (BOX,))) == [(Said(answer),)]
        server.behave = scripted(say("No."))
        assert ask(target, (record(), (BOX,))) == [(Said(answer, cached=True),)]
        assert len(server.requests) == 1


@pytest.mark.seconds
@pytest.mark.parametrize("slow", [late(0.6, say("no")), drip, drip_headers])
def test_slowness_is_named(tmp_path, slow):
    with asking(scripted(slow), tmp_path, {"reply_seconds": 0.2}) as (target, _):
        ((said,),) = ask(target, (record(), (BOX,)))
    assert said.fault.startswith("no reply: ")
    assert "within 0.2 s (attempt 3)" in said.fault


@pytest.mark.parametrize("trouble", [status(429, ("Retry-After", "1")), hang_up, cut_short])
def test_trouble_that_passes_is_waited_out(tmp_path, trouble):
    with asking(scripted(trouble, say("Exit.")), tmp_path) as (target, server):
        assert ask(target, (record(), (BOX,))) == [(Said("Exit"),)]
    waited = server.requests[1][0] - server.requests[0][0]
    assert waited >= (1 if trouble not in (hang_up, cut_short) else 0)


@pytest.mark.seconds
@pytest.mark.parametrize("trouble", [late(20, say("no")), drip, drip_headers, status(503)])
def test_a_step_ends_when_its_time_is_over(tmp_path, trouble):
    patience = {"concurrent": 2, "attempts": 1000, "first_wait": 0.2, "reply_seconds": 60.0}
    with asking(scripted(trouble), tmp_path, {**patience, "batch_seconds": 0.5}) as (target, _):
        started = time.monotonic()
        (said,) = ask(target, (record(), boxes(9)))
        assert time.monotonic() - started < 3
    assert [each.answer for each in said] == [None] * 9
    assert {each.fault.partition(":")[0] for each in said} <= {
        "out of time", "no reply", "no connection", "HTTP 503"
    }  # fmt: skip


def test_a_target_that_is_gone_is_not_asked_all_the_rest(tmp_path):
    """16 in a row that come to nothing are enough; what was answered before stays."""
    with asking(scripted(say("Exit.")), tmp_path, {"concurrent": 4}) as (target, server):
        ask(target, (record(), boxes(3)))
        server.behave = scripted(status(401))
        (said,) = ask(target, (record(), boxes(100)))
        causes = [each.fault.partition(":")[0] for each in said]
        assert causes.count("") == 3
        assert 16 <= causes.count("HTTP 401") == len(server.requests) - 3 < 20
        assert causes.count("not asked") == 97 - causes.count("HTTP 401")
        (reason,) = {each.fault for each in said if each.fault.startswith("not asked")}
    assert "the last with HTTP 401; check the API key" in reason


def test_some_fail_and_the_others_do_not_suffer(tmp_path):
    def behave(index, asked):
        number = int(asked[1][5:7])
        return (say("Exit."), status(500), choice("content_filter", content="Ex"), say("No."))[
            number % 4
        ]

    questions = [(record(str(n), f"Sign {n:02}?"), (BOX,)) for n in range(24)]
    with asking(behave, tmp_path) as (target, _):
        said = ask(target, *questions)
    expected = [("Exit", ""), (None, "HTTP 500"), (None, "declined"), ("No", "")] * 6
    assert [(each.answer, each.fault.partition(":")[0]) for (each,) in said] == expected


def test_one_failure_is_all_s_that_ask_the_same(tmp_path):
    with asking(scripted(late(0.3, status(401))), tmp_path) as (target, server):
        (said,) = ask(target, (record(), (BOX,) * 4))
        assert len(server.requests) == 1
    assert {each.fault.partition(":")[0] for each in said} == {"HTTP 401"}


def test_a_cache_that_cannot_be_written_costs_no_answer(tmp_path, caplog):
    folder = tmp_path / "cache"
    with asking(scripted(say("Exit.")), folder) as (target, _):
        folder.rmdir()
        assert ask(target, (record(), (BOX,))) == [(Said("Exit"),)]
    assert str(folder) in caplog.text


@pytest.mark.parametrize("name", SERVERS)
def test_no_piece_of_the_key_is_told(tmp_path, monkeypatch, caplog, capfd, name):
    """Only an answer may hold what a server makes of the key, if it spells it in its own way."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TARGET_KEY", KEY)
    with TargetServer(lambda index, asked: SERVERS[name]) as server:
        patience = {"attempts": 2, "reply_seconds": 5.0}
        chosen = settings(server.url, tmp_path, patience, key_variable="TARGET_KEY")
        target = RemoteTarget(chosen)
        with pytest.raises(TargetFailed, match="seer-1") as refused:
            target.check()
        ((said,),) = ask(target, (record(), (BOX,)))
        assert server.requests[0][2]["Authorization"] == f"Bearer {KEY}"
    if said.answer is None:
        assert server.url in said.fault
        assert not list(tmp_path.iterdir())
    else:
        assert name.endswith(", content") or name == "why it ended", name
        assert KEY not in said.answer
    everything = [str(refused.value), said.fault, caplog.text, *capfd.readouterr()]
    everything += [repr(target), str(target), repr(chosen), repr(refused.value.__context__)]
    everything += [json.dumps(target.identity)]
    assert not set().union(*map(told, everything))


@pytest.mark.parametrize("name", ["plain, content"])
def test_an_answer_that_repeats_the_key_is_a_fault(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TARGET_KEY", KEY)
    with TargetServer(lambda index, asked: SERVERS[name]) as server:
        target = RemoteTarget(settings(server.url, tmp_path, key_variable="TARGET_KEY"))
        ((said,),) = ask(target, (record(), (BOX,)))
    assert said.fault.startswith("key repeated: ")


@pytest.mark.parametrize("value", ["", " \n", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_a_key_that_cannot_be_one_is_said_at_once(tmp_path, monkeypatch, value):
    monkeypatch.setenv("TARGET_KEY", value)
    with pytest.raises(ValueError, match="TARGET_KEY") as refused:
        RemoteTarget(settings("http://h/v1", tmp_path, key_variable="TARGET_KEY"))
    assert KEY not in str(refused.value)
