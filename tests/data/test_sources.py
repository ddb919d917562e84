"""Sets named by one text."""

import json

import PIL.Image
import pytest

from lfpc_jax.data import layout, sources
from lfpc_jax.trajectory import Picture, Record


@pytest.fixture
def picture(tmp_path):
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_layout_by_its_folder_or_by_name(tmp_path, picture):
    record = Record("one", "What?", "this", Picture(path=str(picture)))
    layout.write(tmp_path / "set", [record])
    for name in (str(tmp_path / "set"), f"layout:{tmp_path / 'set'}"):
        assert [one.id for one in sources.read(name)] == ["one"]


def test_public_sets_by_their_reader(tmp_path, picture):
    row = {"problem": "<image>What?", "solution": "this", "images": ["a.png"], "data_source": "x"}
    (tmp_path / "probe.json").write_text(json.dumps([row]))
    [record] = sources.read(f"visual_probe:{tmp_path / 'probe.json'}")
    assert (record.question, record.answer) == ("What?", "this")
    talk = [{"role": "user", "content": "<image>Where?"},
            {"role": "assistant", "content": "<answer>there</answer>"}]  # fmt: skip
    (tmp_path / "focus.json").write_text(json.dumps([{"messages": talk, "images": ["a.png"]}]))
    [record] = sources.read(f"chain_of_focus:{tmp_path / 'focus.json'}:{tmp_path}")
    assert (record.question, record.answer) == ("Where?", "there")
    assert record.picture.path == str(picture)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("deep_eyes:nowhere", "nowhere does not exist"),
        ("deepeyes:nowhere", "unknown reader 'deepeyes'; known are"),
        ("chain_of_focus:file.json", "needs 2 paths with a colon between them"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(source, message):
    with pytest.raises(ValueError, match=message):
        sources.read(source)
