"""The flags for how a model is asked, which `cli/asking_flags.py` completes."""

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from lfpc_jax.processing.geometry import Convention

EPISODE_TOKENS = 4096
"""The most that a question's turns may sample in all, unless one says otherwise: two turns of full
length. Room for all five would be 6,144 more places in the cache of every slot."""

USUAL: dict[str, Any] = {
    "image_tokens": 1024,
    "crop_tokens": 1024,
    "convention": "shown",
    "max_turns": 5,
    "turn_tokens": 2048,
    "episode_tokens": EPISODE_TOKENS,
}
"""How a model is asked if neither its folder nor a flag says otherwise."""

FLAGS: dict[str, tuple[str, dict[str, Any]]] = {
    "image_tokens": ("budget of the shown image", {"type": int}),
    "crop_tokens": ("budget of a crop", {"type": int}),
    "convention": ("of the boxes that it writes", {"choices": get_args(Convention)}),
    "max_turns": ("at most", {"type": int}),
    "turn_tokens": ("sampled in a turn, at most", {"type": int}),
    "episode_tokens": ("sampled over all turns; 0: as many as the turns may", {"type": int}),
}


def add(
    parser: argparse.ArgumentParser,
    *names: str,
    several: Sequence[str] = (),
    **usual: Any,
) -> None:
    """Adds the flags with these names, or all. The flags in `several` take a list. `usual` holds
    defaults that differ from `USUAL`."""
    for name in names or FLAGS:
        text, options = FLAGS[name]
        default = f"default: the model's own, else {(USUAL | usual)[name]}"
        listed = {"nargs": "+"} if name in several else {}
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=f"{text}; {default}",
            **options | listed,
        )
    parser.add_argument("--max-tokens", action=_OldName, help=argparse.SUPPRESS)


class _OldName(argparse.Action):
    """Refuses a flag whose meaning has changed."""

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
