"""Texts before a first call, judged by hand: does the answer stand there?"""

import pytest

from lfpc_jax.evaluation.premature import states, states_answer_first
from lfpc_jax.trajectory import Picture, Record
from support.played import Said, episode, record

COLOURS = Record(
    "r", "What is the colour of the bag?", "B", Picture("x"), ("red", "blue", "dark green")
)
PLACES = Record("r", "Is the dog on the left or on the right of the car?", "A", Picture("x"),
                ("on the left", "on the right"))  # fmt: skip
SIGN = Record("r", "What is written on the sign?", "Open late", Picture("x"))
COUNT = Record("r", "How many birds are there?", "7", Picture("x"))
IS_OPEN = Record("r", "Is the door open?", "yes", Picture("x"))

SAID = [
    (COLOURS, "B", "The bag looks blue. Let me check."),
    (COLOURS, "B", "<think>It seems to be a blue bag, but let me look closer.</think>"),
    (COLOURS, "B", "The answer is B, but I will verify."),
    (COLOURS, "B", "The answer is **B**."),
    (COLOURS, "(B)", "So I would answer (B). I zoom in to be sure."),
    (COLOURS, "blue", "I think option B fits."),
    (COLOURS, "C", "A dark green bag, it appears."),
    (COLOURS, "C", "Answer: dark green because the strap is."),
    (PLACES, "A", "The answer is A."),
    (SIGN, "Open late", 'The sign says "open late".'),
    (SIGN, "open late.", "It reads\nOpen late\nbut it is small."),
    (COUNT, "7", "The answer is 7, let me count again."),
    (COUNT, "seven", "Answer: 7"),
    (IS_OPEN, "yes", "The answer is yes. I verify."),
]

NOT_SAID = [
    (COLOURS, "B", "I need to look at the bag."),
    (COLOURS, "B", "Is it red, blue or dark green? Let me zoom in."),
    (COLOURS, "B", "The bag looks red."),
    (COLOURS, "B", "The answer is red or blue."),
    (COLOURS, "B", "The answer is not blue"),
    (COLOURS, "A", "I need to answer a question about a bag."),
    (COLOURS, "A", "A bag is shown. The options are listed."),
    (COLOURS, "B", "There is a bluebird."),
    (PLACES, "A", "Is the dog on the left of the car?"),  # the question has these words
    (PLACES, "B", "The dog may be on the left."),
    (SIGN, "Open late", "The sign is open to view; it is late."),
    (SIGN, "Open late", "Let me read the sign."),
    (COUNT, "7", "There are 7 trees, and some birds."),  # a bare number says nothing by itself
    (COUNT, "7", "The answer is 17."),
    (IS_OPEN, "no", "There is no detail at this size."),
    (IS_OPEN, "yes", "The answer is no."),
]


@pytest.mark.parametrize(("record", "answer", "text"), SAID)
def test_what_states_the_answer(record, answer, text):
    assert states(text, record, answer)


@pytest.mark.parametrize(("record", "answer", "text"), NOT_SAID)
def test_what_does_not(record, answer, text):
    assert not states(text, record, answer)


def test_only_what_stands_before_the_first_call_counts():
    box = (0, 0, 50, 50)
    tag = "<tool_call>{}</tool_call>"
    asked = record(options=("red", "blue"))
    before = episode(Said(3, f"It is red. {tag}", box=box, shown=1), Said(2, "<answer>A</answer>"))
    after = episode(Said(3, f"Looking. {tag}", box=box, shown=1), Said(2, "It is red."))
    refused = episode(
        Said(3, f"Red, I say. {tag}", fault="bad_json"), Said(2, "<answer>A</answer>")
    )
    inside = episode(Said(3, '<tool_call>{"label": "red"}</tool_call>', box=box, shown=1), Said(2))
    assert states_answer_first(before, asked, "A") is True
    assert states_answer_first(refused, asked, "A") is True
    assert states_answer_first(after, asked, "A") is False
    assert states_answer_first(inside, asked, "A") is False
    assert states_answer_first(episode(Said(2, "<answer>A</answer>")), asked, "A") is None
    assert states_answer_first(before, asked, None) is None
