"""Questions about marks whose options no single part of the marks can distinguish.

Wherever possible a question concerns two parts: the halves of one mark, or the marks of two
objects. With two options it asks whether the parts are the same, which neither part alone can
answer. With more it asks for both in order, and the options are the corners of a square: two
candidates for the first part times two for the second. The right corner is drawn uniformly, and so
is the corner that is dropped for three options, so that no option is more likely because of what it
shares with others.

A question about a mark of a single patch has no parts, so that a fragment may answer it.
"""

from dataclasses import dataclass

import numpy as np

from lfpc_jax.data.marks import Mark, Vocabulary


@dataclass(frozen=True)
class SceneQuestion:
    """`marks` are what the objects asked about must carry, in the order of their names."""

    text: str
    right: str
    wrong: tuple[str, ...]
    marks: tuple[Mark, ...]


def about_one(
    name: str, words: Vocabulary, patches: int, options: int, rng: np.random.Generator
) -> SceneQuestion:
    """A question about one object's mark of one or two patches, with 2 to 4 options."""
    if patches == 1:
        right, *wrong = (str(value) for value in rng.permutation(words.values)[:options])
        return SceneQuestion(f"{words.ask} on the {name}?", right, tuple(wrong), ((right,),))
    left, right = (_value(words, rng) for _ in range(2))
    if options == 2:
        other = left if rng.random() < 0.5 else _another(words, left, rng)
        text = f"{words.compare} in both halves of the mark on the {name}?"
        return SceneQuestion(text, *_verdict(left == other), ((left, other),))
    first, second = (left, _another(words, left, rng)), (right, _another(words, right, rng))
    text = f"{words.ask} on the {name}, left half then right half?"
    return SceneQuestion(text, *_square(first, second, options, rng), ((left, right),))


def about_two(
    names: tuple[str, str],
    words: Vocabulary,
    patches: int,
    options: int,
    rng: np.random.Generator,
) -> SceneQuestion:
    """A question that needs the marks of two objects, with 2 to 4 options."""
    objects = f"on the {names[0]} and on the {names[1]}"
    first = tuple(_value(words, rng) for _ in range(patches))
    if options == 2:
        second = first if rng.random() < 0.5 else _changed(words, first, rng)
        return SceneQuestion(
            f"{words.compare} {objects}?", *_verdict(first == second), (first, second)
        )
    second = tuple(_value(words, rng) for _ in range(patches))
    of_first = _text(first), _text(_changed(words, first, rng))
    of_second = _text(second), _text(_changed(words, second, rng))
    text = f"{words.ask} {objects}, in this order?"
    return SceneQuestion(text, *_square(of_first, of_second, options, rng), (first, second))


def any_mark(words: Vocabulary, patches: int, rng: np.random.Generator) -> Mark:
    return tuple(_value(words, rng) for _ in range(patches))


def _square(
    first: tuple[str, str], second: tuple[str, str], options: int, rng: np.random.Generator
) -> tuple[str, tuple[str, ...]]:
    """The right option, (first[0], second[0]), and `options` - 1 other corners."""
    right, *corners = (f"{a}, {b}" for a in first for b in second)
    wrong = rng.permutation(corners)[: options - 1]
    return right, tuple(str(corner) for corner in wrong)


def _verdict(same: bool) -> tuple[str, tuple[str, ...]]:
    return ("yes", ("no",)) if same else ("no", ("yes",))


def _text(mark: Mark) -> str:
    return " then ".join(mark)


def _value(words: Vocabulary, rng: np.random.Generator) -> str:
    return words.values[rng.integers(len(words.values))]


def _another(words: Vocabulary, value: str, rng: np.random.Generator) -> str:
    """Any other value."""
    step = int(rng.integers(1, len(words.values)))
    return words.values[(words.values.index(value) + step) % len(words.values)]


def _changed(words: Vocabulary, mark: Mark, rng: np.random.Generator) -> Mark:
    """The mark with one of its patches changed, which is drawn at random."""
    place = int(rng.integers(len(mark)))
    return (*mark[:place], _another(words, mark[place], rng), *mark[place + 1 :])
