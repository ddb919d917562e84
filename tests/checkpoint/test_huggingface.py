"""Folders into sharded arrays and back, against a reading of transformers' own state dict."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.checkpoint import folder, huggingface
from lfpc_jax.checkpoint.tensorfile import TensorFile
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, spec
from support import hf_folders

pytestmark = pytest.mark.compiles

MESHES = {"one device": None, "2x2x2": (2, 2, 2), "fsdp": (1, 8, 1), "tensor": (1, 1, 8)}


def mesh_of(sides):
    return sides and make_mesh(*sides)


def opened(path):
    cfg = config.from_folder(path)
    return folder.open_folder(path, cfg), cfg


def expected(path, cfg):
    """The tree as the spec says, from tensors that the safetensors package has read."""
    tensors = {k: t.float().numpy() for k, t in hf_folders.tensors(path).items()}

    def leaf(param):
        layers = [param.from_hf(tensors[name]) for name in param.hf_names]
        return np.stack(layers) if param.stack else layers[0]

    return jax.tree.map(leaf, spec.spec_tree(cfg), is_leaf=spec.is_param)


def assert_trees_equal(found, wanted):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a, np.float32), b), found, wanted
    )


@pytest.mark.parametrize("mesh", MESHES)
def test_every_device_gets_its_part(kept, mesh):
    hf, cfg = opened(kept(sharded=True))
    mesh = mesh_of(MESHES[mesh])
    params = huggingface.load(hf, cfg, mesh=mesh)
    assert_trees_equal(params, expected(hf.path, cfg))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    if mesh:
        found = jax.tree.map(lambda leaf: leaf.sharding, params)
        assert found == spec.shardings(cfg, mesh)
        down = params["text"]["down"]["w"]
        assert down.addressable_data(0).size == down.size // (
            mesh.shape["fsdp"] * mesh.shape["tensor"]
        )


@pytest.mark.parametrize("mesh", MESHES)
def test_nothing_is_read_twice(kept, mesh, monkeypatch):
    hf, cfg = opened(kept(sharded=True))
    read = []
    original = TensorFile.read

    def counting(self, key, start=0, stop=None):
        tensor = original(self, key, start, stop)
        read.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(TensorFile, "read", counting)
    told = []
    huggingface.load(hf, cfg, mesh=mesh_of(MESHES[mesh]), advance=told.append)
    assert sum(read) == sum(told) == hf.nbytes


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_that_is_asked_for(kept, source, dtype):
    hf, cfg = opened(kept(dtype=source))
    params = huggingface.load(hf, cfg, dtype=dtype)
    wanted = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), expected(hf.path, cfg))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    assert_trees_equal(params, wanted)


def test_a_dtype_for_each_parameter_is_kept(tmp_path):
    """Norms in float32 amid bfloat16: each parameter keeps what it has, and so does an export."""
    hf = hf_folders.write(tmp_path / "hf")
    widen = lambda t: {k: x.float() if "norm" in k else x for k, x in t.items()}  # noqa: E731
    hf_folders.edit(hf / hf_folders.SINGLE, widen)
    source, cfg = opened(hf)
    assert source.origin.dtypes == ("bfloat16", "float32")
    params = huggingface.load(source, cfg)
    assert params["text"]["norm1"].dtype == jnp.float32
    huggingface.save(params, tmp_path / "out", cfg=cfg, assets_from=hf, origin=source.origin)
    hf_folders.assert_same_bytes(hf, tmp_path / "out")
    assert (hf / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()


def export(path, out, **options):
    source, cfg = opened(path)
    params = huggingface.load(source, cfg, mesh=make_mesh(2, 2, 2))
    huggingface.save(params, out, cfg=cfg, assets_from=path, origin=source.origin, **options)
    return params


def test_every_bit_of_every_number_survives(tmp_path):
    """XLA on a CPU moves bfloat16 through float32 and quiets its signalling NaNs."""
    hf = hf_folders.write(tmp_path / "hf")
    from_nan_on = (torch.arange(2**16) + 0x7F81) % 2**16
    bits = from_nan_on.to(torch.uint16).view(torch.bfloat16)

    def scatter(tensors):
        return {
            key: bits.repeat(-(-x.numel() // len(bits)))[: x.numel()].reshape(x.shape).clone()
            for key, x in tensors.items()
        }

    hf_folders.edit(hf / hf_folders.SINGLE, scatter)
    export(hf, tmp_path / "out")
    hf_folders.assert_same_bytes(hf, tmp_path / "out")


def test_shards_and_their_index(kept, tmp_path):
    hf, out = kept(sharded=True), tmp_path / "out"
    told = []
    export(hf, out, shard_bytes=60_000, advance=told.append)
    hf_folders.assert_same_bytes(hf, out)
    index = json.loads((out / hf_folders.INDEX).read_text())
    tensors = hf_folders.tensors(out)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    assert index["metadata"]["total_size"] == sum(told) == total
    names = sorted(set(index["weight_map"].values()))
    assert names == sorted(p.name for p in out.glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert len(names) > 3
    for name in names:
        tensors = hf_folders.load_file(out / name)
        assert (
            sum(t.numel() * t.element_size() for t in tensors.values()) <= 60_000
            or len(tensors) == 1
        )
        assert all(index["weight_map"][key] == name for key in tensors)


def test_every_other_file_comes_along(tmp_path):
    hf, out = hf_folders.write(tmp_path / "hf", sharded=True), tmp_path / "out"
    files = [
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
        "video_preprocessor_config.json",
    ]
    for name in files:
        (hf / name).write_text(json.dumps({"file": name}))
    for name in ("pytorch_model.bin", ".gitattributes", "pytorch_model.bin.index.json"):
        (hf / name).write_text("no")
    (hf / "figures").mkdir()
    export(hf, out)
    assert {p.name for p in out.iterdir()} == {
        *files,
        "config.json",
        "generation_config.json",
        hf_folders.SINGLE,
        "sums.json",
    }
    assert all((out / name).read_bytes() == (hf / name).read_bytes() for name in files)


def test_a_cast_export_says_so_in_its_config(kept, tmp_path):
    hf = kept()
    export(hf, tmp_path / "same")
    export(hf, tmp_path / "cast", dtype=jnp.float32)
    assert (hf / "config.json").read_bytes() == (tmp_path / "same" / "config.json").read_bytes()
    assert json.loads((tmp_path / "cast" / "config.json").read_text())["dtype"] == "float32"
    source, cast = hf_folders.tensors(hf), hf_folders.tensors(tmp_path / "cast")
    assert all(torch.equal(cast[key], tensor.float()) for key, tensor in source.items())


@pytest.mark.parametrize("done", [0, 1, 20])
def test_an_interrupted_export_leaves_nothing(kept, tmp_path, done):
    calls = []

    def interrupt(_):
        if len(calls) == done:
            raise KeyboardInterrupt
        calls.append(1)

    with pytest.raises(KeyboardInterrupt):
        export(kept(), tmp_path / "out", shard_bytes=60_000, advance=interrupt)
    assert os.listdir(tmp_path) == []


def test_parameters_of_another_config_are_refused(kept, tmp_path):
    source, cfg = opened(kept())
    tied_cfg = config.from_folder(kept(tied=True))
    params = huggingface.load(source, cfg)
    save = {"assets_from": source.path, "origin": source.origin}
    with pytest.raises(ValueError, match="parameters: has the unknown key 'unembed'"):
        huggingface.save(params, tmp_path / "out", cfg=tied_cfg, **save)
    params["norm"] = params["norm"][:-1]
    with pytest.raises(ValueError, match=r"parameters: key 'norm' has shape \(63,\), .* \(64,\)"):
        huggingface.save(params, tmp_path / "out", cfg=cfg, **save)
    assert os.listdir(tmp_path) == []
