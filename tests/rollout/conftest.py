"""An engine and its episodes, for the tests of the engine."""

import pytest

from lfpc_jax.rollout.engine import Engine
from support import small
from support.engines import engine, run


@pytest.fixture(scope="session")
def shared() -> Engine:
    """One engine, warmed up, for tests that need no other settings. Most others have one bucket of
    rows and spans, where it has all: these change nothing in an episode."""
    made = engine(small.BUCKETS, fresh=True)
    made.warm_up()
    return made


@pytest.fixture(scope="session")
def episodes(shared):
    return run(shared, [small.record(i) for i in range(12)], 4)
