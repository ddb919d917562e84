"""Values between processes are whose they say, or the run ends."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from lfpc_jax.distributed import exchange


@pytest.fixture
def two(monkeypatch):
    """Process 1 of two, of which the other brings the same; `order` is that of what comes back."""

    def are_two(order):
        def gather(own):
            theirs = own.copy()
            if own.dtype == np.uint8 and own[:1] == ord("["):
                theirs[1] = ord("0")
            else:
                theirs.view(np.int64)[0] = 0
            return np.stack([(theirs, own)[i] for i in order])

        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        monkeypatch.setattr(multihost_utils, "process_allgather", gather)

    return are_two


def test_what_everyone_brought_comes_back(two):
    two((0, 1))
    assert exchange.everyones({"a": [1, None]}) == [{"a": [1, None]}] * 2
    assert exchange.total([3, 2**40]) == [6, 2**41]
    assert exchange.largest([7]) == [7]
    assert exchange.total([]) == []


@pytest.mark.parametrize("order", [(1, 0), (1, 1)])
def test_another_order_of_processes_is_refused(two, order):
    """As where devices are not listed process by process: a gather of JAX then mixes rows."""
    two(order)
    for call in (exchange.everyones, exchange.total, exchange.largest):
        with pytest.raises(ValueError, match=rf"came back in the order \[{order[0]}, {order[1]}\]"):
            call([1])
