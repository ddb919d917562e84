"""The watch over crops: what is outside a limit, and when that is an alarm."""

import pytest

from lfpc_jax.cli.health import Watch
from lfpc_jax.config import Health

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
    assert Watch(LIMITS)(1, values) == fault


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
    watch, found = Watch(limits), ""
    for step, fault in enumerate(faults, 1):
        found += "x" if watch(step, NO_CROPS if fault == "x" else SOUND) else "."
    assert found == alarms


def test_the_count_goes_on_where_it_is_put():
    watch = Watch(Health(patience=5, from_step=1))
    watch.count = 4
    assert watch(9, NO_CROPS)
