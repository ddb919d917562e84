"""A judge that asks a server of the test's own."""

from lfpc_jax.rewards.judge import Claim, Judge, JudgeSettings
from support.judge_server import (
    JudgeServer,
)

CLAIM = Claim("What color is the bag?", "red", "crimson")


def settings(server, folder, **changes):
    chosen = {
        "base_url": server.url,
        "model": "judge-1",
        "cache": str(folder),
        "attempts": 3,
        "first_wait": 0.01,
        "reply_seconds": 8.0,
        "batch_seconds": 10.0,
    }
    return JudgeSettings(**(chosen | changes))


def scripted(*behaviours):
    """Each request's behaviour in turn, the last one for all that follow."""
    return lambda index, claim: behaviours[min(index, len(behaviours) - 1)]


def ask(behave, folder, claims=(CLAIM,), **changes):
    with JudgeServer(behave) as server:
        judge = Judge(settings(server, folder, **changes))
        return judge.verdicts(list(claims)), server
