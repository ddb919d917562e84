"""Engines of the small model, what they roll out, and when it is the same."""

import numpy as np

from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from support import small

RULES = Rules(episode_tokens=80)


def engine(shapes=small.SHAPES, rules=RULES, *, params=None, unstacked=False, **options) -> Engine:
    """Layers stacked, unless said otherwise: that compiles in half the time."""
    made = Engine(small.config(), small.dialogue(), shapes, rules, unstacked=unstacked, **options)
    made.load(small.params() if params is None else params)
    return made


def run(made, records, rollouts, seed=0, **options):
    """Every trajectory by record and rollout."""
    groups = made.run(records, rollouts=rollouts, seed=seed, **options)
    return {(t.record, t.rollout): t for group in groups for t in group.trajectories}


def same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, trajectory in found.items():
        np.testing.assert_array_equal(trajectory.ids, wanted[name].ids, str(name))
        assert trajectory.end == wanted[name].end
        assert trajectory.turns == wanted[name].turns
        np.testing.assert_allclose(trajectory.logprobs, wanted[name].logprobs, atol=1e-4)
