"""A judge is tried out before a run depends on it."""

import time

import pytest

from lfpc_jax.rewards.judge import Claim, Judge
from support.asked_judge import ask, scripted, settings
from support.judge_server import (
    JudgeServer,
    drip,
    drip_headers,
    hang_up,
    late,
    raw,
    say,
    status,
)


def knows(index, claim):
    """Right where the answer is the reference."""
    return say("yes" if claim["answer"] == claim["reference"] else "no")


def checked(behave, folder, **changes):
    """What `check` finds wrong, if anything; how long it took; the server."""
    with JudgeServer(behave) as server:
        judge = Judge(settings(server, folder, **changes))
        started = time.monotonic()
        try:
            judge.check()
            said = ""
        except ValueError as error:
            said = str(error)
    return said, time.monotonic() - started, server


def test_a_judge_that_knows_right_from_wrong_passes_and_keeps_nothing(tmp_path):
    assert checked(knows, tmp_path)[0] == ""
    assert checked(knows, tmp_path)[2].requests  # asked anew, not read from the cache
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("behave", "named", "requests"),
    [
        (scripted(status(401)), "HTTP 401 Unauthorized (attempt 1); check the API key", 1),
        (scripted(status(403)), "HTTP 403 Forbidden", 1),
        (scripted(status(404)), "HTTP 404 Not Found", 1),
        (scripted(hang_up), "no connection (RemoteDisconnected) (attempt 1); check that the", 1),
        (scripted(say("perhaps")), "neither yes nor no", 1),
        (scripted(raw(b"<html>")), "no chat completion", 1),
        (scripted(status(503)), "HTTP 503 Service Unavailable (attempt 3)", 3),
        (scripted(say("yes")), "cannot judge: {url}, model judge-1 calls 'blue' right where", 2),
        (scripted(say("no")), "cannot judge: {url}, model judge-1 calls 'red' wrong where", 1),
    ],
)
def test_a_judge_that_cannot_judge_is_found_out_at_once(tmp_path, behave, named, requests):
    """Only for a server that says it is busy is there a second attempt."""
    said, _, server = checked(behave, tmp_path)
    assert named.format(url=f"{server.url}/chat/completions") in said
    assert server.url in said
    assert len(server.requests) == requests


def test_a_busy_judge_passes_once_it_answers(tmp_path):
    def behave(index, claim):
        return status(429) if index == 0 else knows(index, claim)

    assert checked(behave, tmp_path)[0] == ""


@pytest.mark.parametrize("slow", [late(20, say("yes")), drip, drip_headers, status(503)])
def test_a_check_takes_no_longer_than_one_reply_may(tmp_path, slow):
    said, seconds, _ = checked(
        scripted(slow), tmp_path, reply_seconds=0.3, attempts=1000, batch_seconds=60.0
    )
    assert "the judge gives no verdicts" in said
    assert seconds < 2


def test_a_judge_that_is_gone_is_not_asked_all_the_rest(tmp_path):
    """16 claims in a row that come to nothing are enough; a verdict in between begins anew."""
    claims = [Claim("q", "red", str(number)) for number in range(200)]
    verdicts, server = ask(scripted(status(401)), tmp_path, claims, concurrent=4)
    causes = [verdict.fault.cause for verdict in verdicts]
    assert 16 <= causes.count("HTTP 401") == len(server.requests) < 20
    assert causes.count("not asked") == 200 - len(server.requests)
    (reason,) = {verdict.fault.reason for verdict in verdicts if verdict.fault.cause == "not asked"}
    assert "the 16 before it all came to nothing, the last with HTTP 401; check the API" in reason

    def now_and_then(index, claim):
        return say("no") if int(claim["answer"]) % 12 == 0 else status(401)

    verdicts, _ = ask(now_and_then, tmp_path / "other", claims, concurrent=1)
    assert sum(verdict.right is False for verdict in verdicts) == 17
    assert all(verdict.fault.cause == "HTTP 401" for verdict in verdicts if verdict.fault)


@pytest.mark.parametrize("trouble", [status(400), status(413), status(422), say("perhaps")])
def test_what_may_lie_in_the_claim_says_nothing_of_the_judge(tmp_path, trouble):
    claims = [Claim("q", "red", str(number)) for number in range(60)]
    verdicts, server = ask(scripted(trouble), tmp_path, claims, attempts=1)
    assert len(server.requests) == 60
    assert all(verdict.fault.cause != "not asked" for verdict in verdicts)
