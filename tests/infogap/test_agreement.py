"""Whether two answers say the same: yes, no, or cannot tell, the same both ways."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.infogap.agreement import Agreement, JudgeFailed, agree
from lfpc_jax.rewards.verdict import Fault, Verdict
from lfpc_jax.trajectory import Picture, Record

OPEN = Record("r", "Which colour?", "red", Picture())
CHOICE = Record("r", "Which?", "A", Picture(), options=("red", "blue", "dark red"))
LISTED = Record("r", "Which?\nA. red\nB. blue", "A", Picture())


@pytest.mark.parametrize(
    ("record", "one", "other", "same"),
    [
        (OPEN, "red", "Red.", True),
        (OPEN, "red", "It is red", True),
        (OPEN, "red", "red, like a rose", None),
        (OPEN, "red", "crimson", None),
        (OPEN, "red", "blue", None),
        (OPEN, "3", "3.0", True),
        (OPEN, "3", "4", False),
        (OPEN, "yes", "Yes, there is.", True),
        (OPEN, "no", "Yes, there is.", False),
        (OPEN, "B", "B. blue", True),
        (OPEN, "A", "B. blue", False),
        (OPEN, "blue", "B. blue", True),
        (OPEN, None, None, None),
        (OPEN, None, "  ", None),
        (OPEN, None, "red", None),
        (CHOICE, "A", "red", True),
        (CHOICE, "B", "B. blue", True),
        (CHOICE, "(B)", "The answer is blue.", True),
        (CHOICE, "red", "dark red", False),
        (CHOICE, "A", "B", False),
        (CHOICE, "A", "A or B", False),
        (CHOICE, "none of them", "none of them", True),
        (CHOICE, "none of them", "None of them.", True),
        (CHOICE, "none of them", "A", None),
        (CHOICE, "crimson", "A", None),
        (LISTED, "B", "blue", True),
        (LISTED, "B", "red", False),
    ],
)
def test_answers_agree(record, one, other, same):
    assert agree(one, other, record) is same
    assert agree(other, one, record) is same


def test_words_of_a_fixed_vocabulary_differ_where_their_wording_does():
    assert agree("red", "blue", OPEN, exact=True) is False
    assert agree("none of them", "A", CHOICE, exact=True) is False
    assert agree("red", "Red.", OPEN, exact=True) is True
    assert agree("red", None, OPEN, exact=True) is None


WORDS = "A B red blue dark not or yes no 3 4 three cm ( ) . , It is"
answers = st.lists(st.sampled_from(WORDS.split()), max_size=4).map(" ".join) | st.none()


@given(answers, answers, st.sampled_from([OPEN, CHOICE, LISTED]), st.booleans())
def test_it_does_not_matter_which_comes_first(one, other, record, exact):
    assert agree(one, other, record, exact=exact) is agree(other, one, record, exact=exact)


@given(answers.filter(bool), st.sampled_from([OPEN, CHOICE, LISTED]))
def test_an_answer_says_what_itself_says(answer, record):
    assert agree(answer, answer, record) is (True if answer.strip() else None)


class Judge:
    """Knows that crimson is red, and nothing of mauve."""

    def __init__(self, broken=False):
        self.asked, self.broken = [], broken

    def verdicts(self, claims):
        self.asked += [{claim.reference, claim.answer} for claim in claims]
        return [self.verdict({claim.reference, claim.answer}) for claim in claims]

    def verdict(self, pair):
        if self.broken or "mauve" in pair:
            return Verdict(None, Fault("judge", "HTTP 500"), judged=True)
        return Verdict(pair == {"red", "crimson"}, judged=True)


def test_the_judge_decides_what_the_rules_leave_open_and_is_asked_once():
    judge = Judge()
    agreement = Agreement(judge)
    same = agreement.of(OPEN)
    assert same("red", "crimson") is None
    agreement.settle(
        (OPEN, *pair)
        for pair in [
            ("red", "crimson"), ("crimson", "red"), ("red", "blue"), ("red", "Red."), ("3", "4"),
            ("red", None), (None, "  "),
        ]
    )  # fmt: skip
    agreement.settle([(OPEN, "crimson", "red")])
    assert judge.asked == [{"red", "crimson"}, {"red", "blue"}]
    assert same("red", "crimson") is same("crimson", "red") is True
    assert same("red", "blue") is same("blue", "red") is False
    assert agreement.of(CHOICE)("crimson", "azure") is None


def test_a_pair_that_a_judge_fails_with_stays_open_and_is_named(caplog):
    agreement = Agreement(Judge())
    with caplog.at_level(logging.WARNING):
        agreement.settle([(OPEN, "red", "mauve"), (OPEN, "red", "blue")])
    assert agreement.of(OPEN)("red", "mauve") is None
    assert "1 of 2 pairs of answers could not be judged" in caplog.text
    assert "HTTP 500" in caplog.text


def test_a_judge_that_fails_most_of_the_time_stops():
    words = [f"word{i}" for i in range(12)]
    with pytest.raises(JudgeFailed, match=r"12 of 12 pairs .* because of HTTP 500; mend that"):
        Agreement(Judge(broken=True)).settle((OPEN, "red", word) for word in words)
