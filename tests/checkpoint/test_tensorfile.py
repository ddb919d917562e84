"""The safetensors format, held against the safetensors package in both directions."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lfpc_jax.checkpoint import tensorfile
from lfpc_jax.checkpoint.tensorfile import Planned

BITS = np.arange(2**16, dtype=np.uint16)


def every_bfloat16() -> np.ndarray:
    """NaNs with every payload, infinities, denormals and both zeros among them."""
    return BITS.view(ml_dtypes.bfloat16).reshape(256, 256)


def write(path, tensors):
    plan = {key: Planned(t.dtype, t.shape) for key, t in tensors.items()}
    tensorfile.write_file(path, plan, iter(tensors.values()))


def test_the_package_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    single = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(path, {"wide": single, "scalar": np.float32(7).reshape(()), "all": every_bfloat16()})
    found = load_file(path)
    assert torch.equal(found["wide"], torch.tensor(single))
    assert found["scalar"].shape == ()
    assert found["scalar"].item() == 7
    assert np.array_equal(found["all"].view(torch.uint16).numpy(), BITS.reshape(256, 256))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_the_package_writes_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    halves = torch.arange(24, dtype=torch.float16).reshape(4, 3, 2)
    save_file({"all": torch.tensor(BITS).view(torch.bfloat16), "halves": halves}, path)
    file = tensorfile.open_file(path)
    assert np.array_equal(file.read("all").view(np.uint16), BITS)
    assert np.array_equal(file.read("halves"), halves.numpy())
    assert np.array_equal(file.read("halves", 1, 3), halves[1:3].numpy())
    assert file.read("halves", 2, 2).shape == (0, 3, 2)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def tensors():
        yield np.zeros(3, np.float32)
        raise KeyboardInterrupt

    plan = {key: Planned(np.dtype(np.float32), (3,)) for key in "ab"}
    with pytest.raises(KeyboardInterrupt):
        tensorfile.write_file(tmp_path / "x.safetensors", plan, tensors())
    assert list(tmp_path.iterdir()) == []


def test_narrow_before_wide_is_refused(tmp_path):
    """A bfloat16 of odd length first would leave the float32 behind it misaligned."""
    with pytest.raises(AssertionError, match="narrower"):
        write(tmp_path / "x", {"a": every_bfloat16()[0, :3], "b": np.zeros(2, np.float32)})


def raw(path, header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start, stop, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        ({"a": entry(0, 8)}, "8 bytes follow the last tensor.*'a'"),
        ({"a": entry(0, 8), "b": entry(8, 32, shape=(6,))}, "truncated: key 'b' ends"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, "'b' .*overlaps key 'a'"),
        ({"a": entry(0, 8), "b": entry(12, 16, shape=(1,))}, "'b' .*leaves a gap after key 'a'"),
        ({"a": entry(0, 16)}, r"'a' of F32 \[2\] needs 8 bytes"),
        ({"a": entry(0, 16, dtype="Q7")}, "'a' has the unknown dtype 'Q7'"),
        ({"a": entry(8, 0)}, "'a' has the entry"),
        ({"a": entry(0, 16, shape=(-4,))}, "'a' has the entry"),
        ({"a": entry(0, 16, shape=(True, 4))}, "'a' has the entry"),
        ({"a": 5}, "'a' has the entry 5"),
    ],
)
def test_a_malformed_header_is_refused(tmp_path, header, message):
    path = raw(tmp_path / "bad.safetensors", header)
    with pytest.raises(ValueError, match=rf"bad\.safetensors: .*{message}"):
        tensorfile.open_file(path)


@pytest.mark.parametrize("kept", [0, 5, 40])
def test_a_truncated_header_is_refused(tmp_path, kept):
    path = raw(tmp_path / "bad.safetensors", {"a": entry(0, 16, shape=(4,))})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"bad\.safetensors: (truncated|is not a safetensors)"):
        tensorfile.open_file(path)


def test_a_git_lfs_pointer_is_refused(tmp_path):
    """Cloned without git-lfs, a shard is a small text; its first bytes make an absurd length."""
    path = tmp_path / "bad.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(ValueError, match=r"bad\.safetensors: is not a safetensors file"):
        tensorfile.open_file(path)


def test_quantised_weights_are_refused_when_read(tmp_path):
    file = tensorfile.open_file(raw(tmp_path / "q", {"a": entry(0, 16, "I8", (16,))}))
    with pytest.raises(ValueError, match="q: key 'a' has dtype I8"):
        file.read("a")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = raw(tmp_path / "x", {"a": entry(0, 16, shape=(4,))})
    file = tensorfile.open_file(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="key 'a': the file ended 1 bytes early"):
        file.read("a")
