"""What the rules are sure of, and what they must leave open: yes, no, or None."""

import pytest

from lfpc_jax.rewards.answers import match
from lfpc_jax.rewards.format import LONGEST_ANSWER
from support.free_answers import FREE, QUESTIONS
from support.handmade import record

COLORS = ("red", "blue", "green", "dark red")  # the right one is A, red

LETTER_YES = [
    "A",
    "a",
    " A ",
    "(A)",
    "( A )",
    "[A]",
    "{A}",
    "A.",
    "A)",
    "(A).",
    "A:",
    "Ａ",  # full width
    "\u200bA",  # invisible
    "**A**",
    "*A*",
    "__A__",
    "`A`",
    "$A$",
    "$$A$$",
    r"\boxed{A}",
    r"\boxed{\text{A}}",
    r"$\boxed{A}$",
    r"\boxed{(A)}",
    r"\boxed {A}",
    r"The bag is red, so \boxed{A}.",
    r"\boxed{A} and again \boxed{A}",
    r"\(A\)",
    r"\text{A}",
    '"A"',
    "'a'",
    "“A”.",
    '"A."',
    'The answer is "A".',
    '"The answer is A."',
    "Option A",
    "option A",
    "option a",
    "OPTION A",
    "Choice A.",
    "option (A)",
    "Answer: A",
    "Answer A",
    "answer: (a)",
    "Final answer: A",
    "Final Answer: **A**",
    "The answer is A",
    "The answer is A.",
    "The answer is: A",
    "The answer is option A.",
    "The correct answer is (A).",
    "The correct option is A",
    "The right choice would be A",
    "So, the answer is A.",
    "Therefore the correct answer is option A",
    "My final answer is A",
    "Thus A",
    "I choose A",
    "I pick option A.",
    "It is A",
    "It's A.",
    "A is correct",
    "Option A is the correct answer.",
    "A is the best choice",
    "A\n",
]
TEXT_YES = [
    "red",
    "Red",
    "RED.",
    "red!",
    '"red"',
    "“Red”",
    "'red'",
    "the red",
    "a red",
    "The red one",
    "The red ones.",
    "It is red",
    "It's red.",
    "It is the red one.",
    "They are red",
    "The answer is red",
    "Answer: red",
    "**red**",
    r"\boxed{red}",
    r"\boxed{\text{red}}",
    r"\textbf{Red}",
    "(red)",
    "r\u200bed",
    "ｒｅｄ",
    "- red",
]
BOTH_YES = [
    "A. red",
    "A: red",
    "A) red",
    "(A) red",
    "(A) Red.",
    "(A): red",
    "A.) red",
    "A, red",
    "A - red",
    "A – red",
    "A red",
    "A.red",
    "A)red",
    "a. red",
    "a) Red",
    "[A] red",
    "A. The red one",
    "A. It is red.",
    "Option A: red",
    "The answer is A. red",
    "The answer is A, red.",
    "**A. red**",
    "**A.** red",
    r"\boxed{A. red}",
    r"\boxed{A.\ red}",
    "red (A)",
    "Red (A).",
    "red [A]",
    "The red one (A)",
    "A. The bag is red",
    "A, because the bag is red.",
    'A, as it is a "red" one',
    '"A. red"',
    "The bag hangs by the door, so the answer is A.",
    "I looked at the crop. The answer is (A) red.",
    "It is dark, but I see it.\n\n**Answer:** A\nThat is all.",
    "Not sure. My best choice is option A",
    "(A) The bag at the left looks red",
]
NO = [
    None,
    "",
    "   ",
    "\n",
    "B",
    "b",
    "(B)",
    "B.",
    "D",
    "E",
    "Z",
    "The answer is B",
    "Option C",
    r"\boxed{B}",
    "**C**",
    "blue",
    "Blue.",
    "It is green",
    "The blue one",
    "dark red",
    "dark-red",
    "The dark red one",
    "B. blue",
    "B. red",  # the text of one option with the letter of another
    "(B) red",
    "B: red",
    "A. blue",
    "(A) blue",
    "A: The blue one",
    "A. dark red",
    "A) green",
    "blue (A)",
    "red (B)",
    "B. crimson",
    "D, because the bag is red",
    '"B"',
    "“C”.",
    '"A" or "B"',
    "The bag hangs by the door, so the answer is C.",
    "A or B",
    "A and B",
    "A, B",
    "A,B",
    "A/B",
    "A B",
    "AB",
    "ABCD",
    "A, B, C, D",
    "A, B and C",
    "A; C",
    "A & C",
    "(A) or (B)",
    "(A), (B)",
    "A. or B.",
    "a or b",
    "both A and B",
    "either A or D",
    "The answer is A or B",
    r"\boxed{A} or \boxed{B}",
    r"\boxed{A}, \boxed{C}",
]
UNKNOWN = [
    "not red",
    "Not red.",
    "It is not red",
    "It isn't red",
    "not A",
    "Not (A)",
    "The answer is not A",
    "The answer isn't A",
    "A is not correct",
    "anything but A",
    'not "A"',
    "The bag hangs by the door. The answer is not A.",
    "I thought that the answer is B, but the answer is A.",
    "Option B is wrong. The answer is A.",
    "The answer is A if it is day, and B if it is night.",
    "Is it option A or option B? I cannot tell.",
    "The answer is unclear.",
    "I would answer a question.",
    "A. not red",
    "A. It isn't red",
    "A. crimson",
    "A. blueish",
    "A. reddish",
    "A. red or blue",
    "A, or maybe B",
    "A. red, not blue",
    "A. Neither red nor blue",
    "A. red (B)",
    "Apple",
    "Absolutely",
    "Ared",
    "reddish",
    "infrared",
    "bored",
    "red and blue",
    "red or blue",
    "red, blue",
    "light red",
    "red wine",
    "crimson",
    "The bag is red",
    "The red bag",
    "I cannot tell",
    "unknown",
    "none of the above",
    "All of them",
    "?",
    "A?B",
    "Аpple",
    "A.M.",
    "A-frame",
    "5",
    r"\boxed{A",
]


