"""A run's metrics where they are written: TensorBoard's own file and Weights & Biases."""

import shutil
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
        for value in event.summary.value:
            said = b"".join(value.tensor.string_val).decode()
            found[value.tag, event.step] = said or value.simple_value
        data = data[16 + length :]
    return found


def test_tensorboard_has_what_was_written(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    writer.write(3, "train", {"reward/total": 1.5})
    writer.write(4, "validation", {"reward/total": 0.25})
    writer.close()
    found = scalars(tmp_path / "run" / "tensorboard")
    link = found.pop(("report/text_summary", 0))
    assert found == {("train/reward/total", 3): 1.5, ("validation/reward/total", 4): 0.25}
    page = tmp_path / "run" / "report.html"
    assert f"]({page.as_uri()})" in link
    assert f"`lfpc report {tmp_path / 'run'} --watch`" in link


@pytest.fixture
def told(monkeypatch):
    """What W&B is told."""
    found = []
    session = SimpleNamespace(
        log=lambda values, step: found.append((step, values)),
        finish=lambda: found.append("end"),
        save=lambda file, base_path, policy: found.append((file, base_path, policy)),
        summary={},
    )
    fake = SimpleNamespace(init=lambda **settings: found.append(settings) or session)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return found


def test_wandb_is_told_under_the_run_s_own_name(tmp_path, told):
    check_wandb("lfpc")
    writer = MetricsWriter(tmp_path / "run", wandb_project="lfpc", config={"steps": 4})
    writer.write(3, "train", {"reward/total": 1.5})
    writer.close()
    began, *rest = told
    drawn = began.pop("id")
    assert drawn == (tmp_path / "run" / "wandb_id").read_text().strip()
    assert began == {
        "project": "lfpc", "name": "run", "resume": "allow", "config": {"steps": 4},
    }  # fmt: skip
    assert rest == [(3, {"train/reward/total": 1.5}), "end"]


def test_wandb_is_told_where_the_report_is_and_gets_it_at_the_end(tmp_path, told):
    writer = MetricsWriter(tmp_path / "run", wandb_project="lfpc")
    page = tmp_path / "run" / "report.html"
    assert sys.modules["wandb"].init().summary == {"report": page.as_uri()}
    told.pop()
    page.write_text("<html>")
    writer.close()
    assert told[1:] == [(str(page), str(page.parent), "now"), "end"]


def test_a_run_goes_on_in_its_own_wandb_run_and_no_other_folder_of_its_name_does(tmp_path, told):
    def begun(folder):
        writer = MetricsWriter(folder, wandb_project="lfpc")
        writer.write(1, "train", {"reward/total": 1.0})
        writer.close()
        return [one["id"] for one in told if isinstance(one, dict)][-1]

    first = begun(tmp_path / "a" / "stage1")
    assert begun(tmp_path / "b" / "stage1") != first
    assert begun(tmp_path / "a" / "stage1") == first
    shutil.rmtree(tmp_path / "a" / "stage1")  # and made anew
    assert begun(tmp_path / "a" / "stage1") != first


def test_a_run_of_before_that_goes_on_at_wandb_says_where_its_start_is(tmp_path, told, caplog):
    with caplog.at_level("WARNING"):
        MetricsWriter(tmp_path / "new", wandb_project="lfpc").close()
    assert not caplog.text
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n')
    with caplog.at_level("WARNING"):
        MetricsWriter(tmp_path / "old", wandb_project="lfpc").close()
    assert "under the id old" in caplog.text
    (tmp_path / "old" / "wandb_id").write_text("")
    with pytest.raises(ValueError, match="wandb_id: is empty"):
        MetricsWriter(tmp_path / "old", wandb_project="lfpc")


def test_wandb_that_is_not_installed_is_refused_if_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"'lfpc', but .* not installed; pip install wandb"):
        check_wandb("lfpc")
    check_wandb("")
