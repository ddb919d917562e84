"""VQA accuracy and ANLS: examples worked by hand, and the published evaluators on 500 pairs."""

import json
import math
import random

import anls as published_anls
import pytest

from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.graded import anls, score, text_vqa_normal, vqa_accuracy, vqa_normal
from lfpc_jax.trajectory import Picture, Record
from support import vqa_pairs


def record(*references: str, metric="vqa", answer="x") -> Record:
    return Record("r", "What?", answer, Picture(), references=references, metric=metric)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        # a newline and a tab become spaces, and the ends are stripped
        ("stop\nsign", "stop sign"),
        ("stop\tsign", "stop sign"),
        ("  stop sign \n", "stop sign"),
        # a mark that touches a space anywhere is removed everywhere
        ("red- blue-green", "red bluegreen"),
        ("red -blue-green", "red bluegreen"),
        # otherwise it becomes a space
        ("red-blue-green", "red blue green"),
        ("a/b", "b"),  # "a b", of which a is an article
        ("x;y", "x y"),
        ("[x]y", "x y"),
        ('"x"y', "x y"),
        ("{x}y", "x y"),
        ("(x)y", "x y"),
        ("x=y", "x y"),
        ("x+y", "x y"),
        ("x\\y", "x y"),
        ("x_y", "x y"),
        ("x>y<z", "x y z"),
        ("me@home", "me home"),
        ("`x`y", "x y"),
        ("x,y", "x y"),
        ("what?now", "what now"),
        ("x!y", "x y"),
        # a digit, a comma and a digit anywhere: every mark is removed
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        ("red-blue 1,5", "redblue 15"),
        # but not where the comma stands between letters
        ("red,blue 15", "red blue 15"),
        # marks that are none of these stay
        ("50%", "50%"),
        ("$5", "$5"),
        ("r&b", "r&b"),
        ("12:45", "12:45"),
        ("#1", "#1"),
        # a period goes, but for one before a digit
        ("st.", "st"),
        ("U.S.A.", "usa"),
        ("3.14", "3.14"),
        (".5", ".5"),
        ("v2.", "v2"),
        # lower case, number words, articles
        ("STOP Sign", "stop sign"),
        ("none", "0"),
        ("Zero one two", "0 1 2"),
        ("three four five six", "3 4 5 6"),
        ("seven eight nine ten", "7 8 9 10"),
        ("eleven", "eleven"),
        ("a dog, an owl, the cat", "dog owl cat"),
        # contractions: one apostrophe is put back, of words in the table alone
        ("dont", "don't"),
        ("wouldntve", "wouldntve"),
        ("wouldn'tve", "wouldn't've"),
        ("twas", "'twas"),
        ("oclock", "o'clock"),
        ("somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("Im", "im"),
    ],
)
def test_normalisation_by_hand(text, normal):
    assert vqa_normal(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("red,blue", "redblue"),  # a comma goes before marks are looked at
        ("what?now", "whatnow"),
        ("Mike's", "mike 's"),
        ("It's", "it 's"),
        ("1,5-2", "15 2"),  # there is no digit, comma, digit any more
    ],
)
def test_what_text_vqa_does_first(text, normal):
    assert text_vqa_normal(text) == normal


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_the_share_of_ten_references(matches, accuracy):
    references = ["red"] * matches + [f"other{n}" for n in range(10 - matches)]
    assert vqa_accuracy("red", references) == accuracy


@pytest.mark.parametrize(
    ("answer", "references", "accuracy"),
    [
        ("The Stop", "stop stop stop go go go go go go go", 0.9),
        ("two", "2 2 two 3 3 3 3 3 3 3", 0.9),
        ("coca-cola", "coca-cola coca_cola cola cola cola cola cola cola cola cola", 0.6),
        ("nokia.", "Nokia NOKIA nokia nokia, n n n n n n", 1.0),
        ("cant", "can't can't x x x x x x x x", 0.6),
        ("o'clock", "oclock x x x x x x x x x", 0.3),
        # of four references alike each finds three others; of five, two alike: (2 1/3 + 3 2/3) / 5
        ("red", "red red red red", 1.0),
        ("red", "red red x y z", 8 / 15),
    ],
)
def test_accuracies_by_hand(answer, references, accuracy):
    assert score(answer, record(*references.split())) == accuracy


@pytest.mark.parametrize("answer", [None, "", "  \n"])
@pytest.mark.parametrize("metric", ["vqa", "anls", "anls_half"])
def test_no_answer_scores_nothing(answer, metric):
    assert score(answer, record(*["the"] * 10, metric=metric)) == 0


