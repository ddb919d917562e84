import pytest


@pytest.fixture
def reaped():
    """Processes of a test, which none outlives."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.wait()
