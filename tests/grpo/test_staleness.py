"""How old a step's tokens are, and which episodes are left out, by hand."""

from dataclasses import replace

import pytest

from lfpc_jax.grpo.staleness import mean_staleness, without_stale
from support import random_groups


def group(*versions):
    """A group whose episodes were drawn by these runs of (version, share of tokens)."""
    [made] = random_groups.groups(0, (len(versions),))
    trajectories = []
    for trajectory, runs in zip(made.trajectories, versions, strict=True):
        left = int(trajectory.sampled.sum())
        counts = [*runs[:-1], (runs[-1][0], left - sum(n for _, n in runs[:-1]))]
        trajectories.append(replace(trajectory, versions=tuple(counts)))
    return replace(made, trajectories=tuple(trajectories))


def test_the_mean_is_over_tokens():
    made = group([(7, 0)], [(5, 2), (7, 0)], [(4, 0), (7, 0)])
    tokens = sum(int(t.sampled.sum()) for t in made.trajectories)
    assert mean_staleness([made], 7) == pytest.approx(2 * 2 / tokens)
    assert mean_staleness([made], 9) == pytest.approx(2 + 4 / tokens)
    assert mean_staleness([], 7) == 0


def test_whole_episodes_are_left_out_and_their_group_is_kept():
    made = group([(7, 0)], [(5, 2), (7, 0)], [(4, 0), (7, 0)], [(3, 0)])
    kept, share = without_stale([made], 7, 2)
    assert [t.rollout for t in kept[0].trajectories] == [0, 1, 2], "a prompt has no token"
    assert len(kept[0].crops) == 3
    assert share == 0.25
    kept, share = without_stale([made], 7, 1)
    assert [t.rollout for t in kept[0].trajectories] == [0, 2]
    assert share == 0.5
    assert without_stale([made], 7, None) == ([made], 0)
    assert without_stale([made], 99, 1) == ([], 1)
