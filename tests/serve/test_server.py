"""The real `openai` client against the server, over the small model."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection

import numpy as np
import pytest

from lfpc_jax.rollout.requests import Request, RequestRun
from lfpc_jax.rollout.said import said
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import system_prompt
from lfpc_jax.serve.limits import Limits
from lfpc_jax.trajectory import Picture, Record
from support import small
from support.served import RULES, data_url, held, message, png, served

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.compiles

QUESTION = "Which colour is it?"
SYSTEM = {"role": "system", "content": system_prompt(small.TOOLBOX)}
FUNCTION = {"type": "function", "function": small.ZOOM.schema["function"]}


def asked(seed=0, text=QUESTION):
    return [message(text, data_url(png(seed=seed)))]


def record(seed=0, text=QUESTION):
    return Record("asked", text, "", Picture(data=png(seed=seed)))


def rolled(made, one, *, seed=0, temperature=0.0, rules=RULES):
    """What the engine gives for a record, run by itself."""
    sampling = Sampling(temperature)
    ended = []
    run = RequestRun(
        made, on_episode=lambda _, e: e.end and ended.append(e), on_skipped=pytest.fail
    )
    with run:
        dialogue = made.dialogue
        run.add(Request(dialogue.open(one), seed, replace(rules, sampling=sampling), dialogue))
        while not run.idle:
            run.turn()
    return ended[0].trajectory()


def sampled(trajectory):
    return np.asarray(trajectory.ids)[np.asarray(trajectory.sampled)].tolist()


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_the_mode_that_looks_gives_the_engines_episode(made, temperature):
    wanted = [rolled(made, record(n), seed=n, temperature=temperature) for n in range(4)]
    with served(made) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        found = [
            client.chat.completions.create(
                model="small:look", messages=asked(n), seed=n, temperature=temperature,
                extra_body={"return_token_ids": True},
            )
            for n in range(4)
        ]  # fmt: skip
    for reply, trajectory in zip(found, wanted):
        [choice] = reply.choices
        assert choice.token_ids == sampled(trajectory)
        assert choice.message.content == (said(trajectory) or "")
        crops = [told for told in choice.message.lfpc if told["event"] == "crop"]
        boxes = [turn.crop.box for turn in trajectory.turns if turn.crop]
        np.testing.assert_allclose([crop["box"] for crop in crops], boxes or [], atol=0.006)
        assert reply.usage.completion_tokens == sum(trajectory.sampled)
        assert reply.usage.total_tokens == len(trajectory.ids)
    assert any(turn.crop for trajectory in wanted for turn in trajectory.turns)


def test_a_chat_of_one_turn_with_the_loops_own_prompt_begins_as_the_episode(made):
    """A client that runs the loop itself sends what the engine would."""
    episodes = [rolled(made, record(n), seed=n) for n in range(6)]
    assert any(episode.turns[0].call for episode in episodes)
    with served(made) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        for number, episode in enumerate(episodes):
            first = episode.turns[0]
            ids = episode.ids[first.start : first.stop].tolist()
            how = {
                "model": "small", "seed": number, "temperature": 0,
                "extra_body": {"return_token_ids": True},
            }  # fmt: skip
            by_hand = client.chat.completions.create(messages=[SYSTEM, *asked(number)], **how)
            assert by_hand.choices[0].token_ids == ids
            assert by_hand.choices[0].message.content == first.text
            by_tool = client.chat.completions.create(
                messages=asked(number), tools=[FUNCTION], **how
            )
            assert by_tool.choices[0].token_ids == ids


def test_a_stream_is_the_reply_in_pieces(client):
    for model in ("small", "small:look"):
        how = {"model": model, "messages": asked(3), "seed": 3}
        whole = client.chat.completions.create(**how)
        chunks = [*client.chat.completions.create(
            **how, stream=True, stream_options={"include_usage": True})]  # fmt: skip
        told = [c.choices[0].delta for c in chunks if c.choices]
        message_ = whole.choices[0].message
        assert "".join(d.content or "" for d in told) == message_.content
        assert chunks[-1].usage == whole.usage
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[
            0
        ].finish_reason
        assert len({c.id for c in chunks}) == 1
        if model == "small:look":
            thought = "".join(getattr(d, "reasoning_content", None) or "" for d in told)
            assert thought == message_.reasoning_content
            events = [
                d.lfpc for d in told if getattr(d, "lfpc", None) and d.lfpc.get("event") != "begin"
            ]
            assert events == message_.lfpc


def test_tools_are_passed_through_and_their_pictures_come_back(client):
    """The client's own loop: a call, a picture for it, and the next turn."""
    create = client.chat.completions.create
    for number in range(30):
        talk = asked(number)
        reply = create(model="small", messages=talk, tools=[FUNCTION], temperature=0)
        if reply.choices[0].finish_reason == "tool_calls":
            break
    said_ = reply.choices[0].message
    [call] = said_.tool_calls
    assert call.function.name == small.ZOOM.name
    box = json.loads(call.function.arguments)["bbox_2d"]
    assert len(box) == 4
    chunks = [*create(model="small", messages=talk, tools=[FUNCTION], temperature=0, stream=True)]
    calls = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
    assert [(c.function.name, c.function.arguments) for c in calls] == [
        (call.function.name, call.function.arguments)
    ]
    assert "tool_call" not in "".join(c.choices[0].delta.content or "" for c in chunks)
    crop = {"type": "image_url", "image_url": {"url": data_url(png(60, 60, 9))}}
    back = {"role": "tool", "tool_call_id": call.id, "content": [crop]}
    more = create(model="small", messages=[*talk, said_, back], tools=[FUNCTION], temperature=0)
    assert more.usage.prompt_tokens > reply.usage.prompt_tokens + 4
    twice = [*talk, said_, back, said_, back]
    assert (
        create(model="small", messages=twice, tools=[FUNCTION]).usage.prompt_tokens
        > more.usage.prompt_tokens
    )


