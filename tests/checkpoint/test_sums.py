"""Checksums of weights: written with exports, compared when weights are read, and their lack said.

One flipped bit of a weight is a number like any other, so nothing but a checksum can notice it."""

import json
import shutil
import zlib

import jax
import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lfpc_jax.checkpoint import folder, huggingface, sums, tensorfile
from lfpc_jax.cli import convert
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config
from support import hf_folders

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of four shards, and the store that it was made of."""
    out = tmp_path_factory.mktemp("exported")
    source = hf_folders.write(out / "source", dtype=torch.float32)
    cfg = config.from_folder(source)
    opened = folder.open_folder(source, cfg)
    params = huggingface.load(opened, cfg)
    save = {"assets_from": source, "origin": opened.origin, "cfg": cfg}
    huggingface.save(params, out / "hf", shard_bytes=200_000, **save)
    assert convert.main(["to-orbax", str(out / "hf"), str(out / "store")]) == 0
    return out


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def flip(file, place, bit=2):
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


def only_error(capsys):
    printed, errors = capsys.readouterr()
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.splitlines()[-1] == line
    assert "Traceback" not in printed + errors
    return line


def test_an_export_opens_in_transformers_and_its_sums_are_those_of_its_files(exported):
    hf = exported / "hf"
    model, told = Qwen2_5_VLForConditionalGeneration.from_pretrained(hf, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(weight.numel() for weight in model.state_dict().values()) > 0
    written = json.loads((hf / "sums.json").read_text())
    files = sorted(path.name for path in hf.glob("*.safetensors"))
    assert sorted(written["files"]) == files
    assert len(files) > 2
    for name in files:
        data = (hf / name).read_bytes()
        assert written["files"][name] == {"bytes": len(data), "crc32": [zlib.crc32(data)]}


@pytest.mark.parametrize("where", [0.3, 0.6, 0.999])
def test_one_flipped_bit_in_an_export_is_one_line_that_names_the_file(copy, capsys, where):
    file = sorted((copy / "hf").glob("*.safetensors"))[1]
    flip(file, int(where * file.stat().st_size))
    assert convert.main(["to-orbax", str(copy / "hf"), str(copy / "again")]) == 1
    line = only_error(capsys)
    assert line.startswith(f"error: {file}: is corrupt: bytes 0 to ")
    assert f"remove {copy / 'hf' / 'sums.json'}" in line
    assert not (copy / "again").exists()


def test_one_flipped_bit_in_a_store_is_one_line_that_names_the_file(copy, capsys):
    file = max((copy / "store" / "params").rglob("*"), key=lambda path: path.stat().st_size)
    flip(file, file.stat().st_size // 2)
    assert convert.main(["to-hf", str(copy / "store"), str(copy / "again")]) == 1
    assert only_error(capsys).startswith(f"error: {file}: is corrupt (its CRC-32 is ")
    assert not (copy / "again").exists()


def test_a_folder_without_sums_is_loaded_and_said_to_have_none(copy, capsys):
    sound = convert.main(["to-orbax", str(copy / "hf"), str(copy / "one")])
    assert (sound, "sums.json" in capsys.readouterr().err) == (0, False)
    (copy / "hf" / "sums.json").unlink()
    for words in (["to-orbax", copy / "hf", copy / "two"], ["check", copy / "hf", "--prompts", 1]):
        assert convert.main(list(map(str, words))) == 0
        [line] = [line for line in capsys.readouterr().err.splitlines() if "sums.json" in line]
        assert line.startswith(f"note: {copy / 'hf'} has no sums.json"), words


def test_sums_go_with_the_weights_and_not_with_the_other_files(exported):
    """A store has its own, and an export's are those of its own files."""
    assert not list((exported / "store").rglob("sums.json"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw.pop("files"), "`files` is None, expected an object"),
        (lambda raw: raw.update(format=2), "`format` is 2"),
        (lambda raw: raw.update(block_bytes=0), "`block_bytes` is 0"),
        (lambda raw: raw["files"].clear(), "is not in sums.json"),
        (lambda raw: next(iter(raw["files"].values())).update(bytes=8), "bytes, 8 were written"),
        (lambda raw: next(iter(raw["files"].values())).update(crc32=[]), "crc32` is 0, expected"),
        (lambda raw: next(iter(raw["files"].values())).update(crc32=["a"]), "crc32` is 'a'"),
    ],
)
def test_damaged_sums_are_one_line(copy, capsys, damage, message):
    file = copy / "hf" / "sums.json"
    raw = json.loads(file.read_text())
    damage(raw)
    file.write_text(json.dumps(raw))
    assert convert.main(["to-orbax", str(copy / "hf"), str(copy / "again")]) == 1
    line = only_error(capsys)
    assert message in line
    assert str(copy / "hf") in line


def test_blocks_are_each_checked_once_whatever_is_read_in_which_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "_BLOCK", 64)
    values = np.arange(500, dtype=np.float32).reshape(100, 5)
    plan = {"a": tensorfile.Planned(values.dtype, values.shape)}
    path = tmp_path / "x.safetensors"
    written = tensorfile.write_file(path, plan, [values])
    assert written == sums.FileSums.of(path)
    assert written.crcs[3] == zlib.crc32(path.read_bytes()[192:256])
    file = tensorfile.open_file(path, {path.name: written})
    rng, checked = np.random.default_rng(0), []
    monkeypatch.setattr(sums.zlib, "crc32", lambda data: checked.append(1) or zlib_crc32(data))
    for start, stop in rng.integers(0, 101, (200, 2)):
        low, high = sorted((int(start), int(stop)))
        np.testing.assert_array_equal(file.read("a", low, high), values[low:high])
    assert len(checked) <= len(written.crcs)
    flip(path, 2000)
    fresh = tensorfile.open_file(path, {path.name: written})
    row = (2000 - fresh.entries["a"].start) // 20
    np.testing.assert_array_equal(fresh.read("a", 0, row - 4), values[: row - 4])
    with pytest.raises(ValueError, match="is corrupt: bytes 1984 to 2048"):
        fresh.read("a", row, row + 1)


zlib_crc32 = zlib.crc32


def test_a_mesh_loads_the_same_and_notices_the_same(copy):
    cfg = config.from_folder(copy / "hf")
    mesh = make_mesh(2, 2, 2)
    one, many = (
        huggingface.load(folder.open_folder(copy / "hf", cfg), cfg, mesh=each)
        for each in (None, mesh)
    )
    jax.tree.map(np.testing.assert_array_equal, one, many)
    file = sorted((copy / "hf").glob("*.safetensors"))[0]
    flip(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=f"{file}: is corrupt"):
        huggingface.load(folder.open_folder(copy / "hf", cfg), cfg, mesh=mesh)