def test_the_published_evaluator_of_text_vqa_on_500_pairs():
    """It lets a blank answer match a reference of nothing but articles, and drops 32 periods at
    most: its `re.sub` is given the flag `re.UNICODE` as the count. There is no other difference."""
    rows = json.loads(vqa_pairs.FILE.read_text())
    assert [(answer, references) for answer, references, _, _ in rows] == vqa_pairs.pairs()
    differ = {}
    for number, (answer, references, accuracy, normal) in enumerate(rows):
        ours = score(answer, record(*references))
        if not math.isclose(ours, accuracy, abs_tol=1e-12):
            differ[number] = (answer.strip() or "blank", accuracy, ours)
        elif text_vqa_normal(answer) != normal:
            differ[number] = (answer, normal, text_vqa_normal(answer))
    periods = "x" + "." * 40 + "y"
    assert differ == {
        7: ("blank", pytest.approx(0.3), 0.0),
        100: (periods, 0.0, 1.0),
        132: ("blank", pytest.approx(0.3), 0.0),
        257: ("blank", pytest.approx(0.6), 0.0),
        382: ("blank", pytest.approx(0.3), 0.0),
    }
    assert {round(row[2], 1) for row in rows} == {0.0, 0.3, 0.6, 0.9, 1.0}


ANLS = [
    ("red", ["red"], 1.0),
    ("RED", ["red"], 1.0),
    ("red", ["Red"], 1.0),
    ("rod", ["red"], 1 - 1 / 3),
    ("reed", ["red"], 1 - 1 / 4),
    ("re", ["red"], 1 - 1 / 3),
    ("r", ["red"], 0.0),  # 2/3
    ("blue", ["red"], 0.0),  # 3/4 at the least
    ("redball", ["red ball"], 1 - 1 / 8),  # a missing space counts
    ("red  ball", ["red ball"], 1.0),  # the number of spaces does not
    ("red\nball", ["red ball"], 1.0),
    (" red ", ["red"], 1.0),
    ("12/05/1999", ["12/05/1998"], 1 - 1 / 10),
    ("$5.00", ["5.00"], 1 - 1 / 5),
    ("kitten", ["sitting"], 1 - 3 / 7),
    ("abcdefgh", ["abcdeXYZ"], 1 - 3 / 8),
    ("Nokia", ["nokla", "Nokia N8"], 1 - 1 / 5),  # of 4/5 and 5/8
    ("blue", ["red", "blu", "green"], 1 - 1 / 4),
    ("x", ["red", "blue"], 0.0),
    ("東京", ["東京都"], 1 - 1 / 3),
    ("yes", ["no", "yes", "yes"], 1.0),
    ("flaw", ["lawn"], 0.0),  # 2/4 is not below one half
    ("ab", ["ac"], 0.0),  # 1/2
]


@pytest.mark.parametrize(("answer", "references", "expected"), ANLS)
def test_anls_by_hand(answer, references, expected):
    assert score(answer, record(*references, metric="anls")) == pytest.approx(expected)
    half = answer in ("flaw", "ab")
    wanted = 0.5 if half else expected
    assert score(answer, record(*references, metric="anls_half")) == pytest.approx(wanted)


def test_the_published_evaluator_of_anls_on_500_pairs():
    rng = random.Random(1)
    pairs, scores = vqa_pairs.pairs(), set()
    for answer, references in pairs:
        some = references[: rng.randint(1, 10)]
        if answer.strip():
            theirs = published_anls.anls_score(prediction=answer, gold_labels=some)
            assert anls(answer, some) == pytest.approx(theirs, abs=1e-12), (answer, some)
            scores.add(theirs)
    assert len(scores) > 20


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_references_are_a_fault_and_no_score(count):
    [verdict] = grade([("red", record(*["red"] * count))], judge=None)
    assert (verdict.right, verdict.accuracy, verdict.fault.part) == (None, None, "record")
    assert "of which VQA accuracy needs more than 3" in verdict.fault.reason
    [verdict] = grade([("red", record(metric="anls"))], judge=None)
    assert "needs references, and there are none" in verdict.fault.reason


class NeverAsked:
    def verdicts(self, claims):
        assert not claims
        return []


def test_graded_answers_ask_no_judge_and_rules_look_at_the_answer_alone():
    three = record("red", "red", "red", *["crimson"] * 7, answer="crimson")
    ruled = Record("s", "What?", "red", Picture(), references=("blue",))
    found = grade([("red", three), ("green", three), ("red", ruled)], NeverAsked())
    assert [(verdict.right, verdict.accuracy) for verdict in found] == [
        (True, 0.9),
        (False, 0.0),
        (True, 1.0),
    ]
    assert not any(verdict.undecided or verdict.judged for verdict in found)
