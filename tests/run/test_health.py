"""The watch over crops: what is outside a limit, and when that is an alarm."""

import pytest

from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.run.config import Health
from lfpc_jax.run.health import CropAlarm, too_many_masked
from lfpc_jax.run.reporting import summary
from lfpc_jax.run.validation import certain_accuracy

LIMITS = Health(least_tool_rate=0.1, most_invalid=0.5, most_area=0.8, patience=1, from_step=1)
SOUND = {"crop/rate": 0.1, "crop/invalid": 0.5, "crop/area_ratio": 0.8}
NO_CROPS = SOUND | {"crop/rate": 0.0}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({}, ""),
        (SOUND, ""),
        (SOUND | {"crop/rate": 0.09}, "only 9.0% of the episodes have a crop"),
        (SOUND | {"crop/invalid": 0.51}, "51.0% of the calls are refused"),
        (SOUND | {"crop/area_ratio": 0.81}, "crops cover 81.0% of their images"),
        ({"crop/rate": 0.0}, "only 0.0% of the episodes have a crop"),
    ],
)
def test_limits(values, fault):
    assert CropAlarm(LIMITS)(1, values) == fault


@pytest.mark.parametrize(
    ("patience", "from_step", "faults", "alarms"),
    [
        (1, 1, "xxx", "xxx"),
        (3, 1, "xxxx", "..xx"),
        (2, 1, "xx.xx", ".x..x"),
        (2, 3, "xxxxx", "...xx"),
        (1, 4, "xxx.x", "....x"),
    ],
)
def test_an_alarm_needs_so_many_in_a_row_from_a_step_on(patience, from_step, faults, alarms):
    limits = Health(least_tool_rate=0.1, patience=patience, from_step=from_step)
    watch, found = CropAlarm(limits), ""
    for step, fault in enumerate(faults, 1):
        found += "x" if watch(step, NO_CROPS if fault == "x" else SOUND) else "."
    assert found == alarms


def test_the_count_goes_on_where_it_is_put():
    watch = CropAlarm(Health(patience=5, from_step=1))
    watch.count = 4
    assert watch(9, NO_CROPS)


FAULTS = (
    Fault("judge", "http://h/v1, model m: HTTP 401", "HTTP 401"),
    Fault("judge", "http://h/v1, model m: no reply", "no reply"),
    Fault("mine", "record 'a', rollout 0: KeyError: 'box'", "KeyError"),
)


@pytest.mark.parametrize(
    ("masked", "most", "stops"),
    [(0.0, 0.5, False), (0.5, 0.5, False), (0.51, 0.5, True), (1.0, 0.99, True), (1.0, 1.0, False),
     (0.1, 0.0, True), (0.0, 0.0, False)],
)  # fmt: skip
def test_a_step_without_most_of_its_rewards_stops_the_run(masked, most, stops):
    values = {"reward/masked": masked, "masked/judge": masked, "masked/mine": 0.25}
    said = too_many_masked(7, values, Health(most_masked=most), FAULTS)
    assert bool(said) == stops
    if said:
        assert f"{masked:.1%} of the episodes of step 7 have no reward" in said
        assert f"health.most_masked {most}" in said
        assert f"judge {masked:.1%} (http://h/v1, model m: HTTP 401; http://h/v1" in said
        assert "mine 25.0% (record 'a', rollout 0: KeyError: 'box')" in said
        assert "rerun the same command to resume" in said


def test_a_step_of_demonstrations_has_no_rewards_to_mask():
    assert too_many_masked(1, {}, Health(), ()) == ""


def test_the_steps_line_says_how_much_of_its_accuracy_is_unknown():
    values = {"reward/total": 1.5, "reward/accuracy": 1.0, "reward/masked": 0.84}
    assert summary(values) == "reward 1.500 acc 1.000 masked 0.840"
    assert summary({"reward/masked": 1.0}) == "masked 1.000"


def test_a_checkpoint_is_not_the_best_because_a_judge_failed():
    """All of the half that was judged is right: no better than half of all."""
    assert certain_accuracy({"validation/accuracy": 1.0, "validation/masked": 0.5}) == 0.5
    assert certain_accuracy({"validation/accuracy": 0.7, "validation/masked": 0.0}) == 0.7
