"""Our matching of option answers beside the rule of the public tool that most papers score with
(VLMEvalKit, "exact matching"), on answers labelled by hand. Where neither names a letter, both
count the answer as wrong; ours says with some that it cannot tell, and a judge may.

`their_letter` is that published rule in our words, compared with its own code (e8e78f05) on every
answer here:
1. Take out . ( ) [ ] , : ; ! * # { } and split at spaces. If exactly one of the option letters is a
   word, and it is among the last four, that is the answer.
2. Else, the letter A to D after "answer is" (any case, bold or not), if it is an option's.
3. Else, if the text is at most twice as long as all options together: the only option whose text
   stands in it.
4. Else none, which is wrong.
"""

import re

import pytest

from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.answers import match
from lfpc_jax.trajectory import Picture, Record

COLOURS = ("red", "blue", "green", "yellow")
SENTENCES = (
    "The dog is on the left side of the car.",
    "The dog is on the right side of the car.",
    "The dog is in front of the car.",
    "The dog is behind the car.",
)
NUMBERS = ("12", "21", "112", "7")
SIGNS = ("STOP", "Stop here", "Bus stop", "No parking")


def their_letter(answer, options):
    choices = dict(zip("ABCD", options))
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    lettered = [letter for letter in choices if letter in words]
    if len(lettered) == 1 and words.index(lettered[0]) > len(words) - 5:
        return lettered[0]
    announced = re.search(r"(?i)(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", answer)
    if announced and announced[1].upper() in choices:
        return announced[1].upper()
    if len(answer) > 2 * sum(map(len, options)):
        return None
    named = [letter for letter, text in choices.items() if text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


def record(options, right):
    return Record("r", "Which is it?", right, Picture("x"), options)


# Answer, what a reader takes it for. Dressed letters first: every letter in each dress.
DRESSES = (
    "{}", "{}.", "({})", "({}).", " {} ", "**{}**", "[{}]", "{})", "Answer: {}",
    "The answer is {}.", "The answer is ({}).", "The correct answer is **{}**.", "Option {}",
    "My answer is {}", "{}!",
)  # fmt: skip
LETTERED = [(COLOURS, dress.format(letter), letter) for dress in DRESSES for letter in "ABCD"]
LETTER_AND_TEXT = [
    (COLOURS, form.format(letter, text), letter)
    for form in ("{}. {}", "({}) {}", "{}: {}", "**{}.** {}", "The answer is {}. {}")
    for letter, text in zip("ABCD", COLOURS)
]
TEXTS = [
    (options, form.format(text), letter)
    for options, form in (
        (COLOURS, "{}"), (COLOURS, "It is {}."), (COLOURS, "{}."), (SENTENCES, "{}")
    )
    for letter, text in zip("ABCD", options)
]  # fmt: skip
OTHERS = [
    (COLOURS, "", None),
    (COLOURS, "I cannot tell.", None),
    (COLOURS, "A or B", None),
    (COLOURS, "red or blue", None),
    (COLOURS, "E", None),
    (COLOURS, "purple", None),
    (COLOURS, "A, B, C, D", None),
    (SIGNS, "No parking", "D"),
    (NUMBERS, "7", "D"),
    (NUMBERS, "12", "A"),
    (COLOURS, "\\boxed{B}", "B"),
    (COLOURS, "B, because the bag is blue", "B"),
]
# As models write that were not taught tags.
SENTENCES_OF_MODELS = [
    (COLOURS, "Based on the cropped image, the answer is C.", "C"),
    (COLOURS, "Looking at the crop, the bag is green. Answer: C", "C"),
    (COLOURS, "**Answer:** D", "D"),
    (COLOURS, "**B) blue**", "B"),
    (COLOURS, "(D) yellow.", "D"),
    (COLOURS, "C) green", "C"),
    (COLOURS, "Option A: red", "A"),
    (COLOURS, "The correct option is B.", "B"),
    (COLOURS, "The correct answer is option C.", "C"),
    (COLOURS, "The right answer is (D) yellow", "D"),
    (COLOURS, "So the answer is B.", "B"),
    (COLOURS, "Therefore, the answer is A", "A"),
    (COLOURS, "Final answer: C", "C"),
    (COLOURS, "I choose B.", "B"),
    (COLOURS, "I would pick option B", "B"),
    (COLOURS, "It's B", "B"),
    (COLOURS, "B is correct.", "B"),
    (COLOURS, "B. Blue", "B"),
    (COLOURS, "BLUE", "B"),
    (COLOURS, '"blue"', "B"),
    (COLOURS, "The red one", "A"),
    (COLOURS, "There is no bag in the image.", None),
    (COLOURS, "The image is too blurry to tell.", None),
    (COLOURS, "None of the above", None),
    (COLOURS, "It could be red or green.", None),
    (COLOURS, "either B or C", None),
    (COLOURS, "F", None),
    (SENTENCES, "B. The dog is on the right side of the car.", "B"),
    (SENTENCES, "The answer is A. The dog is on the left side of the car.", "A"),
    (NUMBERS, "There are 7.", "D"),
    (NUMBERS, "B. 21", "B"),
    (SIGNS, "C. Bus stop", "C"),
]
AGREED = LETTERED + LETTER_AND_TEXT + TEXTS + OTHERS + SENTENCES_OF_MODELS

# Where the two differ: the answer, the reader's label, theirs. Ours is always the reader's.
DIFFERENCES = [
    # a letter in lower case is none to them, and its word's text decides
    (COLOURS, "b", "B", None),
    (COLOURS, "(c)", "C", None),
    (COLOURS, "option d", "D", None),
    # substrings: "12" is in "112", "stop" is in all
    (NUMBERS, "112", "C", None),
    (SIGNS, "Stop here", "B", None),
    (SIGNS, "bus stop", "C", None),
    # "red" is in "bored" and "is not red" names it
    (COLOURS, "I am bored", None, "A"),
    (COLOURS, "It is not red.", None, "A"),
    # the article A
    (COLOURS, "A bag", None, "A"),
    # a letter beside the text of another option
    (COLOURS, "A. blue", None, "A"),
    # quotation marks, a letter far from the end, an option's text without its full stop
    (COLOURS, '"B"', "B", None),
    (COLOURS, 'The answer is "C".', "C", None),
    (COLOURS, "B is the right answer.", "B", None),
    (SENTENCES, "The dog is behind the car", "D", None),
]

# What a reader understands and ours leaves to a judge: the answer, the reader's label, theirs. A
# text that has an option's words may also deny them, or be about something else.
LEFT_OPEN = [
    (COLOURS, "The color of the bag is blue.", "B", "B"),
    (COLOURS, "red bag", "A", "A"),
    (COLOURS, "The bag is red, not blue.", "A", None),
    (COLOURS, "The bag in the picture is clearly yellow.", "D", None),
    (COLOURS, "B, because I can see that it has this one", "B", None),
    (SIGNS, "It says STOP", "A", "A"),
    (SIGNS, 'The sign reads "No parking".', "D", "D"),
    (SENTENCES, "The dog is to the left of the car.", "A", None),
    (NUMBERS, "The number is 112.", "C", None),
]


def ours(answer, options):
    """The only letter for which the answer is graded right."""
    verdicts = grade([(answer, record(options, letter)) for letter in "ABCD"], judge=None)
    right = [letter for letter, verdict in zip("ABCD", verdicts) if verdict.right]
    assert len(right) < 2, (answer, right)
    return right[0] if right else None


def test_there_are_enough_of_them():
    assert len(AGREED) >= 100
    assert len({(options, answer) for options, answer, _ in AGREED}) == len(AGREED)


@pytest.mark.parametrize(("options", "answer", "label"), AGREED)
def test_both_rules_agree_with_the_label(options, answer, label):
    assert ours(answer, options) == label
    assert their_letter(answer, options) == label


@pytest.mark.parametrize(("options", "answer", "label", "theirs"), DIFFERENCES)
def test_the_differences_are_these(options, answer, label, theirs):
    assert ours(answer, options) == label
    assert their_letter(answer, options) == theirs


@pytest.mark.parametrize(("options", "answer", "label", "theirs"), LEFT_OPEN)
def test_what_is_left_open_and_not_called_wrong(options, answer, label, theirs):
    assert match(answer, record(options, label)) is None
    assert their_letter(answer, options) == theirs