@pytest.mark.parametrize("answer", LETTER_YES + TEXT_YES + BOTH_YES)
def test_the_right_option(answer):
    assert match(answer, record("A", COLORS)) is True


@pytest.mark.parametrize("answer", NO)
def test_surely_another_option_or_none(answer):
    assert match(answer, record("A", COLORS)) is False


@pytest.mark.parametrize("answer", UNKNOWN)
def test_left_to_the_judge(answer):
    assert match(answer, record("A", COLORS)) is None


OPTIONS = [
    # letters inside words, and words that look like letters
    ("B", ("White", "Black"), "Black", True),
    ("B", ("Black", "White"), "Black", False),
    ("B", ("Black", "White"), "Blue", None),
    ("B", ("cat", "dog"), "Bob", None),
    ("A", ("cat", "dog"), "A dog", False),
    ("B", ("cat", "dog"), "A dog", True),
    ("B", ("cat", "dog"), "a dog.", True),
    ("B", ("cat", "dog"), "A. dog", False),
    ("A", ("cat", "dog"), "A. dog", False),
    ("B", ("cat", "dog"), "A - dog", False),
    ("B", ("cat", "dog"), "A (dog)", None),
    ("D", ("Paris", "Rome", "Bonn", "Washington"), "D.C.", None),
    ("A", ("Washington, D.C.", "Paris"), "Washington DC", True),
    ("A", ("Washington, D.C.", "Paris"), "D.C.", None),
    ("A", ("U.S.A.", "France"), "USA", True),
    ("A", ("AB", "O", "B"), "AB", True),
    ("C", ("AB", "O", "B"), "AB", False),
    # options that are letters: a lone letter names the option
    ("A", ("B", "C", "A"), "A", True),
    ("A", ("B", "C", "A"), "B", False),
    ("A", ("B", "C", "A"), "A. B", True),
    ("A", ("X", "Y"), "X", True),
    ("A", ("X", "Y"), "Y", False),
    # numbers
    ("B", ("2", "3", "4"), "3", True),
    ("B", ("2", "3", "4"), "three", True),
    ("B", ("2", "3", "4"), "Three.", True),
    ("B", ("2", "3", "4"), "B. three", True),
    ("B", ("2", "3", "4"), "There are three", True),
    ("B", ("2", "3", "4"), "4", False),
    ("B", ("2", "3", "4"), "7", False),
    ("B", ("2", "3", "4"), "13", False),
    ("B", ("2", "3", "4"), "3.5", False),
    ("B", ("2", "3", "4"), "B. 4", False),
    ("B", ("2", "3", "4"), "B. 3.5", None),
    ("B", ("2", "3", "4"), "3 of 4", None),
    ("B", ("10 m", "5 m"), "5 meters", True),
    ("B", ("10 m", "5 m"), "10 metres", False),
    ("A", ("-5", "5"), "5", False),
    ("A", ("-5", "5"), "−5", True),
    # yes and no
    ("A", ("Yes", "No"), "Yes, it is.", True),
    ("A", ("Yes", "No"), "No, it is not.", False),
    ("B", ("Yes", "No"), "No, it is not.", True),
    ("B", ("Yes", "No"), "B. No, it isn't", True),
    ("A", ("Yes", "No"), "Yes and no", None),
    ("A", ("Yes", "No"), "Yesterday", None),
    ("A", ("Yes", "No"), "A. No", False),
    # sentences
    (
        "A",
        ("The cat is left of the dog.", "The cat is right of the dog."),
        "the cat is left of the dog",
        True,
    ),
    (
        "A",
        ("The cat is left of the dog.", "The cat is right of the dog."),
        "The dog is left of the cat.",
        None,
    ),
    (
        "A",
        ("The cat is left of the dog.", "The cat is right of the dog."),
        "A. The cat is right of the dog",
        False,
    ),
    ("A", ("left", "right"), "The dog is on the left", None),
    # one option inside another
    ("D", COLORS, "dark red", True),
    ("D", COLORS, "D. dark red", True),
    ("D", COLORS, "D. The bag is dark red", True),
    ("D", COLORS, "D. red", False),
    ("D", COLORS, "red", False),
    ("A", COLORS, "A. The bag is dark red", None),
    # the same text twice
    ("C", ("red", "blue", "red"), "red", True),
    # the reference itself in another dress
    ("(B)", ("red", "blue"), "B", True),
    ("b.", ("red", "blue"), "blue", True),
    (r"\boxed{B}", ("red", "blue"), "A", False),
    # spelling
    ("A", ("T-shirt", "hat"), "t shirt", True),
    ("A", ("salt & pepper", "sugar"), "Salt and pepper", True),
    ("A", ("café", "bar"), "cafe\u0301", True),
    ("A", ("St. John's", "St. Paul's"), "st johns", True),
    ("A", ("A red car", "A blue car"), "red car", True),
    ("A", ("A red car", "A blue car"), "A red car.", True),
    ("A", ("A red car", "A blue car"), "A. A red car.", True),
    ("A", ("A red car", "A blue car"), "A. a blue car.", False),
]


