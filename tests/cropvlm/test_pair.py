"""A crop network and its target as one engine: what is asked, how often, when, and what becomes of
it."""

from dataclasses import replace

import pytest

from lfpc_jax.cropvlm.pair import Pair, asking_for, shown_box
from lfpc_jax.cropvlm.target import Likelihood, Said
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.conditions import under
from lfpc_jax.run.metrics import target_metrics
from lfpc_jax.trajectory import Picture, Record
from support import rigged
from support.rigged_target import (
    RiggedProposer,
    RiggedTarget,
    likes_the_crop,
    names_the_crop,
    outlines,
)

ROLLOUTS = 6


def pair(target=None, **options):
    return Pair(RiggedProposer(outlines), target or RiggedTarget(), **options)


def run(engine, count=4, **options):
    groups = engine.run(rigged.world(count), rollouts=ROLLOUTS, seed=0, **options)
    return sorted(groups, key=lambda group: group.record.id)


def test_each_distinct_box_is_asked_once_and_all_its_episodes_get_the_answer():
    engine = pair()
    groups = run(engine)
    assert [group.record.id for group in groups] == ["w0", "w1", "w2", "w3"]
    for group, (what, record, boxes) in zip(groups, sorted(engine.target.asked)):
        assert (what, record) == ("answers", group.record.id)
        square, corner, nothing = boxes
        assert nothing is None, "a box that cannot be read is shown as none"
        x1, y1, x2, y2 = group.record.targets[0][0]
        assert square == pytest.approx((x1, y1, x2, y2), abs=1)
        of_rollouts = [shown_box(trajectory) for trajectory in group.trajectories]
        assert of_rollouts == [square, corner, square, nothing, square, corner]
        answers = [trajectory.answer for trajectory in group.trajectories]
        guess = names_the_crop(group.record, None)
        assert answers == [group.record.answer, guess, group.record.answer, guess,
                           group.record.answer, guess]  # fmt: skip
        ends = [trajectory.end for trajectory in group.trajectories]
        assert ends == ["proposed"] * 3 + ["no_action"] + ["proposed"] * 2
        assert all(t.likelihood is None and not t.unanswered for t in group.trajectories)
        assert group.image is not None
    stats = engine.stats
    assert (stats.questions, stats.episodes, stats.boxes, stats.cached) == (4, 24, 12, 0)
    assert min(stats.proposer_seconds, stats.target_seconds) > 0


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("likelihoods", [True, False])
def test_only_what_is_needed_is_asked(answers, likelihoods):
    engine = pair(answers=answers, likelihoods=likelihoods)
    [group] = run(engine, count=1)
    asked = [what for what, *_ in engine.target.asked]
    assert asked == ["answers"] * answers + ["likelihoods"] * likelihoods
    for trajectory in group.trajectories:
        assert (trajectory.answer is not None) == answers
        assert (trajectory.likelihood is not None) == likelihoods
    if likelihoods:
        square, corner, _, nothing, *_ = [t.likelihood for t in group.trajectories]
        assert (square, corner, nothing) == (-1, -3, -3)


def test_a_validation_asks_for_more_and_leaves_it_as_it_was():
    engine = pair(answers=False, likelihoods=True)
    with asking_for(engine, answers=True):
        run(engine, count=1)
        assert [what for what, *_ in engine.target.asked] == ["answers", "likelihoods"]
    assert (engine.answers, engine.likelihoods) == (False, True)
    with asking_for(object(), answers=True):  # an engine without a target
        pass


