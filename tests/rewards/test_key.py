"""The API key against servers that repeat it: no piece of it is told, however they spell it."""

import logging

import pytest

from lfpc_jax.rewards.judge import Claim, Judge, JudgeSettings
from support.judge_server import JudgeServer, raw, say, status
from support.told_key import KEY, SERVERS, SPELLINGS, line, told

CLAIM = Claim("What color is the bag?", "red", "crimson")


@pytest.mark.parametrize("name", SERVERS)
def test_no_piece_of_the_key_is_told(tmp_path, monkeypatch, caplog, capfd, name):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with JudgeServer(lambda index, claim: SERVERS[name]) as server:
        chosen = JudgeSettings(
            server.url, "judge-1", str(tmp_path), key_variable="JUDGE_KEY",
            attempts=2, first_wait=0.01, reply_seconds=5.0, batch_seconds=10.0,
        )  # fmt: skip
        judge = Judge(chosen)
        with pytest.raises(ValueError, match="judge-1") as refused:
            judge.check()
        (verdict,) = judge.verdicts([CLAIM])
        assert server.requests[0][2]["Authorization"] == f"Bearer {KEY}"
        server.behave = lambda index, claim: say("yes")
        assert judge.verdicts([CLAIM])[0].right is True
    assert verdict.right is None
    assert server.url in verdict.fault.reason
    kept = "".join(file.read_text() for file in tmp_path.iterdir())
    everything = [str(refused.value), repr(verdict), kept, caplog.text, *capfd.readouterr()]
    everything += [repr(judge), str(judge), repr(chosen), repr(refused.value.__context__)]
    assert not set().union(*map(told, everything))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_such_a_piece_would_be_found(spelling):
    """The search above, by what it must find."""
    assert told(f"no chat completion in {SPELLINGS[spelling]!r}")
    assert not told("http://127.0.0.1:36623/v1, model judge-1: HTTP 401 Unauthorized (attempt 1)")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (status(401, body=b'{"error": {"code": "invalid_api_key"}}'),
         "HTTP 401 Unauthorized, invalid_api_key (attempt 1); check the API key in the environment "
         "variable JUDGE_KEY"),
        (status(404, body=b'{"error": {"type": "model_not_found"}}'),
         "HTTP 404 Not Found, model_not_found (attempt 1); check that base_url"),
        (raw(b"<html>busy</html>"), "no chat completion: 17 bytes, no JSON"),
        (raw(b'{"choices": []}'), "15 bytes, JSON without choices[0].message.content as a text"),
        (say("<think>Well"), "neither yes nor no, but 11 characters that begin to think aloud"),
        (say("Certainly"), "neither yes nor no, but 9 characters (attempt 2); take a model"),
        (line("nonsense"), "no connection (BadStatusLine) (attempt 2); check that the server runs"),
    ],
)  # fmt: skip
def test_a_failure_names_its_cause_without_the_servers_words(tmp_path, monkeypatch, reply, said):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with JudgeServer(lambda index, claim: reply) as server:
        chosen = JudgeSettings(
            server.url, "m", str(tmp_path), key_variable="JUDGE_KEY", attempts=2, first_wait=0.01
        )
        (verdict,) = Judge(chosen).verdicts([CLAIM])
    assert said in verdict.fault.reason
