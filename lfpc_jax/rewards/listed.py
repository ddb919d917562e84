"""Options that stand in a text: a question that lists them, or a reference that is one of them.

A list is read only where its letters run from A without a gap, in one dress: (A), A), A. or A:. The
last option ends with its line, and with its first sentence if none before it has two.
"""

import re
from functools import lru_cache

from lfpc_jax.rewards.wording import claim, clean

_DRESSES = (
    re.compile(r"(?<!\w)\(\s*([A-Z])\s*\)[.:]?"),
    *(re.compile(rf"(?<![\w.(])([A-Z])\s*{mark}(?!\w)") for mark in (r"\)", r"\.", ":")),
)
_SENTENCE = re.compile(r"[.;!?]\s")
_BETWEEN = re.compile(r"(?:[\s,;/|*-]|\b(?:or|and)\b)+$")
_ONE = re.compile(
    r"(?:\(\s*([A-Za-z])\s*\)[.:]?\s*|([A-Za-z])\s*\)\s*|([A-Z])\s*[.:]\s+)(\S.*)", re.DOTALL
)
_OTHER = re.compile(r"[A-Za-z]\W*|.*(?<![\w.])(?:\(\s*[A-Za-z]\s*\)|[A-Za-z]\s*[.:)](?:\s|$)).*")


@lru_cache(maxsize=4096)
def listed_options(question: str) -> dict[str, str]:
    """The options by letter; empty where the question does not surely list any."""
    text = "\n".join(map(clean, question.splitlines()))
    lists = [run for dress in _DRESSES for run in _runs(text, list(dress.finditer(text)))]
    return max(lists, key=len, default={})


def _runs(text: str, markers: list[re.Match[str]]) -> list[dict[str, str]]:
    lists = []
    for start, first in enumerate(markers):
        run = [first]
        for marker in markers[start + 1 :]:
            if ord(marker[1]) != ord(run[-1][1]) + 1:
                break
            run.append(marker)
        if first[1] == "A" and len(run) > 1:
            lists.append(_texts(text, run))
    return [options for options in lists if all(options.values())]


def _texts(text: str, run: list[re.Match[str]]) -> dict[str, str]:
    ends = [marker.start() for marker in run[1:]]
    texts = [text[marker.end() : end] for marker, end in zip(run, [*ends, len(text)])]
    last = texts.pop().lstrip().split("\n")[0]
    if not any(_SENTENCE.search(option.strip()) for option in texts):
        last = _SENTENCE.split(last)[0]
    texts = [_BETWEEN.sub("", option) for option in (*texts, last)]
    return {marker[1]: claim(option) for marker, option in zip(run, texts)}


def letter_and_text(reference: str) -> tuple[str, str] | None:
    """Of a reference such as "B. Blue". Neither a list of letters or of answers ("A. C", "A: 5, B:
    3") nor a name with initials ("J. K. Rowling") is one."""
    parts = _ONE.fullmatch(reference)
    if not parts or _OTHER.fullmatch(parts[4]):
        return None
    return next(filter(None, parts.groups()[:3])).upper(), parts[4]
