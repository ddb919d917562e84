"""When rows that could decode wait for replies to others."""

import time

import pytest

from lfpc_jax.rollout.patience import Patience, timed


def patience(reply: float, chunk: float, workers: int = 2) -> Patience:
    learned = Patience(workers)
    learned.replied(reply)
    learned.decoded(chunk)
    return learned


@pytest.mark.parametrize(
    ("live", "awaited", "waits"),
    [
        (1, 1, 0.01),  # a reply in 10 ms costs less than a chunk of 100
        (15, 1, 0),  # 15 rows would lose 150 ms for the 90 that one saves
        (4, 12, 0.06),  # two workers prepare 12 in six turns
        (9, 12, 0),  # 9 rows would lose 540 ms for the 480 that 12 save
        (0, 4, 0),  # nothing to weigh: the scheduler waits in any case
        (4, 0, 0),
    ],
)
def test_the_fewer_rows_lose_less(live, awaited, waits):
    assert patience(0.01, 0.1).seconds(live, awaited) == pytest.approx(waits)


def test_replies_that_take_longer_than_a_chunk_are_not_waited_for():
    assert patience(0.2, 0.1).seconds(1, 15) == 0


def test_nobody_waits_before_both_times_are_known():
    learned = Patience(2)
    assert learned.seconds(1, 1) == 0
    learned.replied(0.01)
    assert learned.seconds(1, 1) == 0
    learned.decoded(1.0)
    assert learned.seconds(1, 1) == pytest.approx(0.01)


def test_it_unlearns():
    """So one slow reply, or a chunk that waited for something else, is soon forgotten."""
    learned = patience(5.0, 0.1)
    assert learned.seconds(1, 1) == 0
    for _ in range(30):
        learned.replied(0.01)
    assert 0 < learned.seconds(1, 1) < 0.05


def test_a_function_is_timed():
    seconds, result = timed(lambda x: (time.sleep(0.02), x)[1], 3)
    assert result == 3
    assert seconds >= 0.02
