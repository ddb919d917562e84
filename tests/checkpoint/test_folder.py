"""What is wrong with a folder is said, with file and key, before anything is allocated."""

import json
import re
import shutil

import pytest
import torch

from lfpc_jax.checkpoint import folder
from lfpc_jax.cli import convert
from lfpc_jax.model import config
from support import hf_folders
from support.hf_folders import INDEX, SINGLE

EMBEDDING = "model.embed_tokens.weight"
Q = "model.layers.1.self_attn.q_proj.weight"
FIRST = "model-00001-of-"


def first_shard(hf):
    return next(hf.glob(f"{FIRST}*"))


def shard_of(hf, key):
    return hf / json.loads((hf / INDEX).read_text())["weight_map"][key]


def change(key, value):
    def spoil(hf):
        hf_folders.edit(shard_of(hf, key), lambda tensors: tensors | {key: value(tensors[key])})

    return spoil


def add(key, tensor, *, shard=None, indexed=True):
    def spoil(hf):
        path = shard_of(hf, shard) if shard else first_shard(hf)
        hf_folders.edit(path, lambda tensors: tensors | {key: tensor})
        if indexed:
            hf_folders.edit_index(hf, lambda weights: weights | {key: path.name})

    return spoil


def remove(key, *, from_index=True):
    def spoil(hf):
        path = shard_of(hf, key)
        without = lambda mapping: {k: v for k, v in mapping.items() if k != key}  # noqa: E731
        hf_folders.edit(path, without)
        if from_index:
            hf_folders.edit_index(hf, without)

    return spoil


def truncate(hf):
    path = shard_of(hf, Q)
    path.write_bytes(path.read_bytes()[:-100])


def lose_index(hf):
    (hf / INDEX).unlink()


def add_stale_single(hf):
    shutil.copy(first_shard(hf), hf / SINGLE)


def repeat_in_index(hf):
    text = (hf / INDEX).read_text()
    (hf / INDEX).write_text(text.replace('"weight_map": {', f'"weight_map": {{"{Q}": "x",'))


def cut_index(hf):
    (hf / INDEX).write_text((hf / INDEX).read_text()[:-20])


def point_outside(hf):
    hf_folders.edit_index(hf, lambda weights: weights | {Q: "../other.safetensors"})


def foreign_type(hf):
    hf_folders.edit_config(hf, model_type="qwen3_vl")


SHARD = r"model-0000\d-of-\d+\.safetensors"
CASES = {
    "missing shard": (lambda hf: shard_of(hf, Q).unlink(), f"{SHARD}: the shard is missing.*key '"),
    "truncated file": (truncate, f"{SHARD}: truncated: key '"),
    "unknown key": (
        add("model.extra.weight", torch.zeros(2)),
        f"{SHARD}: key 'model.extra.weight': unknown",
    ),
    "a layer too many": (
        add("model.layers.3.input_layernorm.weight", torch.zeros(64)),
        f"{SHARD}: key 'model.layers.3.input_layernorm.weight': unknown; .*3 text",
    ),
    "missing key": (remove(Q), f"hf: lacks key '{Q}'; "),
    "missing unembedding": (remove("lm_head.weight"), "lacks key 'lm_head.weight' .*not tied"),
    "key in two shards": (
        lambda hf: hf_folders.edit(first_shard(hf), lambda t: t | {Q: torch.zeros(64, 64)}),
        f"{SHARD}: duplicate key '{Q}': {INDEX} places it in {SHARD}",
    ),
    "key in both layouts": (
        add("model.language_model.norm.weight", torch.zeros(64)),
        f"{SHARD}: key 'model.*norm.weight': duplicate: .*{SHARD}: key 'model.*norm.weight'",
    ),
    "misshapen": (
        change(Q, lambda x: x[:, :-1].contiguous()),
        rf"{SHARD}: key '{Q}': has shape \(64, 63\), config.json demands \(64, 64\)",
    ),
    "transposed": (
        change("model.layers.0.mlp.up_proj.weight", lambda x: x.T.contiguous()),
        rf"{SHARD}: key 'model.layers.0.mlp.up_proj.weight': has shape \(64, 96\)",
    ),
    "dtypes mixed over layers": (
        change(Q, torch.Tensor.float),
        f"{SHARD}: key '{Q}': is float32, but .*{SHARD}: key '.*q_proj.weight' is bfloat16",
    ),
    "quantised": (
        change(Q, lambda x: x.to(torch.int8)),
        f"{SHARD}: key '{Q}' has dtype I8; .*take the original",
    ),
    "half precision without asking": (
        change(EMBEDDING, torch.Tensor.half),
        f"{SHARD}: key '{EMBEDDING}': would be loaded as float16; .*ask for",
    ),
    "in the index only": (remove(Q, from_index=False), f"{SHARD}: lacks key '{Q}'"),
    "in the file only": (
        add("visual.more", torch.zeros(1), indexed=False),
        f"{SHARD}: key 'visual.more' is not in {INDEX}",
    ),
    "twice in the index": (repeat_in_index, f"{INDEX}: not valid .*duplicate key '{Q}'"),
    "broken index": (cut_index, f"{INDEX}: not valid JSON"),
    "a file elsewhere": (point_outside, f"{INDEX}: key '{Q}' lies in '../other.safetensors'"),
    "index and single file": (add_stale_single, f"hf: has both {SINGLE} and {INDEX}"),
    "no weights": (lose_index, f"hf: has neither {SINGLE} nor {INDEX}"),
    "foreign model_type": (foreign_type, "config.json: model_type is 'qwen3_vl'"),
    "no config": (lambda hf: (hf / "config.json").unlink(), "config.json: no such file"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_spoiled_folder_is_refused_and_nothing_left(hf, capsys, case):
    spoil, message = CASES[case]
    spoil(hf)
    assert convert.main(["to-orbax", str(hf), str(hf.parent / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]
    assert [path.name for path in hf.parent.iterdir()] == ["hf"]


def test_a_tied_folder_may_repeat_its_embedding(tmp_path):
    hf = hf_folders.write(tmp_path / "hf", tied=True)
    cfg = config.from_folder(hf)
    assert not folder.open_folder(hf, cfg).origin.repeats_embedding
    weights = folder.open_folder(hf, cfg).nbytes
    hf_folders.edit(hf / SINGLE, lambda t: t | {"lm_head.weight": t[EMBEDDING].clone()})
    opened = folder.open_folder(hf, cfg)
    assert opened.origin.repeats_embedding
    assert opened.nbytes == weights


@pytest.mark.parametrize("differ", [lambda x: x + 1, lambda x: x[:-1].clone(), torch.Tensor.float])
def test_a_tied_folder_with_another_unembedding_is_refused(tmp_path, differ):
    hf = hf_folders.write(tmp_path / "hf", tied=True)
    hf_folders.edit(hf / SINGLE, lambda t: t | {"lm_head.weight": differ(t[EMBEDDING])})
    with pytest.raises(ValueError, match=rf"{SINGLE}: key 'lm_head.weight': .*{EMBEDDING}.* ties"):
        folder.open_folder(hf, config.from_folder(hf))


def test_stray_files_and_links_do_no_harm(tmp_path):
    """The hub's cache is a folder of links; other tools leave files of their own."""
    hf = hf_folders.write(tmp_path / "blobs", sharded=True)
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in hf.iterdir():
        (linked / path.name).symlink_to(path)
    (linked / "training_args.bin").write_bytes(b"x")
    (linked / "model-00009-of-00009.safetensors").write_bytes(b"x")
    assert folder.open_folder(linked, config.from_folder(linked)).tensors