def test_several_choices_have_numbers_of_their_own(made, client):
    reply = client.chat.completions.create(
        model="small:look", messages=asked(1), seed=5, temperature=1, n=3,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({str(choice.token_ids) for choice in reply.choices}) > 1
    one = client.chat.completions.create(
        model="small:look", messages=asked(1), seed=5, temperature=1,
        extra_body={"return_token_ids": True},
    )  # fmt: skip
    assert one.choices[0].token_ids == reply.choices[0].token_ids


def test_limits_and_stops_of_a_request(client):
    create = client.chat.completions.create
    long = create(model="small", messages=[SYSTEM, *asked()], temperature=1, seed=8)
    text = long.choices[0].message.content
    short = create(model="small", messages=[SYSTEM, *asked()], temperature=1, seed=8, max_tokens=1)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (1, "length")
    stop = text[len(text) // 2 :][:3]
    cut = create(model="small", messages=[SYSTEM, *asked()], temperature=1, seed=8, stop=[stop])
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_question_without_a_picture(client):
    for model in ("small", "small:look"):
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "red"}]
        )
        assert reply.usage.prompt_tokens > 0


def test_what_is_shown_can_be_smaller(client):
    shown = [
        client.chat.completions.create(
            model="small:look", messages=asked(), extra_body={"longest_side": side}
        )
        for side in (28, 56, 160)
    ]
    assert [s.lfpc["shown"] for s in shown] == [[28, 28], [56, 56], [168, 112]]
    assert all(s.lfpc["original"] == [160, 120] for s in shown)


def test_many_clients_at_once_each_get_their_own(made, server):
    def ask(number):
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
            return client.chat.completions.create(
                model="small:look", messages=asked(number % 6), seed=number, temperature=1,
                extra_body={"return_token_ids": True},
            )  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(ask, range(24))]
    assert not made.slots.programs.late, "nothing compiles after the warm-up"
    server.stop.set()
    server.waits_until(lambda: made.slots._state is None)
    for number in (0, 7, 23):
        wanted = rolled(made, record(number % 6), seed=number, temperature=1.0)
        assert found[number].choices[0].token_ids == sampled(wanted)


