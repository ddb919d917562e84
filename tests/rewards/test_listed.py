"""Options in a question's text, and references that are one of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.rewards.listed import letter_and_text, listed_options
from lfpc_jax.rewards.wording import normal

ABC = {"A": "red", "B": "dark blue", "C": "green"}


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. red\nB. dark blue\nC. green", ABC),
        ("Which?\nA. red\nB. dark blue\nC. green\nAnswer with a letter.", ABC),
        ("Which? A. red B. dark blue C. green. Answer with a letter.", ABC),
        ("Which? (A) red (B) dark blue (C) green", ABC),
        ("Which? (A): red, (B): dark blue or (C): green?", ABC),
        ("Choices:\nA) red\nB) dark blue\nC) green\n", ABC),
        ("Which?\nA: red; B: dark blue; C: green", ABC),
        ("**A.** red\n**B.** dark blue\n**C.** green", ABC),
        ("Is it (A)? (A) red (B) dark blue (C) green", ABC),
        ("A. Red. Or so.\nB. No. It is not.", {"A": "Red. Or so.", "B": "No. It is not"}),
        ("Which way is (B) from (A)?", {}),
        ("Which?\nB. red\nC. blue", {}),
        ("Which?\nA. red\nC. blue", {}),
        ("Which?\n(A) red\nB. blue", {}),
        ("Which? (A) (B)", {}),
        ("In the U.S.A. and by Mr. B. Cooper?", {}),
        ("What has a vitamin A. A lemon?", {}),
        ("", {}),
    ],
)
def test_a_list_is_read_whole_or_not_at_all(question, options):
    found = listed_options(question)
    assert {k: normal(v) for k, v in found.items()} == {k: normal(v) for k, v in options.items()}


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("B. Blue", ("B", "Blue")),
        ("(b) blue", ("B", "blue")),
        ("B) blue", ("B", "blue")),
        ("B: 12 km", ("B", "12 km")),
        ("B", None),
        ("Blue", None),
        ("B, C", None),
        ("B. C", None),
        ("B. C.", None),
        ("(B) (C)", None),
        ("A: 5, B: 3", None),
        ("J. K. Rowling", None),
        ("U.S.", None),
        ("B.Blue", None),
    ],
)
def test_a_letter_with_its_text(reference, expected):
    assert letter_and_text(reference) == expected


words = st.text("abcdefgh", min_size=1, max_size=6)


@given(
    st.lists(words, min_size=2, max_size=6),
    st.sampled_from(["\n{}. {}", " ({}) {}", "\n{}) {}", ", {}: {}"]),
)
def test_what_is_listed_comes_back(texts, dress):
    letters = "ABCDEF"[: len(texts)]
    question = "Which one?" + "".join(map(dress.format, letters, texts))
    assert listed_options(question) == dict(zip(letters, texts))
