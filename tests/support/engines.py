"""Engines of the small model, what they roll out, and when it is the same."""

import numpy as np

from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.programs import Programs
from support import small

RULES = Rules(episode_tokens=80)
_PROGRAMS: dict[tuple, Programs] = {}


def engine(
    shapes=small.SHAPES,
    rules=RULES,
    *,
    dialogue=None,
    params=None,
    unstacked=False,
    fresh=False,
    **options,
) -> Engine:
    """Layers stacked, unless said otherwise: that compiles in half the time. Engines of the same
    shapes have the same programs, unless `fresh`, as for a test of what is compiled."""
    dialogue = dialogue or small.dialogue()
    made = Engine(small.config(), dialogue, shapes, rules, unstacked=unstacked, **options)
    if not fresh:
        own = made.slots.programs
        how = unstacked, options.get("copies"), options.get("mesh"), own.in_place, own.reaches
        made.slots.programs = _PROGRAMS.setdefault((made.shapes, *how), own)
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
