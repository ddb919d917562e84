"""Levels, agreement and the two searches, against values worked by hand."""

import pytest
from infogap.rigged import SIDES

from lfpc_jax.infogap.levels import Decision, agree, diverges, majority, needed, pyramid
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Picture, Record

OPEN = Record("r", "Which colour?", "red", Picture())
CHOICE = Record("r", "Which?", "A", Picture(), options=("red", "blue", "dark red"))


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


@pytest.mark.parametrize(
    ("record", "one", "other", "same"),
    [
        (OPEN, "red", "Red.", True),
        (OPEN, "red", "blue", False),
        (OPEN, "3", "3.0", True),
        (OPEN, None, None, True),
        (OPEN, None, "  ", True),
        (OPEN, None, "red", False),
        (CHOICE, "A", "red", True),
        (CHOICE, "(B)", "B. blue", True),
        (CHOICE, "red", "dark red", False),
        (CHOICE, "A", "B", False),
        (CHOICE, "none of them", "none of them", True),
        (CHOICE, "none of them", "A", False),
    ],
)
def test_answers_agree(record, one, other, same):
    assert agree(one, other, record) is same
    assert agree(other, one, record) is same


def test_the_majority_and_the_threshold():
    assert majority(("blue", "Red", "red."), OPEN) == "Red"
    assert majority(("blue", "red"), OPEN) == "blue"  # of equals the first
    answers = {
        0: ("red", "red", "blue", "red"),
        1: ("red", "red", "x", "y"),
        2: ("red", "a", "b", "c"),
    }
    assert not diverges(answers, 1, OPEN, 0.5)  # two of four are not under a half
    assert diverges(answers, 2, OPEN, 0.5)
    assert diverges(answers, 1, OPEN, 0.75)


def found(first: int, levels: int, search: str) -> tuple[Decision, int]:
    """The decision where levels from `first` on diverge, and how many were asked."""
    answers: dict[int, tuple[str, ...]] = {}
    while not isinstance(step := needed(answers, levels, search, OPEN, 0.5), Decision):
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
    assert needed({}, 1, "scan", OPEN, 0.5) == Decision(0, diverged=False)


def test_scan_takes_the_first_level_even_where_a_later_one_agrees_again():
    answers = {0: ("red",), 1: ("red",), 2: ("blue",), 3: ("red",)}
    assert needed(answers, 4, "scan", OPEN, 0.5) == Decision(2, diverged=True)
