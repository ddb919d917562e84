"""A step of which many prompts could not be shown: when it stops the run, and what it says."""

import pytest

from lfpc_jax.rollout.engine import Engine, Stats
from lfpc_jax.run.config import Health, RolloutSettings, TrainConfig
from lfpc_jax.run.episodes import skipped_share
from lfpc_jax.trajectory import Group
from support import small


class Refusing(Engine):
    """Has refused prompts of up to `longest` text tokens."""

    def __init__(self, longest):
        self.stats = Stats(1, longest_refused=longest)
        self.stats.skipped.append(("r7", "it is too long"))


def after(shown, *, most=0.5, longest=1300, **rollout):
    config = TrainConfig(health=Health(most_skipped=most), rollout=RolloutSettings(**rollout))
    record = small.record(0)
    openings, groups = [small.dialogue().open(record)] * 8, [Group(record, ())] * shown
    return skipped_share(3, openings, groups, Refusing(longest), config)


@pytest.mark.parametrize(
    ("shown", "most", "stops"),
    [(8, 0.0, False), (7, 0.0, True), (4, 0.5, False), (3, 0.5, True), (1, 1.0, False)],
)
def test_a_step_without_most_of_its_prompts_stops_the_run(shown, most, stops):
    """81 % of a step was left out, and the run ended with exit code 0."""
    share, why = after(shown, most=most)
    assert share == 1 - shown / 8
    assert bool(why) == stops
    if stops:
        assert f"{8 - shown} of the 8 prompts of step 3 could not be shown" in why
        assert f"health.most_skipped {most:g}; the last, r7: it is too long" in why
        assert "fit with --rollout.prompt_text 512,1024,1344. The step" in why


def test_a_capacity_that_would_be_too_small_is_named_as_well():
    _, why = after(1, capacity=2048, image_tokens=1024)
    assert "--rollout.prompt_text 512,1024,1344 --rollout.capacity 2368" in why


def test_a_step_without_any_prompt_ends_the_run_with_the_setting_that_would_do():
    with pytest.raises(ValueError, match=r"none of 8 prompts.*--rollout.prompt_text 512,1024,1344"):
        after(0, most=1.0)


def test_other_causes_have_no_remedy_in_the_settings():
    _, why = after(1, longest=0)
    assert "prompt_text" not in why
