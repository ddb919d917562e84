"""Answers that are partly right, from the journal to intervals, diagnostics and comparisons."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.data import layout
from lfpc_jax.evaluation.arms import Arm, Change, Comparison
from lfpc_jax.evaluation.benchmark import Benchmark, kind_of, open_benchmark
from lfpc_jax.evaluation.intervals import Z, change, mean, share
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.published import about_benchmark
from lfpc_jax.evaluation.results import grade_all, results
from lfpc_jax.evaluation.run import ask
from lfpc_jax.evaluation.scoring import Outcome, accuracies, accuracy, paired
from lfpc_jax.evaluation.sheet import markdown
from lfpc_jax.evaluation.tables import sheets
from lfpc_jax.trajectory import Picture, Record
from support import rigged, small
from support.pictured import jpeg

SCORES = {1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0}
"""Of so many of ten references that are the answer."""
COUNT = 12


def outcome(name, right, graded=True):
    return Outcome(name, name, "", "", right, graded)


def test_the_mean_of_scores_has_agresti_and_coulls_interval():
    """Of zeros and ones it is theirs: 3 of 10, with Z^2 / 2 of each added."""
    found = mean([1.0] * 3 + [0.0] * 7)
    centre = (3 + Z**2 / 2) / (10 + Z**2)
    half = Z * math.sqrt(centre * (1 - centre) / (10 + Z**2))
    assert (found.value, found.samples) == (pytest.approx(0.3), 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert (found.low, found.high) == pytest.approx((0.1033, 0.6076), abs=2e-4)  # 10.3 % to 60.8 %
    assert mean([]) is None
    for scores in ([0.0] * 5, [1.0] * 5, [0.3] * 5, [1.0]):
        one = mean(scores)
        assert 0 <= one.low <= one.value <= one.high <= 1
        assert one.high - one.low > 0.1
    # scores that vary less than zeros and ones of the same mean have the narrower interval
    some, wide = mean([0.3, 0.6] * 50), share(0.45, 100)
    assert some.high - some.low < 0.6 * (wide.high - wide.low)


@pytest.mark.parametrize("n", [20, 200])
def test_the_interval_of_a_mean_of_scores_covers_it(n):
    """4,000 draws of what VQA accuracy gives; and of changes between two such, which lie far from
    the ends that the interval reckons with, so that of few samples it is wide."""
    rng = np.random.default_rng(0)
    values, p = np.array([0.0, 0.3, 0.6, 0.9, 1.0]), np.array([0.4, 0.15, 0.1, 0.05, 0.3])
    draws = rng.choice(values, p=p, size=(4000, n))
    truth = float(values @ p)
    found = [mean(row.tolist()) for row in draws]
    assert 0.94 < np.mean([one.low <= truth <= one.high for one in found]) < 0.975
    after = np.where(rng.random(draws.shape) < 0.7, draws, rng.choice(values, size=draws.shape))
    moved = 0.3 * (values.mean() - truth)
    changes = [change((row - was).tolist()) for row, was in zip(after, draws)]
    assert np.mean([one.low <= moved <= one.high for one in changes]) > 0.94


def test_the_accuracy_of_graded_questions_is_the_mean_of_their_scores():
    some = [outcome("a", 0.3), outcome("b", 1.0), outcome("c", None), outcome("d", 0.6)]
    assert accuracy(some) == mean([0.3, 1.0, 0.6])
    assert accuracy(some[2:3]) is None
    assert accuracies(some) == {"overall": mean([0.3, 1.0, 0.6])}
    found = paired(some, [outcome("a", 0.9), outcome("b", 0.7), outcome("c", 1.0)])
    assert (found.before, found.after, found.questions) == (
        pytest.approx(0.65), pytest.approx(0.8), 2,
    )  # fmt: skip
    ruled = [replace(one, graded=False) for one in some]
    assert accuracy(ruled) == share(fmean([0.3, 1.0, 0.6]), 3)


def world() -> list[Record]:
    """The square's colour is given by one to four of ten references."""
    records = []
    for number, record in enumerate(rigged.world(COUNT)):
        colour = record.options["ABCD".index(record.answer)]
        matches = number % 4 + 1
        records.append(
            replace(
                record,
                options=(),
                answer=colour,
                references=(colour,) * matches + ("purple",) * (10 - matches),
                metric="vqa",
            )
        )
    return records


def reads_the_crop(episode):
    if rigged.can_call(episode):
        return rigged.call(rigged.shown_box(episode))
    seen = rigged.named(episode.crops[-1]) if episode.crops else None
    return f"<answer>{seen or 'nothing'}</answer>"


