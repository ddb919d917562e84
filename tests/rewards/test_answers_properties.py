"""What holds of the rules for every answer."""

from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.rewards.answers import match
from support.handmade import record

COLORS = ("red", "blue", "green", "dark red")  # the right one is A, red


WORDS = "A B red blue not or ( ) . , 5 -5 the $ * \\boxed{ }"


phrases = st.lists(st.sampled_from(WORDS.split()))


@given(st.text(max_size=60))
def test_every_text_equals_itself_and_none_breaks_the_rules(text):
    assert match(text, record(text, ())) is bool(text.strip())
    match(text, record("A", COLORS))
    for reference in ("A", "A. red", "red"):
        match(text, record(reference, (), question=f"Which? A. red B. blue {text}"))


@given(phrases)
def test_no_answer_is_right_for_two_options(words):
    answer = " ".join(words)
    right = [match(answer, record(letter, ("red", "blue"))) for letter in "AB"]
    assert right.count(True) <= 1
    if right[0] is True:
        assert right[1] is False


LISTED = "Which?\nA. red\nB. blue"


@given(phrases, st.sampled_from("AB"))
def test_options_in_the_question_are_matched_as_options_beside_it(words, right):
    answer = " ".join(words)
    beside = match(answer, record(right, ("red", "blue"), question=LISTED))
    text = {"A": "red", "B": "blue"}[right]
    for reference in (right, f"({right})", f"{right}. {text}", text):
        assert match(answer, record(reference, (), question=LISTED)) is beside


@given(phrases)
def test_no_answer_is_right_for_two_references_of_letter_and_text(words):
    answer = " ".join(words)
    right = [match(answer, record(one, ())) for one in ("A. red", "B. blue", "B. not blue")]
    assert not (right[0] is True and True in right[1:])


@given(phrases, st.sampled_from(["red", "5", "B", "B. blue"]))
def test_case_and_outer_space_are_nothing(words, reference):
    answer = " ".join(words)
    expected = match(answer, record(reference, ()))
    assert match(f"  {answer}\n", record(reference, ())) is expected
