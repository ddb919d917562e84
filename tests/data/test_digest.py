"""What a set is, in one line: whatever training depends on changes it, and nothing else does."""

import shutil
from dataclasses import replace

import pytest

from lfpc_jax.data import layout
from lfpc_jax.data.digest import digest
from lfpc_jax.trajectory import Picture
from support.pictured import jpeg, record

BOX = ((1.0, 2.0, 30.0, 40.0),)


@pytest.mark.parametrize(
    "change",
    [
        {"question": "What was it?"},
        {"answer": "b"},
        {"options": ("x", "y")},
        {"targets": (BOX,)},
        {"longest_side": 224},
        {"picture": Picture(data=jpeg(seed=1))},
        {"picture": Picture()},
        {"category": "other"},
        {"references": ("b",)},
        {"metric": "anls"},
        {"id": "r9"},
    ],
)
def test_every_field_counts(change):
    records = [record("r0"), record("r1")]
    assert digest([records[0], replace(records[1], **change)]) != digest(records)


def test_order_and_number_count():
    records = [record("r0"), record("r1")]
    assert len({digest(some) for some in (records, records[::-1], records[:1], [])}) == 4


def test_a_file_counts_by_its_name_and_length_wherever_it_lies(tmp_path):
    layout.write(tmp_path / "set", [record(f"r{i}") for i in range(3)])
    before = digest(layout.read(tmp_path / "set"))
    shutil.move(tmp_path / "set", tmp_path / "moved")
    assert digest(layout.read(tmp_path / "moved")) == before
    [picture, *_] = sorted((tmp_path / "moved").rglob("*.jpg"))
    picture.write_bytes(jpeg(seed=7) + b"\0")
    assert digest(layout.read(tmp_path / "moved")) != before
