"""A run's metrics where they are written: TensorBoard's own file and Weights & Biases."""

import struct
import sys
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from lfpc_jax.report.writer import MetricsWriter, check_wandb


def scalars(folder):
    """Of the one file there, which holds length, checksum, event and checksum in turn."""
    [file] = folder.iterdir()
    data, found = file.read_bytes(), {}
    while data:
        [length] = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    return found


def test_tensorboard_has_what_was_written(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    writer.write(3, "train", {"reward/total": 1.5})
    writer.write(4, "validation", {"reward/total": 0.25})
    writer.close()
    assert scalars(tmp_path / "run" / "tensorboard") == {
        ("train/reward/total", 3): 1.5,
        ("validation/reward/total", 4): 0.25,
    }


def test_wandb_is_told_under_the_run_s_own_name(tmp_path, monkeypatch):
    """The name is the id as well, so a run that goes on goes on there."""
    told = []
    session = SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda: told.append("end")
    )
    fake = SimpleNamespace(init=lambda **settings: told.append(settings) or session)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    check_wandb("lfpc")
    writer = MetricsWriter(tmp_path / "run", wandb_project="lfpc", config={"steps": 4})
    writer.write(3, "train", {"reward/total": 1.5})
    writer.close()
    began, *rest = told
    assert began == {
        "project": "lfpc", "name": "run", "id": "run", "resume": "allow", "config": {"steps": 4},
    }  # fmt: skip
    assert rest == [(3, {"train/reward/total": 1.5}), "end"]


def test_wandb_that_is_not_installed_is_refused_if_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"'lfpc', but .* not installed; pip install wandb"):
        check_wandb("lfpc")
    check_wandb("")