@pytest.mark.parametrize(("right", "options", "answer", "expected"), OPTIONS)
def test_options(right, options, answer, expected):
    assert match(answer, record(right, options)) is expected


@pytest.mark.parametrize(("reference", "answer", "expected"), FREE)
def test_free_answers(reference, answer, expected):
    assert match(answer, record(reference, ())) is expected


@pytest.mark.parametrize(("question", "reference", "answer", "expected"), QUESTIONS)
def test_what_the_question_settles(question, reference, answer, expected):
    assert match(answer, record(reference, (), question=question)) is expected


def test_there_are_enough_cases():
    sure = len(LETTER_YES + TEXT_YES + BOTH_YES + NO)
    assert sure + len(UNKNOWN) + len(OPTIONS) + len(FREE) + len(QUESTIONS) >= 400


def test_essays_are_not_read():
    assert match("red" + " " * (LONGEST_ANSWER - 3), record("A", COLORS)) is None
    assert match("red" + " " * (LONGEST_ANSWER - 4), record("A", COLORS)) is True


@pytest.mark.parametrize("reference", ["C", "red", "", "AB", "1"])
def test_a_reference_that_is_no_letter_is_named(reference):
    with pytest.raises(ValueError, match=r"record 'r': answer .* letters AB of its 2 options"):
        match("A", record(reference, ("red", "blue")))
