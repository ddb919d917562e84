"""A stand-in cloud for each test."""

import os
import signal

import pytest

from support.cloud import SETTINGS, Cloud, alive


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    for pid in made.pids():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def two(cloud):
    cloud.settings.write_text(SETTINGS.replace("SLICES=1", "SLICES=2"))
    return cloud