def evaluated(folder, say=reads_the_crop):
    engine, journal = rigged.RiggedEngine(say, small.dialogue()), Journal(folder)
    benchmark = Benchmark("set", "layout", tuple(world()), ())
    token = engine.dialogue.tokenizer.image_pad
    asked = {"rollouts": 1, "image_token": token}
    journal.begin(asked, {"set": about_benchmark(benchmark)})
    conditions = ("tool", "direct", "noise")
    ask(lambda: engine, benchmark, 32, conditions, journal, rollouts=1, seed=0)
    return journal


def test_an_evaluation_of_answers_that_are_partly_right(tmp_path):
    journal = evaluated(tmp_path / "a")
    found = results(journal.settings(), grade_all(journal))
    about = found["benchmarks"]["set"]
    assert about["metrics"] == ["vqa"]
    tool = about["budgets"]["32"]["conditions"]["tool"]
    scores = [SCORES[number % 4 + 1] for number in range(COUNT)]
    wanted = mean(scores)
    overall = tool["accuracy"]["overall"]
    assert overall["value"] == pytest.approx(0.7)
    assert (overall["low"], overall["high"]) == pytest.approx((wanted.low, wanted.high))
    assert tool["accuracy"]["near"]["value"] == pytest.approx(0.6)  # 0.3 and 0.9
    assert (tool["undecided_by_rule"], tool["unscored"]) == (0, 0)
    tests = {one["test"]: one["found"] for one in about["budgets"]["32"]["diagnostics"]}
    assert tests["tool over direct"]["change"]["value"] == pytest.approx(0.7)
    assert tests["noise"]["change"]["value"] == pytest.approx(-0.7)
    # needed: what scores at least one half with the tool and under one half without
    assert tests["noise, needed"]["questions"] == 9
    lines = [
        json.loads(line)
        for file in (tmp_path / "a/answers").glob("*-tool-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert sorted(line["right"][0] for line in lines) == sorted(scores)
    text = "\n".join(map(markdown, sheets(found, {})))
    assert "set: the mean of vqa, by Agresti and Coull's interval" in text


def test_arms_of_answers_that_are_partly_right(tmp_path):
    evaluated(tmp_path / "a")
    evaluated(tmp_path / "b", lambda episode: "<answer>nothing</answer>")
    arms = [Arm("reads", (tmp_path / "a",)), Arm("blind", (tmp_path / "b",))]
    comparison = Comparison(arms, "set", 32)
    estimate = comparison.measured("reads", "accuracy").estimate
    wanted = mean([SCORES[number % 4 + 1] for number in range(COUNT)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (wanted.value, wanted.low, wanted.high)
    )
    assert comparison.measured("reads", "noise").estimate.value == 0
    assert comparison.measured("reads", "calls").estimate == share(1.0, COUNT)
    moved = comparison.changed(Change("accuracy", "blind", "reads")).estimate
    assert moved.value == pytest.approx(0.7)


def test_any_readers_set_is_a_benchmark(tmp_path):
    """A JSON set, with its images beside it; and a set with embedded pictures, which become
    files, so that an evaluation resumes with the same digest."""
    row = {"question": "what?", "image": "a.jpg", "answers": ["this"], "questionId": 1}
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "val_v1.0.json").write_text(json.dumps({"data": [row, row]}))
    path = f"doc_vqa:{tmp_path / 'val_v1.0.json'}"
    given = Path(path)
    assert kind_of(given) == "set"
    found = open_benchmark(given, pictures=tmp_path / "p", seed=0, limit=1)
    assert (found.name, len(found.records)) == ("val_v1.0", 1)
    assert about_benchmark(found)["metrics"] == ["anls"]
    half = Path(path.replace(":", "@anls_half:", 1))
    other = open_benchmark(half, pictures=tmp_path / "p", seed=0, limit=1)
    assert about_benchmark(other)["metrics"] == ["anls_half"]
    assert other.digest != found.digest
    table = tmp_path / "set"
    layout.write(table, [Record("a", "what?", "this", Picture(data=jpeg()))])
    plain = open_benchmark(table, pictures=tmp_path / "p", seed=0)
    assert "metrics" not in about_benchmark(plain)

    embedded = [row | {"image": {"bytes": jpeg(), "path": None}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(embedded), tmp_path / "val.parquet")
    given = Path(f"doc_vqa:{tmp_path / 'val.parquet'}")
    first, again = (open_benchmark(given, pictures=tmp_path / "p", seed=0) for _ in range(2))
    [record] = first.records
    assert record.picture.data is None
    with open(record.picture.path, "rb") as file:
        assert file.read() == jpeg()
    assert first.digest == again.digest
