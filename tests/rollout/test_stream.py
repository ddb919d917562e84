"""Episodes that go on from step to step while weights are replaced (see small.py)."""

from collections import defaultdict

import numpy as np
import pytest

from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.stream import EpisodeStream
from support import small
from support.engines import run

pytestmark = pytest.mark.compiles

STEPS, PROMPTS, ROLLOUTS = 4, 3, 4


def other_params(number):
    """The model's weights, a little more decided from version to version."""
    params = dict(small.params())
    return params | {"unembed": params["unembed"] * (1 + 0.05 * number)}


def records(step):
    """Of which the first is in every step."""
    return [small.record(i) for i in (0, *range(step * 2 + 1, step * 2 + PROMPTS))]


class Streamed:
    """Steps of which each begins one ahead, with other weights in each; and who drew which token,
    as it was seen from outside."""

    def __init__(self, engine, params_of):
        self.groups, self.seen = {}, defaultdict(list)
        self.now, self.unfinished = 0, []
        stream = EpisodeStream(engine, rollouts=ROLLOUTS, on_episode=self._told)
        stream.add(records(0), seed=0)
        for step in range(STEPS):
            self.now = step
            engine.load(params_of(step), version=step)
            if step + 1 < STEPS:
                stream.add(records(step + 1), seed=step + 1)
            self.groups[step] = list(stream.collect(step))
            self.unfinished.append(not stream.idle)
            engine.unload()
        assert stream.idle

    def _told(self, episode):
        seen = self.seen[episode]
        seen += [self.now] * (sum(episode.sampled) - len(seen))

    def trajectories(self, step):
        return {(t.record, t.rollout): t for g in self.groups[step] for t in g.trajectories}


@pytest.fixture(scope="module")
def streamed(shared):
    found = Streamed(shared, other_params)
    shared.load(small.params())
    return found


def test_every_group_is_whole_and_in_its_step(streamed):
    assert streamed.unfinished == [True] * (STEPS - 1) + [False]
    for step in range(STEPS):
        asked = {record.id for record in records(step)}
        assert {group.record.id for group in streamed.groups[step]} == asked
        assert len(streamed.groups[step]) == PROMPTS
        for group in streamed.groups[step]:
            assert [t.rollout for t in group.trajectories] == list(range(ROLLOUTS))
            assert len(group.crops) == ROLLOUTS


def versions_of(trajectory):
    return [of for of, count in trajectory.versions for _ in range(count)]


def test_every_token_carries_the_version_that_drew_it(streamed):
    recorded = [t for step in range(STEPS) for t in streamed.trajectories(step).values()]
    seen = {(id(e.opening), e.rollout): versions for e, versions in streamed.seen.items()}
    assert len(seen) == len(recorded) == STEPS * PROMPTS * ROLLOUTS
    by_ids = {(tuple(e.ids), e.rollout): v for e, v in streamed.seen.items()}
    mixed = 0
    for t in recorded:
        assert versions_of(t) == by_ids[tuple(t.ids.tolist()), t.rollout]
        mixed += len(set(versions_of(t))) > 1
    assert mixed >= 2, "some were unfinished when the weights were replaced"


def test_what_a_version_drew_is_what_its_weights_draw_alone(streamed, shared):
    """An episode under one version is that of a plain run; one under two begins as the first of
    them would have gone on. Nothing that old weights computed is used for one that begins later."""
    whole = begun = 0
    for step in range(STEPS):
        for version in (step - 1, step):
            if version < 0:
                continue
            shared.load(other_params(version))
            alone = run(shared, records(step), ROLLOUTS, seed=step)
            for name, t in streamed.trajectories(step).items():
                versions = versions_of(t)
                if versions[0] != version or t.versions[0][0] != version:
                    continue
                same = versions.count(version)
                until = int(np.flatnonzero(t.sampled)[same - 1]) + 1
                np.testing.assert_array_equal(t.ids[:until], alone[name].ids[:until])
                np.testing.assert_allclose(
                    t.logprobs[:until], alone[name].logprobs[:until], atol=1e-4
                )
                whole += t.drawn_by(version)
                begun += not t.drawn_by(version)
                if t.drawn_by(version):
                    np.testing.assert_array_equal(t.ids, alone[name].ids)
    shared.load(small.params())
    assert whole >= 10
    assert begun >= 2


def test_to_pause_changes_nothing(shared):
    """With the same weights in every version, each step is what a plain run of it is."""
    found = Streamed(shared, lambda _: small.params())
    shared.load(small.params())
    for step in range(STEPS):
        alone = run(shared, records(step), ROLLOUTS, seed=step)
        for name, t in found.trajectories(step).items():
            np.testing.assert_array_equal(t.ids, alone[name].ids)
            assert t.turns == alone[name].turns


def test_nothing_compiles_more(shared, streamed):
    assert shared.slots.programs.late == []


def test_an_archive_keeps_versions(streamed, tmp_path):
    archive = Archive(tmp_path)
    archive.append("part", streamed.groups[1])
    for before, after in zip(streamed.groups[1], archive.read("part")):
        for a, b in zip(before.trajectories, after.trajectories):
            assert a.versions == b.versions != ()


def test_a_step_that_cannot_be_shown_ends_and_others_go_on(shared):
    bad = [small.record(0, id=f"long{i}", question="why " * 500) for i in range(3)]
    stream = EpisodeStream(shared, rollouts=2)
    stream.add(bad, seed=0)
    stream.add([bad[0], small.record(1)], seed=1)
    before = len(shared.stats.skipped)
    assert list(stream.collect(0)) == []
    [group] = stream.collect(1)
    assert group.record.id == "r1"
    assert stream.idle
    assert len(shared.stats.skipped) - before == 4


def test_one_that_is_given_up_leaves_the_engine_free(shared, episodes):
    stream = EpisodeStream(shared, rollouts=4)
    stream.add([small.record(i) for i in range(4)], seed=0)
    stream.add([small.record(i) for i in range(4)], seed=1)
    list(stream.collect(0))
    assert not stream.idle
    with pytest.raises(AssertionError, match="a run at a time"):
        run(shared, [small.record(0)], 1)
    stream.close()
    found = run(shared, [small.record(0)], 4)
    np.testing.assert_array_equal(found["r0", 1].ids, episodes["r0", 1].ids)
