"""A run of three steps without an interruption, which other runs are held against."""

import time

import pytest

from lfpc_jax.data import layout
from support import small
from support.training_runs import TARGET, finished, start


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The model and the data that all runs share."""
    path = tmp_path_factory.mktemp("train")
    small.hf_folder(path / "hf")
    records = [small.record(i, targets=(TARGET,)) for i in range(6)]
    made = {"strategy": "answer", "image_tokens": 24, "weights": "another's"}
    layout.write(path / "set", records, about={"selected from": ["some"], "selection": made})
    return path


@pytest.fixture(scope="session")
def timed(folder):
    """Three steps without an interruption, and their seconds."""
    run, begun = folder / "whole", time.monotonic()
    finished(start(folder, run))
    return run, time.monotonic() - begun


@pytest.fixture(scope="session")
def whole(timed):
    return timed[0]
