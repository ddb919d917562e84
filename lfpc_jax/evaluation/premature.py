"""Whether an episode states its answer before it looks, in which case the crop is for show.

All that was written before the first call is read, without the tags. It states the final answer if

- it announces it ("the answer is red", "Answer: (B)", "so I would answer B", "option B"), or
- it says it in full ("a red bag", for the answer "red"), while it names no other option.

A guess counts, and so does "it seems to be red, but let me look": the crop comes after the answer.
Answers that are ambiguous by themselves count only if they are announced: letters, numbers, yes and
no, and words that are in the question.
"""

import re

from lfpc_jax.rewards.answers import match, options_by_letter
from lfpc_jax.rewards.wording import clean, normal
from lfpc_jax.rollout.protocol import CALL
from lfpc_jax.trajectory import Record, Trajectory

_TAGS = re.compile(r"</?[a-z_]+>")
_ANNOUNCED = re.compile(
    r"(?:(?i:\banswer\s*(?:is|:|would\s+be|must\s+be|should\s+be)|\boption\b)\s*:?"
    r"|\b(?i:answer)(?=\s+\(?[A-Z]\)?(?!\w)))\s*([^.;]*)"
)
_GOES_ON = re.compile(
    r"\s*(?:$|[,:(-]|(?:but|because|since|as|so|though|although|and\s+I|fits|seems|looks)\b)", re.I
)
_PLAIN = re.compile(r"[\d\W_]*|yes|no|[a-z]", re.IGNORECASE)


def states_answer_first(trajectory: Trajectory, record: Record, answer: str | None) -> bool | None:
    """Whether `answer`, the episode's last word, stands before its first call; None for an episode
    that makes no call, or has no answer."""
    calls = [place for place, turn in enumerate(trajectory.turns) if turn.call]
    if not calls or answer is None or not answer.strip():
        return None
    texts = [turn.text for turn in trajectory.turns[: calls[0] + 1]]
    texts[-1] = texts[-1].split(CALL)[0]
    return states(" \n".join(texts), record, answer)


def states(text: str, record: Record, answer: str) -> bool:
    written = clean(_TAGS.sub(" ", text.replace("\n", " . ")))
    meant = _Meant(record, answer)
    if any(meant.said_by(claimed) for claimed in _ANNOUNCED.findall(written)):
        return True
    wanted = meant.words
    if _PLAIN.fullmatch(wanted) or _holds(record.question, wanted):
        return False
    others = [normal(other) for other in meant.others if normal(other) not in wanted]
    said = re.sub(
        rf"\b(?:not|no|never|than)\s+(?:an?\s+)?{re.escape(wanted)}\b", " ", _plain(written)
    )
    return _holds(said, wanted) and not any(_holds(written, other) for other in others)


class _Meant:
    """What an answer means: with options the text of the one that it names."""

    def __init__(self, record: Record, answer: str) -> None:
        self.record, self.answer = record, answer
        named = {
            letter: text
            for letter, text in options_by_letter(record).items()
            if match(answer, _asked(record, letter)) is True
        }
        self.letter = next(iter(named), "")
        self.words = normal(named.get(self.letter, answer))
        letters = options_by_letter(record)
        self.others = [text for letter, text in letters.items() if letter != self.letter]

    def said_by(self, claimed: str) -> bool:
        """Whether an announcement is this answer, or begins with it and goes on about it."""
        asked = _asked(self.record, self.letter or self.answer)
        if match(claimed, asked) is True:
            return True
        words = claimed.split()
        for length in {1, max(1, len(self.words.split()))}:
            first, rest = " ".join(words[:length]), " ".join(words[length:])
            ended = first != (bare := first.rstrip(",:")) or _GOES_ON.match(rest)
            if bare and ended and match(bare, asked) is True:
                return True
        return False


def _asked(record: Record, reference: str) -> Record:
    options = record.options if reference in options_by_letter(record) else ()
    return Record(record.id, record.question, reference, record.picture, options)


def _holds(text: str, words: str) -> bool:
    """Whether a text has these words, whole and in this order."""
    return bool(words) and f" {words} " in f" {_plain(text)} "


def _plain(text: str) -> str:
    """As `normal`, but for a text of several sentences."""
    return " ".join(filter(None, map(normal, re.split(r"[.,;:!?()]+(?:\s|$)|\s-\s", text))))
