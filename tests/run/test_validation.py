"""What a validation measures, what keeps rewards from being known, and ids that a batch holds
once."""

import logging
import math
from dataclasses import replace

import pytest

from lfpc_jax.rewards.judge import Judge, JudgeSettings
from lfpc_jax.rewards.total import OwnReward, Rewards
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.config import RolloutSettings, TrainConfig
from lfpc_jax.run.metrics import EpisodeMetrics, reward
from lfpc_jax.run.openings import unique_ids
from lfpc_jax.run.progress import StepsDisplay
from lfpc_jax.run.validation import told, validate, validation_records
from support import metrics_page, rigged, small
from support.judge_server import JudgeServer, say, status


class RiggedEngine(rigged.RiggedEngine, Engine):
    """What it says is settled, whatever is loaded."""

    def load(self, params, version=None):
        pass

    def unload(self):
        pass

    def run(self, records, *, rollouts, seed, on_episode=None, sampling=None):
        self.sampling = sampling
        return super().run(records, rollouts=rollouts, seed=seed)


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    """A run of this process keeps its log to itself."""
    monkeypatch.setattr(logging.getLogger("lfpc_jax"), "propagate", True)


def validated(say, records, engine=None, **settings):
    config = TrainConfig(**settings)
    engine = engine or RiggedEngine(say, small.dialogue())
    judge = Judge(config.judge) if config.judge is not None else None
    measure = EpisodeMetrics(small.config().image_token)
    records = validation_records(records)
    return validate(config, engine, records, judge, measure, StepsDisplay(1).bar)


def test_validation_blanks_crops_and_finds_who_reads_them():
    """Without its crop the reader of crops guesses, one in four; the other never looked."""
    records = rigged.world(24)
    values, seen = validated(rigged.reads_the_crop, records)
    assert values.keys() <= metrics_page.of_runs()
    assert values["validation/accuracy"] == 1
    assert values["validation/blank_accuracy"] < 0.5
    assert values["validation/gap"] == 1 - values["validation/blank_accuracy"]
    for one, record in zip(seen, records, strict=True):
        [[crop]] = one.crops
        assert rigged.named(crop) == record.options["ABCD".index(record.answer)], "as it was"
    values, _ = validated(rigged.reads_the_whole, records)
    assert values["validation/accuracy"] == values["validation/blank_accuracy"] == 1
    assert values["validation/gap"] == 0


def test_validation_of_answers_that_may_be_partly_right():
    """Half of the records are answered with a score of 0.6 and half with 1, and all with 0 by
    whoever sees blank crops."""

    def says(episode):
        if rigged.can_call(episode):
            return rigged.call(rigged.shown_box(episode))
        return f"<answer>{rigged.named(episode.crops[-1]) or 'nothing'}</answer>"

    records = []
    for number, record in enumerate(rigged.world(8)):
        colour = record.options["ABCD".index(record.answer)]
        matches = (2, 4)[number % 2]
        references = (colour,) * matches + ("purple",) * (10 - matches)
        changes = {"answer": colour, "options": (), "references": references, "metric": "vqa"}
        records.append(replace(record, **changes))
    values, seen = validated(says, records)
    assert values["validation/accuracy"] == pytest.approx(0.8)
    assert values["validation/gap"] == pytest.approx(0.8)
    assert (values["validation/blank_accuracy"], values["validation/undecided"]) == (0, 0)
    assert [group.rewards[0]["total"] for group in seen] == pytest.approx(
        [0.8 * score + 1.2 for score in (0.6, 1.0) * 4]
    )


def test_validation_may_be_greedy_whatever_rollouts_are():
    sampled = RolloutSettings(temperature=0.7)
    for own, temperature in ((None, 0.7), (0.0, 0.0)):
        engine = RiggedEngine(rigged.reads_the_whole, small.dialogue())
        settings = {"rollout": sampled, "validation_temperature": own}
        validated(rigged.reads_the_whole, rigged.world(2), engine, **settings)
        assert engine.sampling == Sampling(temperature)


