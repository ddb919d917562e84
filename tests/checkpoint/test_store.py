"""Orbax folders: any mesh in, any mesh out, and nothing wrong is believed."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lfpc_jax.checkpoint import folder, huggingface, manifest, store
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, spec

pytestmark = pytest.mark.compiles

MESHES = {"one device": None, "2x2x2": (2, 2, 2), "fsdp": (1, 8, 1), "tensor": (1, 1, 8)}


def save(path, out, sides=(2, 2, 2)):
    cfg = config.from_folder(path)
    source = folder.open_folder(path, cfg)
    params = huggingface.load(source, cfg, mesh=sides and make_mesh(*sides))
    store.save(params, out, assets_from=path, origin=source.origin)
    return params, cfg


def bits(tree):
    return jax.tree.map(lambda x: np.asarray(x).view(np.uint16), tree)


@pytest.mark.long
@pytest.mark.parametrize("saved", MESHES)
def test_saved_under_one_mesh_restored_under_any(kept, tmp_path, saved):
    params, cfg = save(kept(), tmp_path / "out", MESHES[saved])
    opened = store.open_store(tmp_path / "out")
    for sides in MESHES.values():
        mesh = sides and make_mesh(*sides)
        restored = store.restore(opened, cfg, mesh=mesh)
        jax.tree.map(np.testing.assert_array_equal, bits(restored), bits(params))
        if mesh:
            found = jax.tree.map(lambda leaf: leaf.sharding, restored)
            assert found == spec.shardings(cfg, mesh)


def test_another_dtype(kept, tmp_path):
    params, cfg = save(kept(), tmp_path / "out")
    wide = store.restore(store.open_store(tmp_path / "out"), cfg, dtype=jnp.float32)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b, np.float32)),
        wide,
        params,
    )


def test_the_layout_of_a_folder(kept, tmp_path):
    save(kept(tied=True, layout="new"), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["hf", "lfpc.json", "params"]
    assert sorted(os.listdir(tmp_path / "out" / "hf")) == ["config.json", "generation_config.json"]
    description = json.loads((tmp_path / "out" / "lfpc.json").read_text())
    assert description["format"] == 1
    assert description["origin"] == {
        "dtypes": ["bfloat16"],
        "layout": "new",
        "repeats_embedding": False,
    }
    assert os.listdir(tmp_path) == ["out"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "message"),
    [(flip, "is corrupt"), (cut, r"has \d+ bytes"), (os.remove, "is missing")],
)
def test_harm_to_any_large_file_is_noticed(kept, tmp_path, harm, message):
    """Orbax itself restores wrong numbers, without a word, where a stored bit has flipped."""
    save(kept(), tmp_path / "out")
    data = [p for p in (tmp_path / "out" / "params").rglob("*") if p.is_file()]
    largest = max(data, key=lambda path: path.stat().st_size)
    harm(largest)
    with pytest.raises(ValueError, match=f"{largest}: {message}"):
        store.open_store(tmp_path / "out")


def test_folders_that_are_none_of_ours(kept, tmp_path):
    with pytest.raises(ValueError, match=r"lfpc\.json: no such file; .*to-orbax"):
        store.open_store(kept())
    save(kept(), tmp_path / "out")
    description = tmp_path / "out" / "lfpc.json"
    raw = json.loads(description.read_text())
    description.write_text(json.dumps(raw | {"format": 99}))
    with pytest.raises(ValueError, match=r"lfpc\.json: has format 99"):
        store.open_store(tmp_path / "out")
    for corrupt, words in (
        ("{", "not valid JSON, or truncated"),
        ("{}", "is corrupt"),
        ('{"format": 1, "origin": {"colour": 1}, "files": {}}', "is corrupt"),
        (json.dumps(raw | {"files": {}}), "is corrupt .it lists no weights"),
        ("[]", r"holds \[\], expected an object"),
    ):
        description.write_text(corrupt)
        with pytest.raises(ValueError, match=rf"lfpc\.json: {words}"):
            store.open_store(tmp_path / "out")


def test_a_bare_item_of_another_model_or_of_none(kept, tmp_path):
    """What a training checkpoint holds is restored by the same function."""
    params, cfg = save(kept(), tmp_path / "out")
    tied = config.from_folder(kept(tied=True))
    item = tmp_path / "out" / "params"
    with pytest.raises(ValueError, match="params: has the unknown key 'unembed'"):
        store.restore_params(item, tied)
    with pytest.raises(ValueError, match="hf: is no Orbax item"):
        store.restore_params(tmp_path / "out" / "hf", cfg)
    other = tmp_path / "other"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(other, params | {"norm": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"other: key 'norm' has shape \(3,\), .* \(64,\)"):
        store.restore_params(other, cfg)
    data = max((p for p in item.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    data.unlink()
    with pytest.raises(ValueError, match="params: cannot be read"):
        store.restore_params(item, cfg)


def test_an_interrupted_save_leaves_nothing(kept, tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "describe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(kept(), tmp_path / "out")
    assert os.listdir(tmp_path) == []