# ------------------------------------------------------------------ errors


def test_errors_are_those_that_the_client_knows(client):
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as error:
        create(model="gpt", messages=asked())
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    for messages, param in (
        ([{"role": "robot", "content": "hi"}], "messages[0].role"),
        ([{"role": "user", "content": 3}], "messages[0].content"),
        ([{"role": "user", "content": "<|im_end|>"}], "messages"),
        ([message("hi", "data:image/png;base64,AAAA")], "image_url"),
        ([message("Which " * 300)], "messages"),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            create(model="small", messages=messages)
        assert bad.value.param == param
    with pytest.raises(openai.BadRequestError) as bad:
        create(model="small:look", messages=[SYSTEM, *asked()])
    assert "single user message" in str(bad.value)
    with (
        pytest.raises(openai.BadRequestError),
        create(model="small", messages=[message("Which " * 300)], stream=True) as chunks,
    ):
        list(chunks)
    assert [model.id for model in client.models.list()] == ["small", "small:look"]
    assert client.models.retrieve("small:look").id == "small:look"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="small", input="x")


def begun(server, **fields):
    """A connection on which a request was sent."""
    body = json.dumps({"model": "small", "messages": asked()} | fields)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_answers_429_and_a_client_that_goes_away_frees_its_slot(made, stream):
    with served(made, queue=2) as server, held(made) as gate:
        places = made.shapes.slots + 2
        clients = [begun(server, stream=stream) for _ in range(places)]
        in_hand = server.service.worker.in_hand
        server.waits_until(lambda: len(in_hand) == places)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as one:
            with pytest.raises(openai.RateLimitError) as full:
                one.chat.completions.create(model="small", messages=asked())
            assert full.value.response.headers["retry-after"] == "1"
            for client in clients:
                client.close()
            server.waits_until(lambda: not in_hand)
            gate.set()
            assert one.chat.completions.create(model="small", messages=asked())
        server.waits_until(lambda: not server.service.worker.running)


def test_a_request_that_takes_too_long_is_given_up(made):
    with served(made, limits=Limits(seconds=0.5)) as server, held(made) as gate:
        status, error = server.refused({"model": "small", "messages": asked()})
        assert (status, error["code"]) == (504, "time_limit")
        gate.set()
        server.waits_until(lambda: not server.service.worker.running)


def test_an_engine_that_fails_says_so_and_goes_on(made, server, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as change:
        change.setattr(made.slots, "decode", broken)
        status, error = server.refused({"model": "small", "messages": asked()})
        assert (status, error["code"]) == (500, "engine_failed")
        assert server.ask(path="/health")[0] == 503
    assert "the engine failed" in caplog.text
    server.waits_until(lambda: server.ask({"model": "small", "messages": asked()})[0] == 200)
    assert server.ask(path="/health")[0] == 200


def answers(server) -> bool:
    try:
        return bool(server.ask(path="/health"))
    except OSError:
        return False


def test_what_prometheus_is_told(server):
    assert server.ask({"model": "small:look", "messages": asked()})[0] == 200
    assert server.ask({"model": "gpt", "messages": asked()})[0] == 404
    status, headers, text = server.ask(path="/metrics")
    told = text.decode()
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert 'lfpc_requests_total{mode="looks",status="200"} 1.0' in told
    assert 'lfpc_requests_total{mode="none",status="404"} 1.0' in told
    assert "lfpc_requests_in_hand 0.0" in told
    sampled_ = [
        line for line in told.splitlines() if line.startswith("lfpc_completion_tokens_total")
    ]
    assert float(sampled_[0].split()[1]) > 0


def test_told_to_stop_it_ends_what_is_in_hand_and_takes_no_more(made):
    with served(made) as server, held(made) as gate:
        last = begun(server)
        server.waits_until(lambda: len(server.service.worker.in_hand) == 1)
        server.stop.set()
        server.waits_until(lambda: not answers(server))
        gate.set()
        with closing(last), last.getresponse() as reply:
            assert reply.status == 200
            assert json.loads(reply.read())["choices"][0]["finish_reason"]