def test_records_that_come_twice_get_names_that_nobody_has():
    assert unique_ids(["a", "b", "a", "a", "b"]) == ["a", "b", "a#2", "a#3", "b#2"]
    assert unique_ids(["a", "a", "a#2", "a", "a#2"]) == ["a", "a#3", "a#2", "a#4", "a#2#2"]


@pytest.mark.parametrize("turn", [1, -1])
def test_validation_sets_that_share_ids_are_all_measured(turn):
    """One that is answered rightly and one that cannot be: half, in either order."""
    right = rigged.world(4)
    wrong = [replace(one, answer="BCDA"["ABCD".index(one.answer)]) for one in right]
    records = [one for part in (right, wrong)[::turn] for one in part]
    values, seen = validated(rigged.reads_the_whole, records)
    assert values["validation/accuracy"] == 0.5
    assert [one.record.answer for one in seen] == [one.answer for one in records]
    assert len({one.record.id for one in seen}) == 8


def halting(trajectory, record):
    """A reward that knows of one record in four."""
    number = int(record.id.removeprefix("w"))
    if number % 4 == 1:
        raise KeyError("box")
    return (1.0, None, None, math.inf)[number % 4]


def test_what_cannot_be_scored_is_counted_by_part_and_told_once_a_kind(caplog):
    records = rigged.world(8)
    own = (OwnReward("mine", 1.0, halting), OwnReward("fine", 1.0, lambda t, r: 1.0))
    engine = RiggedEngine(rigged.reads_the_crop, small.dialogue())
    measure = EpisodeMetrics(small.config().image_token)
    for _ in range(2):
        groups = list(engine.run(records, rollouts=1, seed=0))
        values, faults = measure(*reward(groups, Rewards(own=own), None))
        assert values["reward/masked"] == values["masked/mine"] == 0.75
        assert values["reward/unjudged"] == 0
        assert values["reward/accuracy"] == values["reward/mine"] == values["reward/fine"] == 1
        assert "masked/fine" not in values
    assert sorted(fault.cause for fault in faults) == [
        "KeyError", "not finite", "returned None"
    ]  # fmt: skip
    told = sorted(record.getMessage() for record in caplog.records)
    assert len(told) == 3
    assert told[0].startswith("2 of 8 episodes could not be scored (mine: KeyError; told once). ")
    assert told[0].endswith(": KeyError: 'box'")
    assert told[1].startswith("2 of 8 episodes could not be scored (mine: not finite; told once)")
    assert told[2].startswith("2 of 8 episodes could not be scored (mine: returned None; told")


def test_what_another_process_could_not_score_counts_and_is_told_here(monkeypatch, caplog):
    """Here all is well; there the judge is gone: half of all episodes, and both stop alike."""
    records = rigged.world(4)

    def gathered(value):
        there = [row | {"failed": ["judge"]} for row in value["rows"]]
        for row in there:
            row["parts"] = row["parts"] | {"total": None, "accuracy": None}
        fault = {"part": "judge", "reason": "http://h/v1: HTTP 401", "cause": "HTTP 401"}
        kind = "judge: HTTP 401"
        theirs = {"rows": there, "counts": {kind: 4}, "first": {kind: fault}}
        return [value, value | theirs]

    monkeypatch.setattr("lfpc_jax.run.metrics.everyones", gathered)
    engine = RiggedEngine(rigged.reads_the_crop, small.dialogue())
    groups = list(engine.run(records, rollouts=1, seed=0))
    values, faults = EpisodeMetrics(small.config().image_token)(*reward(groups, Rewards(), None))
    assert values["reward/masked"] == values["masked/judge"] == values["reward/unjudged"] == 0.5
    assert [fault.reason for fault in faults] == ["http://h/v1: HTTP 401"]
    told = (
        "4 of 8 episodes could not be scored (judge: HTTP 401; told once). The first: http://h/v1"
    )
    assert told in caplog.text


