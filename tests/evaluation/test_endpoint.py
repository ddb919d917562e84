"""A model behind a server is asked as an engine is: the same episodes, answers and results."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lfpc_jax.cli import evaluate as command
from lfpc_jax.data import layout
from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.endpoint import AskedEndpoint, Endpoint
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.results import encoded
from lfpc_jax.evaluation.run import ask
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.run.dialogues import zooming
from support import rigged, small
from support.endpoint_server import (
    END,
    USUAL,
    EndpointServer,
    heedless,
    parsed,
    told,
)
from support.judge_server import hang_up, raw, status
from support.processes import TESTS, environment
from support.rigged import counted

COUNT = 8
CONDITIONS = ("tool", "direct", *ALTERATIONS)


@pytest.fixture(scope="module")
def records():
    return tuple(rigged.world(COUNT))


def endpoint(server, rules=None, key=""):
    to = Endpoint(server.url, "seer-1", key, USUAL)
    return AskedEndpoint(to, small.dialogue(), rules or Rules())


def evaluated(folder, records, made, conditions=CONDITIONS, rollouts=1):
    journal = Journal(folder)
    about = {"questions": len(records), "digest": "d", "column": None}
    token = made.dialogue.tokenizer.image_pad
    journal.begin({"rollouts": rollouts, "image_token": token}, {"set": about})
    benchmark = Benchmark("set", "layout", records, ())
    unanswered = ask(lambda: made, benchmark, 32, conditions, journal, rollouts=rollouts, seed=0)
    return journal, unanswered


def groups(journal, condition, rollouts=1):
    return {g.record.id: g for g in journal.read(Trial("set", 32, condition), rollouts)}


def same(found, wanted):
    assert found.record.entry() == wanted.record.entry()
    for ours, theirs in zip(found.trajectories, wanted.trajectories, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        assert (ours.turns, ours.end, ours.answer) == (theirs.turns, theirs.end, theirs.answer)
        assert (ours.shown, ours.original) == (theirs.shown, theirs.original)


class Ends(rigged.RiggedEngine):
    """Ends its turns as a model does, so that ids are equal, too."""

    def run(self, records, **how):
        said = self.say

        def ended(episode):
            text = said(episode)
            return text if text.endswith(END) else f"{text}<|im_end|>"

        self.say = ended
        try:
            yield from super().run(records, **how)
        finally:
            self.say = said


@pytest.mark.seconds
@pytest.mark.parametrize("say", [rigged.reads_the_crop, rigged.misses_half])
def test_every_condition_has_the_engines_episodes_and_results(records, tmp_path, say):
    wanted, _ = evaluated(tmp_path / "engine", records, Ends(say, small.dialogue()), rollouts=2)
    with EndpointServer(say, records, small.dialogue()) as server:
        found, unanswered = evaluated(tmp_path / "server", records, endpoint(server), rollouts=2)
    assert not unanswered
    assert found.parts() == wanted.parts()
    for condition in CONDITIONS:
        ours, theirs = groups(found, condition, 2), groups(wanted, condition, 2)
        assert ours.keys() == theirs.keys()
        for name, group in ours.items():
            same(group, theirs[name])
    assert encoded(counted(found)) == encoded(counted(wanted))
    assert 1 < server.most_open <= USUAL.concurrent
    # Two turns with the tool, one without, and one after each altered crop.
    assert len(server.requests) == 2 * COUNT * (2 + 1 + len(ALTERATIONS))
    assert len(server.seeds) == COUNT * 2 * 2


@pytest.mark.parametrize("shape", [told, parsed, heedless])
def test_a_turn_is_read_however_a_server_sends_it(records, tmp_path, shape):
    wanted = rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())
    theirs = {g.record.id: g for g in wanted.run(records, rollouts=1, seed=0)}
    with EndpointServer(rigged.reads_the_crop, records, small.dialogue(), shape) as server:
        for group in endpoint(server).run(records, rollouts=1, seed=0):
            [ours], [other] = group.trajectories, theirs[group.record.id].trajectories
            turns = [(turn.crop, turn.fault) for turn in ours.turns]
            assert turns == [(turn.crop, turn.fault) for turn in other.turns]
            assert (ours.answer, ours.end) == (other.answer, "answered")


def test_pictures_are_sent_at_the_shown_size_and_nothing_else_of_the_tool(records):
    with EndpointServer(rigged.reads_the_crop, records, small.dialogue()) as server:
        list(endpoint(server).run(records[:1], rollouts=1, seed=0))
    (_, _, _, first), (_, path, _, body) = server.requests
    assert path == "/v1/chat/completions"
    assert body["messages"][:2] == first["messages"]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["stop"] == [END]
    assert "tools" not in body
    view = server._episode(body["messages"]).opening.view
    np.testing.assert_array_equal(view.shown, small.dialogue().look(records[0]).shown)


def turn(content, **more):
    choice = {"message": {"content": content}, "finish_reason": "stop"} | more
    return raw(json.dumps({"choices": [choice], **more.pop("body", {})}).encode())


@pytest.mark.parametrize(
    ("reply", "rules", "end", "fault"),
    [
        (turn("hm"), Rules(), "no_action", ""),
        (turn(""), Rules(), "no_action", ""),
        (turn("x<tool_call>{", stop_reason=None), Rules(max_turns=1), "max_turns", "unclosed_call"),
        (turn("x<tool_call>{"), Rules(max_turns=1), "max_turns", "bad_json"),
        (turn("x", stop_reason=END), Rules(max_turns=1), "max_turns", "unopened_call"),
        (turn("hm", finish_reason="length"), Rules(), "max_tokens", ""),
        (turn(None, finish_reason="length"), Rules(), "max_tokens", ""),
        (turn("<answer>b</answer>" * 99), Rules(turn_tokens=9), "max_tokens", ""),
    ],
)  # fmt: skip
def test_how_an_episode_ends(records, reply, rules, end, fault):
    server = EndpointServer(None, records, small.dialogue(), before=lambda index: reply)
    with server:
        [group] = endpoint(server, rules).run(records[:1], rollouts=1, seed=0)
    [trajectory] = group.trajectories
    assert trajectory.end == end
    assert [turn.fault for turn in trajectory.turns] == [fault]
    assert trajectory.sampled.sum() <= rules.turn_tokens


def test_fewer_tokens_than_allowed_are_a_full_context(records):
    body = {"choices": [{"message": {"content": "hm"}, "finish_reason": "length"}]}
    reply = raw(json.dumps(body | {"usage": {"completion_tokens": 2}}).encode())
    with EndpointServer(None, records, small.dialogue(), before=lambda _: reply) as server:
        [group] = endpoint(server).run(records[:1], rollouts=1, seed=0)
    assert group.trajectories[0].end == "context_full"


def test_another_number_of_prompt_tokens_is_said_once(records, caplog):
    body = {"choices": [{"message": {"content": "hm"}, "finish_reason": "stop"}]}
    reply = raw(json.dumps(body | {"usage": {"prompt_tokens": 7}}).encode())
    with EndpointServer(None, records, small.dialogue(), before=lambda _: reply) as server:
        groups = list(endpoint(server).run(records, rollouts=1, seed=0))
    said = [one.message for one in caplog.records if "prompt" in one.message]
    assert len(said) == 1
    lengths = {np.argmax(g.trajectories[0].sampled) for g in groups}
    assert "counts 7 tokens of a prompt that has" in said[0]
    assert any(f"has {length} by" in said[0] for length in lengths)


@pytest.mark.parametrize("trouble", [status(503), hang_up, raw(b"{}"), status(429)])
def test_trouble_that_passes_costs_nothing(records, tmp_path, trouble):
    some = lambda index: trouble if index in (1, 6) else None  # noqa: E731  # of three attempts
    server = EndpointServer(rigged.reads_the_crop, records, small.dialogue(), before=some)
    with server:
        journal, unanswered = evaluated(tmp_path, records, endpoint(server), ("tool",))
    assert not unanswered
    assert len(groups(journal, "tool")) == COUNT


def test_what_could_not_be_asked_is_asked_again(records, tmp_path, monkeypatch):
    """Only the missing are: the second session sends no request for the others."""
    monkeypatch.setenv("SEER_KEY", "sk-secret")
    gone = lambda index: status(401) if index >= 6 else None  # noqa: E731
    server = EndpointServer(rigged.reads_the_crop, records, small.dialogue(), before=gone)
    with server:
        made = endpoint(server, key="SEER_KEY")
        journal, unanswered = evaluated(tmp_path, records, made, ("tool",))
    assert server.requests[0][2]["Authorization"] == "Bearer sk-secret"
    kept = len(groups(journal, "tool"))
    assert 0 < kept < COUNT
    assert kept + len(unanswered) == COUNT
    assert "check the API key in the environment variable SEER_KEY" in unanswered[0]
    assert "sk-secret" not in "".join(unanswered)
    with EndpointServer(rigged.reads_the_crop, records, small.dialogue()) as server:
        journal, unanswered = evaluated(tmp_path, records, endpoint(server), ("tool",))
    assert not unanswered
    assert len(server.requests) == 2 * (COUNT - kept)
    assert len(groups(journal, "tool")) == COUNT


def test_a_turn_that_repeats_the_key_is_no_answer(records, monkeypatch):
    monkeypatch.setenv("SEER_KEY", "sk-secret")
    reply = lambda _: turn("the key is sk-secret")  # noqa: E731
    with EndpointServer(None, records, small.dialogue(), before=reply) as server:
        [group] = endpoint(server, key="SEER_KEY").run(records[:1], rollouts=1, seed=0)
    [trajectory] = group.trajectories
    assert trajectory.unanswered
    assert "sk-secret" not in repr(trajectory)


# ------------------------------------------------------------------ the command


def flags(server, data, out, *more):
    return [
        str(out), "--endpoint", server.url, "--endpoint-model", "seer-1",
        "--model", str(small.folder()), "--data", f"set={data}", "--diagnose", "noise",
        "--image-tokens", "32", "--crop-tokens", "16", "--slots", "4", *more,
    ]  # fmt: skip


@pytest.mark.long
def test_the_command_ends_on_sigterm_and_resumes_to_the_same_bytes(tmp_path, capsys):
    data = tmp_path / "data"
    records = tuple(rigged.world(COUNT))
    layout.write(data, records)
    dialogue = zooming(small.folder(), image_tokens=32, crop_tokens=16)
    wait = lambda index: time.sleep(0.2)  # noqa: E731
    say = rigged.reads_the_crop
    with EndpointServer(say, records, dialogue, before=wait) as server:
        code = "import sys; from lfpc_jax.cli import evaluate as e; sys.exit(e.main(sys.argv[1:]))"
        with subprocess.Popen(
            [sys.executable, "-c", code, *flags(server, data, tmp_path / "out")],
            cwd=TESTS, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as running:  # fmt: skip
            while len(server.requests) < 16 and running.poll() is None:
                time.sleep(0.02)
            running.send_signal(signal.SIGTERM)
            printed, _ = running.communicate(timeout=300)
        assert running.returncode == 0, printed
        assert not (tmp_path / "out/results.json").exists()
        begun = len((tmp_path / "out/answers/set-32-tool-p0.jsonl").read_text().splitlines())
        assert 0 < begun < COUNT
    with EndpointServer(say, records, dialogue) as server:  # which has moved to another port
        assert command.main(flags(server, data, tmp_path / "out")) == 0
        assert command.main(flags(server, data, tmp_path / "whole")) == 0
        for name in ("results.json", "scores.jsonl"):
            assert (tmp_path / "out" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()
        found = json.loads((tmp_path / "out/results.json").read_text())
        assert found["asked"]["endpoint"] == {"url": server.url, "model": "seer-1"}
        other = flags(server, data, tmp_path / "out", "--endpoint-model", "seer-2")
        assert command.main(other) == 1
        assert "was begun with another endpoint" in capsys.readouterr().err


def test_the_command_says_what_a_server_did_not_answer(tmp_path, capsys):
    data, records = tmp_path / "data", tuple(rigged.world(2))
    layout.write(data, records)
    dialogue = zooming(small.folder(), image_tokens=32, crop_tokens=16)
    gone = lambda index: status(404)  # noqa: E731
    with EndpointServer(None, records, dialogue, before=gone) as server:
        assert command.main(flags(server, data, tmp_path / "out")) == 1
    said = capsys.readouterr().err
    assert "questions could not be put to the server" in said
    assert "check that --endpoint ends in the API's version" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--endpoint", "http://h/v1"], "both --endpoint and --endpoint-model"),
        (["--endpoint", "h", "--endpoint-model", "m", "--model", "."], "is not an address"),
        (["--endpoint", "http://h/v1", "--endpoint-model", "m"], "give the model's folder"),
    ],
)
def test_flags_that_lack_others(tmp_path, capsys, more, message):
    layout.write(tmp_path / "data", rigged.world(2))
    assert command.main([str(tmp_path / "out"), "--data", str(tmp_path / "data"), *more]) == 1
    assert message in capsys.readouterr().err
