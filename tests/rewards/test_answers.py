"""What the rules are sure of, and what they must leave open: yes, no, or None."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.rewards.answers import match
from lfpc_jax.rewards.format import LONGEST_ANSWER
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


FREE = [
    # strings
    ("red", "red", True),
    ("Red", "RED.", True),
    ("red", "The answer is red.", True),
    ("red", "It is red", True),
    ("the red bag", "red bag", True),
    ("red bag", "A red bag.", True),
    ("red", "not red", None),
    ("red", "By the door hangs a bag. The answer is red.", True),
    ("red", "By the door hangs a bag. The answer is not red.", None),
    ("3.5 m", "I measured it. The answer is 3.5 m. Or so.", True),
    ("3.5 m", "I measured it. Answer: 4 m", False),
    ("B", '"B"', True),
    ("B", '"A"', False),
    ("Joe's bar", '"Joe\'s bar"', True),
    ("red", "reddish", None),
    ("red", "blue", None),
    ("red", "red and blue", None),
    ("Eiffel Tower", "The Eiffel Tower", True),
    ("Vitamin A", "vitamin a", True),
    ("Vitamin A", "vitamin", None),
    ("A+", "A", None),
    ("C++", "C", None),
    ("C++", "c++", True),
    ("number one", "number", None),
    ("10:30", "10:30", True),
    ("10:30", "1030", None),
    ("(1, 2)", "[1, 2]", None),
    ("(1, 2)", "(1,  2)", True),
    ("1, 2", "12", None),
    (r"\boxed{cat}", "cat", True),
    ("cat", r"So it is \boxed{cat}.", True),
    ("cat", r"\boxed{cat} or \boxed{dog}", None),
    (r"\frac{1}{2}", "1/2", True),
    (r"\dfrac{\text{a}}{2}", "a/2", True),
    ("{x}", "x", True),
    ("007", "7", None),
    ("007", "007", True),
    ("...", "...", True),
    ("...", "?", None),
    ("x", "", False),
    ("x", None, False),
    # quantities
    ("3", "three", True),
    ("three", "3", True),
    ("3", "3.0", True),
    ("0.5", ".5", True),
    ("0.5", ".50", True),
    ("5", ".5", False),
    ("0.5", "1/2", True),
    ("½", "0.5", True),
    ("1½", "1.5", True),
    ("1½", "11/2", False),
    ("2 1/2", "2.5", True),
    ("10⁸", "108", None),
    ("5²", "52", None),
    ("1000", "1,000", True),
    ("1,234,567", "1234567", True),
    ("1000", "1,00", None),
    ("1000", "1e3", True),
    ("1000", "one thousand", True),
    ("1000", "1000.", True),
    ("21", "twenty-one", True),
    ("21", "twenty one", True),
    ("20", "twenty one", False),
    ("105", "one hundred and five", True),
    ("1205", "one thousand two hundred five", True),
    ("1900", "nineteen hundred", True),
    ("100", "a hundred", True),
    ("3000000", "3 million", True),
    ("15", "ten five", None),
    ("0", "zero", True),
    ("05", "zero five", None),
    ("-5", "5", False),
    ("-5", "−5", True),
    ("-5", "- 5", True),
    ("5", "+5", True),
    ("5", "6", False),
    ("5", "50", False),
    ("1999", "2000", False),
    ("3.14159", "3.14", None),
    ("3.14159", "3.2", False),
    ("1/3", "0.333", None),
    ("1/0", "1", None),
    ("1/2/2020", "0.5", None),
    ("5", "5-6", None),
    ("5", "5 or 6", None),
    ("5", "five or six", None),
    ("5", "5 to 6", None),
    ("5", "more than 5", None),
    ("5", "<5", None),
    ("5", "~5", None),
    ("5", "5!", None),
    ("5!", "5!", True),
    ("5", "5, 6", None),
    ("1.2.3", "1.2", None),
    # units
    ("5 cm", "5 cm", True),
    ("5 cm", "5cm", True),
    ("5 cm", "5 centimeters", True),
    ("5 cm", "five centimetres", True),
    ("5 cm", "6 cm", False),
    ("5 cm", "50 mm", None),
    ("5 cm", "5 m", None),
    ("5 cm", "5", None),
    ("5", "5 cm", None),
    ("5", "5k", None),
    ("5000", "5k", None),
    ("5 m²", "5 m^2", True),
    ("5 m²", "5 m", None),
    ("60 km/h", "60km/h", True),
    ("50%", "50 percent", True),
    ("50%", "50 %", True),
    ("50%", r"50\%", True),
    ("50%", "0.5", True),
    ("50%", "50", None),
    ("50%", "60%", False),
    ("$5", "5 dollars", True),
    ("$5", r"\$5", True),
    ("$5", "$6", False),
    ("$5", "€5", None),
    ("$5", "$5$", None),
    ("5 USD", "$5.00", True),
    ("$2 million", "$2,000,000", True),
    (r"30^\circ", "30 degrees", True),
    ("30°", "30 degrees", True),
    ("5°C", "5 °C", True),
    ("3 dogs", "three dogs", True),
    ("3 dogs", "4 dogs", False),
    ("3 dogs", "3 cats", None),
    ("2nd", "2", None),
    ("7-Eleven", "7", None),
    # yes and no
    ("yes", "Yes", True),
    ("Yes", "Yes, there is a dog.", True),
    ("No", "No: nothing there", True),
    ("no", "Yes, there is.", False),
    ("no", "no", True),
    ("no", "nothing", None),
    ("yes", "yes and no", None),
    ("yes", "Yes, or rather no", None),
    # a letter without options
    ("B", "B", True),
    ("B", "(b)", True),
    ("B", "The answer is B.", True),
    ("B", "C", False),
    ("B", "B or C", False),
    ("B", "Black", None),
    ("B", "B. Smith", None),
    ("B", "A black dog", None),
    # a letter with a remark that is a letter, too, is no list of letters
    ("A", "A. K", None),
    ("A", "(A) K", None),
    ("A", "A: k", None),
    ("A", "A, K", False),
    ("A", "A and K", False),
    ("A", "(A) (K)", False),
    ("A", "K. B", False),
    # a letter with its text as the reference, common in public sets
    ("B. Blue", "B", True),
    ("B. Blue", "(b)", True),
    ("B. Blue", "The answer is **B**.", True),
    ("B. Blue", "Blue", True),
    ("B. Blue", "It is blue.", True),
    ("B. Blue", "B. Blue", True),
    ("B. Blue", "(B) blue", True),
    ("B. Blue", "B: Blue", True),
    ("B. Blue", "blue (B)", True),
    ("B. Blue", "B, because it is blue.", True),
    ("(B) Blue", "B", True),
    ("b) Blue", "blue", True),
    ("B: Blue", "B", True),
    ("B. Blue", "A", False),
    ("B. Blue", "A or B", False),
    ("B. Blue", "A. Blue", None),
    ("B. Blue", "B. Red", None),
    ("B. Blue", "B. K", None),
    ("B. Blue", "B. not blue", None),
    ("B. Blue", "red", None),
    ("B. Blue", "Blues", None),
    ("B. Blue", "not B", None),
    ("B. 5", "5", True),
    ("B. 5", "five", True),
    ("B. 5", "6", False),
    ("B. Yes", "Yes, it is.", True),
    ("B. Yes", "No", False),
    ("B. A", "B", None),  # or two letters
    ("B. A", "C", None),
    # what only looks like a letter with its text
    ("A, C", "A", None),
    ("A, B and C", "A", None),
    ("A; red", "A", None),
    ("A - B", "A", None),
    ("A dog", "A", None),
    ("A dog", "dog", True),
    ("D.C.", "D", None),
    ("J. K. Rowling", "J", None),
    ("A: 5, B: 3", "A", None),
    ("(A) 5 (B) 3", "A", None),
    ("x: 5", "x", None),
    ("a. m.", "a", None),
]


@pytest.mark.parametrize(("reference", "answer", "expected"), FREE)
def test_free_answers(reference, answer, expected):
    assert match(answer, record(reference, ())) is expected


QUESTIONS = [
    ("How many dogs are there?", "3", "3 dogs", True),
    ("How many dogs are there?", "3", "There are three dogs.", True),
    ("How many dogs are there?", "3", "4 dogs", False),
    ("How many dogs are there?", "3", "3 cats", None),
    ("How many dogs are there?", "3 dogs", "3", True),
    ("How wide is it in cm?", "5", "5 centimeters", True),
    ("How many centimetres is it wide?", "5 cm", "5", True),
    ("How wide is it in cm?", "5", "5 inches", None),
    ("What percentage in percent?", "50", "50%", True),
    ("What percent of it?", "50", "50%", True),
    ("What percent of it?", "50%", "50", True),
    ("What percent of it?", "50%", "0.5", None),
    ("What percent of it?", "50%", "40", False),
    ("Which? (A) red (B) blue", "B", "B. blue", True),
    ("Which?\nA. red\nB. blue", "B", "(B) blue", True),
    ("Which?\nA. red\nB. blue", "B", "A. red", False),
    ("Which?\nA. red\nB. blue", "B", "A blue one", None),
    # options listed in the question are options
    ("Which letter?\nA. K\nB. Q", "A", "A. K", True),
    ("Which letter? (A) K (B) Q", "A", "A. K", True),
    ("Which letter? (A) K (B) Q", "A", "K", True),
    ("Which letter? (A) K (B) Q", "A", "Q", False),
    ("Which letter? (A) K (B) Q", "A", "A. Q", False),
    ("Which letter? (A) K (B) Q", "A", "A. X", None),
    ("Which?\nA. red\nB. blue", "B", "blue", True),
    ("Which?\nA. red\nB. blue", "B", "red", False),
    ("Which?\nA. red\nB. blue", "B", "B. red", False),
    ("Which?\nA. red\nB. blue", "B", "B. crimson", None),
    ("Which?\nA. red\nB. blue", "B. blue", "B", True),
    ("Which?\nA. red\nB. blue", "B. Blue", "red", False),
    ("Which?\nA. red\nB. blue", "B. Blue", "A. blue", False),
    ("Which?\nA. red\nB. blue", "blue", "B", True),
    ("Which?\nA. red\nB. blue", "blue", "A", False),
    ("Which?\nA. red\nB. blue", "green", "B", None),
    ("Which?\nA. red\nB. red", "red", "B", None),
    ("Which? A) red, B) blue or C) green?", "B", "blue", True),
    ("Which? A) red, B) blue or C) green?", "C", "green", True),
    ("Which?\n(A) red\n(B) blue\nAnswer with the option's letter.", "B", "blue", True),
    ("Which? (A) red (B) blue. Answer with the letter.", "B", "B. blue", True),
    ("Which?\n**A.** red\n**B.** blue", "B", "blue", True),
    ("Is it vitamin A. or D?\nA. yes\nB. no", "A", "yes", True),
    ("Is (B) left of (A)?", "A", "A. K", None),
    ("Which?\nA. red\nC. blue", "A", "A. crimson", None),
    ("In the U.S.A. or B. C.?", "B", "C", False),
    ("Which sign? (A) B (B) C", "B", "B", True),  # the option, or the first one's text?
    ("Which sign? (A) B (B) C", "B", "A", None),
    ("Which sign? (A) B (B) C", "B", "C", None),
    ("Which?\nA. red\nB. blue", "B. red", "B", None),  # no sense
]


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
