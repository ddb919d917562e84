"""An episode on the terminal, printed while it is sampled."""

from collections.abc import Sequence

import numpy as np

from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.said import said
from lfpc_jax.trajectory import Turn

_HALF_LETTER = "\ufffd"
"""What the bytes of a letter are decoded to whose other bytes are still to come."""


class EpisodePrinter:
    """Prints one episode as it grows: each turn's text, then what came of the turn. The answer to
    a crop network's box is the target's, and is printed by whoever asks that.

    `on_episode` is to be given to `Engine.run`."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.turn, self.printed = 0, 0

    def on_episode(self, episode: Episode) -> None:
        while self.turn < len(episode.turns):
            turn = episode.turns[self.turn]
            self._print(turn.text)
            print(f"\n  -> {_outcome(turn)}\n", flush=True)
            self.turn, self.printed = self.turn + 1, 0
        if episode.end is not None:
            print(f"ended: {episode.end}")
            if self.dialogue.answers:
                print(_answered(said(episode)), flush=True)
            return
        start = episode.turns[-1].stop if episode.turns else len(episode.opening.ids)
        ids = np.array(episode.ids[start:], np.int32)[np.array(episode.sampled[start:], bool)]
        self._print(self.dialogue.tokenizer.decode(ids).rstrip(_HALF_LETTER))

    def _print(self, text: str) -> None:
        print(text[self.printed :], end="", flush=True)
        self.printed = max(self.printed, len(text))


def _answered(answer: str | None) -> str:
    return f"answer: {'none' if answer is None else answer}"


def _outcome(turn: Turn) -> str:
    if turn.crop is not None:
        return (
            f"crop of {_box(turn.crop.box)} of the original, written as {_box(turn.crop.written)}"
        )
    if turn.fault:
        return f"refused: {turn.fault}"
    return "a call that was not carried out" if turn.call else "no call"


def _box(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in box) + ")"
