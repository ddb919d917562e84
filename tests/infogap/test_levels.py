"""Levels, what makes one diverge, and the two searches, against values worked by hand."""

import pytest

from lfpc_jax.infogap.levels import Decision, compared, diverges, needed, pyramid, usual
from lfpc_jax.processing.images import ImageProcessor
from support.rigged_selection import SIDES


@pytest.mark.parametrize(
    ("size", "tokens", "sides"),
    [
        ((896, 896), 1024, (896, 634, 448, 317, 224)),  # 896 / sqrt(2) = 633.6, / 2 sqrt(2) = 316.8
        ((3584, 1792), 1024, (1260, 891, 630, 445, 315, 224)),  # budget: 1260 x 616, 990 tokens
        ((300, 200), 1024, (308, 224)),  # 308 / sqrt(2) = 217.8 would be under the harshest
        ((224, 100), 1024, (224,)),
        ((100, 100), 1024, (112,)),  # already under it: there is nothing to take away
    ],
)
def test_a_pyramid_falls_by_the_root_of_two_down_to_the_harshest(size, tokens, sides):
    assert pyramid(size, ImageProcessor().with_tokens(tokens)) == sides


def same(answer, other):
    """Rigged: words of one letter cannot be told from others."""
    if answer is None or other is None:
        return None
    if answer.casefold() == other.casefold():
        return True
    return None if 1 in (len(answer), len(other)) else False


def test_the_usual_answer_is_the_one_that_most_agree_with():
    assert usual(("blue", "Red", "red"), same) == "Red"
    assert usual(("blue", "red"), same) == "blue"  # of equals the first
    assert usual((None, "x", None, "blue", "blue"), same) == "blue"
    assert usual((None, " "), same) is None


@pytest.mark.parametrize(
    ("given", "threshold", "lost"),
    [
        (("red", "red", "blue", "blue"), 0.5, False),  # two of four are not under a half
        (("red", "blue", "blue", "blue"), 0.5, True),
        (("red", "red", "blue", "blue"), 0.75, True),
        (("x", "blue", "blue", "blue"), 0.5, True),  # one might agree, which is not enough
        (("x", "y", "blue", "blue"), 0.5, False),  # two might
        (("x", None, "blue", "blue"), 0.5, False),
        (("x", "y", "z", "x"), 1.0, False),
        ((None, None, None, None), 1.0, False),
        (("red", "red", "red", "blue"), 1.0, True),
    ],
)
def test_only_what_surely_differs_makes_a_level_diverge(given, threshold, lost):
    answers = {0: ("red", "red", "blue", "red"), 1: given}
    assert diverges(answers, 1, same, threshold) is lost


def test_what_says_the_same_is_told_of_every_answer():
    answers = {0: ("red", "blue", None), 2: ("Red", "x", "green")}
    assert compared(answers, same) == {0: (True, False, None), 2: (True, None, False)}


@pytest.mark.parametrize("search", ["scan", "bisect"])
def test_paraphrases_never_diverge_and_no_answer_at_level_0_is_marked(search):
    def decided(at_first, below):
        answers = {0: (at_first,)} | {level: (below,) for level in range(1, 8)}
        return needed(answers, 8, search, same, 0.5)

    assert decided("red", "x") == Decision(7, diverged=False)
    assert decided("red", None) == Decision(7, diverged=False)
    assert decided("red", "blue") == Decision(1, diverged=True)
    for below in ("red", None):
        assert decided(None, below) == Decision(7, diverged=False, unanswered=True)


def found(first: int, levels: int, search: str) -> tuple[Decision, int]:
    """The decision where levels from `first` on diverge, and how many were asked."""
    answers: dict[int, tuple[str, ...]] = {}
    while not isinstance(step := needed(answers, levels, search, same, 0.5), Decision):
        assert not set(step) & set(answers), "asked twice"
        for level in step:
            answers[level] = ("red" if level < first else "blue",)
    return step, len(answers)


@pytest.mark.parametrize("levels", range(2, 12))
def test_both_searches_find_every_level(levels):
    for first in range(1, levels + 1):
        expected = Decision(min(first, levels - 1), diverged=first < levels)
        assert found(first, levels, "scan") == (expected, levels)
        decision, asked = found(first, levels, "bisect")
        assert decision == expected
        assert asked <= 2 + (levels - 1).bit_length() - 1


def test_at_eight_levels_bisect_asks_half_of_what_scan_asks():
    assert len(SIDES) == 8
    counts = [found(first, 8, "bisect")[1] for first in range(1, 9)]
    assert counts == [4] * 8


def test_one_level_alone_is_no_gap_and_asks_nothing():
    assert needed({}, 1, "scan", same, 0.5) == Decision(0, diverged=False)


def test_scan_takes_the_first_level_even_where_a_later_one_agrees_again():
    answers = {0: ("red",), 1: ("red",), 2: ("blue",), 3: ("red",)}
    assert needed(answers, 4, "scan", same, 0.5) == Decision(2, diverged=True)