def test_a_validation_says_how_much_of_it_could_not_be_judged(tmp_path, caplog):
    """The rules cannot tell "crimson" for "red", and the judge's key is refused: 3 in 4 unknown."""
    records = [replace(one, options=(), answer="red") for one in rigged.world(8)]

    def says(episode):
        sure = int(episode.opening.record.id[1:]) % 4 == 0
        return f"<answer>{'red' if sure else 'crimson or so'}</answer>"

    with JudgeServer(lambda index, claim: status(401)) as server:
        judge = JudgeSettings(server.url, "m", str(tmp_path))
        values, _ = validated(says, records, judge=judge)
        assert values["validation/accuracy"] == values["validation/blank_accuracy"] == 1
        assert values["validation/masked"] == values["validation/blank_masked"] == 0.75
        assert values["validation/skipped"] == values["validation/undecided"] == 0
        assert server.url in caplog.text
    assert "6 of 8 episodes could not be scored (judge: HTTP 401; told once)" in caplog.text
    values, _ = validated(says, records)  # without a judge it is wrong, and known
    assert values["validation/accuracy"] == 0.25
    assert values["validation/masked"] == 0
    assert values["validation/undecided"] == 0.75


@pytest.fixture
def half_judged(tmp_path):
    """Eight records, of which the judge knows with crops as they are only w4 to w7, all right, and
    with blank ones only w0 to w5, of which it calls w4 wrong; and what the model says."""
    records = [replace(one, options=(), answer="red") for one in rigged.world(8)]

    def says(episode):
        if not episode.crops:
            return rigged.call(rigged.shown_box(episode))
        crop = "whole" if rigged.named(episode.crops[-1]) else "blank"
        return f"<answer>{crop} {episode.opening.record.id}</answer>"

    def judged(index, claim):
        crop, name = claim["answer"].split()
        number = int(name[1:])
        if number < 4 if crop == "whole" else number > 5:
            return status(400)
        return say("no" if crop == "blank" and number == 4 else "yes")

    with JudgeServer(judged) as server:
        yield says, records, JudgeSettings(server.url, "m", str(tmp_path))


def test_the_gap_is_over_what_was_judged_both_times(half_judged):
    """w4 and w5: one of the two is lost with its crop."""
    says, records, judge = half_judged
    values, _ = validated(says, records, judge=judge)
    assert (values["validation/masked"], values["validation/blank_masked"]) == (0.5, 0.25)
    assert values["validation/accuracy"] == 1
    assert values["validation/blank_accuracy"] == pytest.approx(5 / 6)
    assert values["validation/gap"] == 0.5


def test_the_gap_is_over_all_processes(half_judged, monkeypatch):
    """The other has two more judged both times, that lose nothing. What was judged nowhere both
    times has no gap."""
    says, records, judge = half_judged
    monkeypatch.setattr("lfpc_jax.run.validation.everyones", lambda mine: [mine, [2, 2.0, 2.0]])
    values, _ = validated(says, records, judge=judge)
    assert values["validation/gap"] == 0.25
    monkeypatch.undo()
    values, _ = validated(says, records[::6], judge=judge)
    assert values["validation/accuracy"] == values["validation/blank_accuracy"] == 1
    assert "validation/gap" not in values


def test_a_validation_says_how_much_of_it_could_not_be_shown():
    class Half(RiggedEngine):
        def run(self, records, **how):
            yield from super().run(records[: len(records) // 2], **how)

    engine = Half(rigged.reads_the_whole, small.dialogue())
    values, seen = validated(rigged.reads_the_whole, rigged.world(8), engine)
    assert values["validation/skipped"] == 0.5
    assert values["validation/accuracy"] == 1
    assert values["validation/records"] == 4
    assert told(values) == "accuracy 1.000 over 4 records: 50.0% of the records could not be shown"
    assert len(seen) == 4


def test_a_validation_of_which_nothing_could_be_shown_is_told(caplog):
    class Nothing(RiggedEngine):
        def run(self, records, **how):
            return iter(())

    engine = Nothing(rigged.reads_the_whole, small.dialogue())
    values, seen = validated(rigged.reads_the_whole, rigged.world(8), engine)
    assert (values, seen) == ({"validation/skipped": 1.0}, [])
    assert told(values) == "100.0% of the records could not be shown"
    assert "measured nothing: all 8 records were skipped" in caplog.text