def test_the_two_never_run_at_the_same_time():
    """A cache is there while its generator is open."""
    engine = pair(likelihoods=True, chunk=3)
    at_work = []

    class Watched(RiggedTarget):
        def answers(self, questions, *, seed=0):
            yield from self.watched("answers", super().answers(questions, seed=seed), questions)

        def likelihoods(self, questions):
            yield from self.watched("likelihoods", super().likelihoods(questions), questions)

        def watched(self, name, values, questions):
            at_work.append((name, len(questions)))
            for value in values:
                assert not engine.engine.running
                assert at_work[-1][0] == name
                yield value

    engine.target = Watched()
    groups = engine.run(rigged.world(7), rollouts=2, seed=0)
    for number, _ in enumerate(groups):
        assert not engine.engine.running
        assert len(at_work) == 2 * (number // 3 + 1), "a chunk is proposed when it is needed"
    assert at_work == [(name, count) for count in (3, 3, 1) for name in ("answers", "likelihoods")]


def test_alterations_are_the_targets_and_change_no_box():
    engine = pair(likelihoods=True)
    plain = run(engine)
    with altered(engine, alteration("blank")):
        blank = run(engine)
    for before, after in zip(plain, blank, strict=True):
        assert [t.turns for t in before.trajectories] == [t.turns for t in after.trajectories]
        guess = names_the_crop(before.record, None)
        assert {t.answer for t in after.trajectories} == {guess}
        assert {t.likelihood for t in after.trajectories} == {-3}
        assert before.trajectories[0].likelihood == -1
    after = run(engine)
    assert [g.trajectories[0].answer for g in after] == [g.record.answer for g in plain]


def test_without_the_tool_the_target_sees_no_crop_and_nobody_proposes():
    engine = pair()
    engine.engine.say = None  # it would raise
    with under(engine, "direct", [], seed=0):
        groups = run(engine)
    assert engine.target.asked == [("answers", f"w{number}", (None,)) for number in range(4)]
    for group in groups:
        for trajectory in group.trajectories:
            assert trajectory.answer == names_the_crop(group.record, None)
            assert (trajectory.turns, trajectory.end) == ((), "answered")
            assert not trajectory.sampled.any()
            assert trajectory.original == (rigged.SIZE, rigged.SIZE)
    engine.engine.say = outlines
    [group] = run(engine, count=1)
    assert shown_box(group.trajectories[0]) is not None, "and afterwards as before"


def test_what_the_target_could_not_be_asked_is_no_answer():
    def says(record, crop):
        return Said(fault="timed out") if crop is None else Said("A", cached=True)

    engine = pair(RiggedTarget(says), likelihoods=True)
    [group] = run(engine, count=1)
    unanswered = group.trajectories[3]
    assert (unanswered.answer, unanswered.unanswered) == (None, "timed out")
    assert {t.answer for t in group.trajectories if t is not unanswered} == {"A"}
    assert engine.stats.cached == 2


def test_an_answer_whose_likelihood_cannot_be_asked_for_masks_its_episode_alone():
    fault = "cannot be shown: the box covers nothing of its picture"

    def likes(record, crop):
        return Likelihood(None, fault=fault) if crop is None else likes_the_crop(record, crop)

    engine = pair(RiggedTarget(likes=likes), likelihoods=True)
    [group] = run(engine, count=1)
    masked = group.trajectories[3]
    others = [trajectory for trajectory in group.trajectories if trajectory is not masked]
    assert (masked.likelihood, masked.unanswered) == (None, fault)
    assert {t.unanswered for t in others} == {""}
    assert None not in {t.likelihood for t in others}


def test_whoever_raises_for_an_episode_stops_the_target_too():
    class Enough(Exception):
        pass

    engine = pair()

    def heard(episode):
        if engine.target.asked:
            raise Enough

    with pytest.raises(Enough):
        run(engine, on_episode=heard)
    assert len(engine.target.asked) == 1


def test_a_record_that_cannot_be_shown_is_left_out_and_listed():
    records = rigged.world(3)
    gone = Record("gone", "What?", "A", Picture("gone"))
    engine = pair(chunk=2)
    found = list(engine.run([*records[:1], gone, *records[1:]], rollouts=1, seed=0))
    assert {group.record.id for group in found} == {"w0", "w1", "w2"}
    assert engine.stats.skipped == [("gone", "it is gone")]
    with under(engine, "direct", [], seed=0):
        assert len(list(engine.run([gone, *records], rollouts=1, seed=0))) == 3
    assert [name for name, _ in engine.stats.skipped] == ["gone", "gone"]


def test_what_was_asked_is_counted_for_each_step():
    engine = pair()
    run(engine)
    before = replace(engine.stats)
    assert target_metrics(engine.stats, before) == {}, "nothing since"
    run(engine, count=2)
    values = target_metrics(engine.stats, before)
    assert values.pop("time/proposer") > 0
    assert values.pop("time/target") > 0
    assert values == {"target/questions": 2, "target/distinct": 0.5, "target/cached": 0}
    assert target_metrics(engine.engine.stats, engine.engine.stats) == {}, "an engine alone"
