"""Answers that may be partly right: VQA accuracy and ANLS, each a number in 0..1.

`vqa`   VQA accuracy as TextVQA's evaluator computes it: the mean over all references of
        min(1, matches among the other references / 3). Of ten references that is min(1, 0.3 n)
        for n matches. Answer and references match if they are equal once normalised.
`anls`  The largest similarity with any reference. The similarity is 1 - NL if NL < 0.5, and
        otherwise 0, where NL is the Levenshtein distance over the length of the longer text.
        Letter case and the number of spaces between words do not count; a missing space does.
`anls_half`  The same, but NL = 0.5 keeps its similarity of 0.5, as some evaluators have it.

The mean over the questions of a set is its accuracy or its ANLS. No judge is asked.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from rapidfuzz.distance import Levenshtein

from lfpc_jax.trajectory import Record

_ENOUGH = 3
"""Matching references that make an answer right."""
_FAR = 0.5
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll
    you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""The evaluator's table: words that lack one of their apostrophes, and one that loses its own. Its
entries for "I'm", "I've" and "I'd've" never apply, since texts are lower-case by then."""


def score(answer: str | None, record: Record) -> float:
    """What an answer to a graded record is worth. Raises ValueError for a record that its metric
    cannot score."""
    check(record)
    if answer is None or not answer.strip():
        return 0.0
    return _METRICS[record.metric](answer, record.references)


def check(record: Record) -> None:
    """Raises ValueError for a record that its metric cannot score."""
    name, count = f"record {record.id!r}", len(record.references)
    if record.metric not in _METRICS:
        raise ValueError(f"{name}: metric {record.metric!r} is none of {sorted(_METRICS)}")
    if count <= _ENOUGH and record.metric == "vqa":
        raise ValueError(
            f"{name}: {count} references, of which VQA accuracy needs more than {_ENOUGH}; score "
            "it by anls or by rules"
        )
    if not count:
        raise ValueError(f"{name}: metric {record.metric!r} needs references, and there are none")


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    said = text_vqa_normal(answer)
    count = len(references)
    matches = sum(text_vqa_normal(reference) == said for reference in references)
    # A reference that matches is not among the others of its own turn.
    shares = matches * min(_ENOUGH, matches - 1) + (count - matches) * min(_ENOUGH, matches)
    return shares / (_ENOUGH * count)


def anls(answer: str, references: Sequence[str], *, keep_half: bool = False) -> float:
    return max(_similarity(answer, reference, keep_half) for reference in references)


def text_vqa_normal(text: str) -> str:
    """A text as TextVQA's evaluator compares it: `vqa_normal` after three steps of its own."""
    return vqa_normal(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def vqa_normal(text: str) -> str:
    """A text as the evaluator of VQA compares it."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain = text
    for mark in _MARKS:
        apart = f"{mark} " in text or f" {mark}" in text or _DIGIT_COMMA_DIGIT.search(text)
        plain = plain.replace(mark, "" if apart else " ")
    words = _PERIOD.sub("", plain).lower().split()
    numbers = (_NUMBERS.get(word, word) for word in words)
    kept = (word for word in numbers if word not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)


def _similarity(answer: str, reference: str, keep_half: bool) -> float:
    first, second = (" ".join(text.lower().split()) for text in (answer, reference))
    longer = max(len(first), len(second))
    distance = Levenshtein.distance(first, second) / longer if longer else 0.0
    near = distance <= _FAR if keep_half else distance < _FAR
    return 1 - distance if near else 0.0


def _anls_half(answer: str, references: Sequence[str]) -> float:
    return anls(answer, references, keep_half=True)


_METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "vqa": vqa_accuracy,
    "anls": anls,
    "anls_half": _anls_half,
}
