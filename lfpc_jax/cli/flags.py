"""What several commands take for a flag's value."""

import argparse
from collections.abc import Sequence
from typing import Any

EPISODE_TOKENS = 4096
"""The most that a question's turns may sample in all, unless one says otherwise: two turns of full
length. Room for all five would be 6,144 more places in the cache of every slot."""


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return int(text)


def from_none(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 0")
    return int(text)


def add_turn_tokens(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--turn-tokens", type=positive, default=default, help="sampled in a turn, at most"
    )
    parser.add_argument("--max-tokens", action=_OldName, help=argparse.SUPPRESS)


def add_tokens(parser: argparse.ArgumentParser) -> None:
    """How many tokens a conversation may have."""
    add_turn_tokens(parser, 2048)
    parser.add_argument(
        "--episode-tokens", type=from_none, default=EPISODE_TOKENS,
        help="sampled over all turns, at most; 0: as many as the turns may",
    )  # fmt: skip


class _OldName(argparse.Action):
    """A flag that meant something else is refused, never read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(
            f"{option_string} {values}: now --turn-tokens limits a turn and --episode-tokens all "
            "turns together"
        )
