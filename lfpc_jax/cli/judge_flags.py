"""The flags of a judge, the same in every command that may ask one."""

import argparse
from pathlib import Path

from lfpc_jax.rewards.judge import Judge, JudgeSettings
from lfpc_jax.run import progress


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge-url", default="", help="an OpenAI-compatible server, as http://HOST:PORT/v1"
    )
    parser.add_argument("--judge-model", default="", help="its name on that server")
    parser.add_argument(
        "--judge-key-variable", default="", help="environment variable that holds its key"
    )


def judge_of(
    args: argparse.Namespace, cache: Path, *, batch_seconds: float = JudgeSettings.batch_seconds
) -> Judge | None:
    """The judge, once it has answered its test questions. Its verdicts are kept in the folder
    `cache`."""
    if bool(args.judge_url) != bool(args.judge_model):
        raise ValueError("a judge needs both --judge-url and --judge-model")
    if not args.judge_url:
        return None
    settings = JudgeSettings(
        args.judge_url,
        args.judge_model,
        str(cache),
        key_variable=args.judge_key_variable,
        batch_seconds=batch_seconds,
    )
    judge = Judge(settings, lambda what, total: progress.bar(what, total, every=10.0))
    with progress.waiting(f"trying the judge, {judge}"):
        judge.check()
    return judge
