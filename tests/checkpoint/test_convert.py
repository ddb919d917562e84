"""The command as its user sees it: round trips, what transformers makes of them, and the check."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from lfpc_jax.checkpoint import huggingface, parity
from lfpc_jax.cli import convert
from support import hf_folders, qwen_vocabulary, reference

pytestmark = pytest.mark.compiles

NEW_TOKENS = 32


def round_trip(hf, folder, *options):
    assert convert.main(["to-orbax", str(hf), str(folder / "orbax"), *options]) == 0
    assert convert.main(["to-hf", str(folder / "orbax"), str(folder / "back")]) == 0
    return folder / "back"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_there_and_back_every_tensor_is_byte_equal(kept, tmp_path, dtype, tied, sharded, layout):
    hf = kept(dtype=dtype, tied=tied, sharded=sharded, layout=layout)
    back = round_trip(hf, tmp_path)
    hf_folders.assert_same_bytes(hf, back)
    for name in ("config.json", "generation_config.json"):
        assert (hf / name).read_bytes() == (back / name).read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["back", "orbax"]


@pytest.mark.parametrize("into", ["hf", "link", "hf/../hf", ".", "hf/part"])
def test_it_never_replaces_what_it_reads(kept, tmp_path, capsys, into):
    """A link to the source, a folder around it, and a folder that is a part of it."""
    hf = tmp_path / "hf"
    shutil.copytree(kept(), hf)
    (hf / "part").mkdir()
    (tmp_path / "link").symlink_to(hf)
    before = sorted(path.name for path in hf.iterdir())
    for command in ("to-orbax", "to-hf"):
        assert convert.main([command, str(hf), str(tmp_path / into), "--overwrite"]) == 1
        assert "which is read; choose another folder" in capsys.readouterr().err
    assert sorted(path.name for path in hf.iterdir()) == before


def test_a_repeated_embedding_comes_back(tmp_path):
    hf = hf_folders.write(tmp_path / "hf", tied=True)
    embedding = "model.embed_tokens.weight"
    hf_folders.edit(hf / hf_folders.SINGLE, lambda t: t | {"lm_head.weight": t[embedding].clone()})
    hf_folders.assert_same_bytes(hf, round_trip(hf, tmp_path))


def greedy(path, prompts):
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    outputs = []
    for prompt in prompts:
        inputs = reference.model_inputs([prompt], len(prompt.ids))
        out = model.generate(
            **inputs, do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
        )
        outputs.append(out[0, len(prompt.ids) :].tolist())
    return model.dtype, outputs


@pytest.mark.long
@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, True), (torch.float32, False)])
def test_the_export_generates_what_the_source_does(kept, tmp_path, dtype, tied):
    hf = kept(dtype=dtype, tied=tied)
    rng = np.random.default_rng(0)
    prompts = [reference.random_prompt(rng, images) for images in (0, 1, 2, 3, 1)]
    source = greedy(hf, prompts)
    assert source[0] == dtype
    assert all(len(tokens) == NEW_TOKENS for tokens in source[1])
    assert len({tuple(tokens) for tokens in source[1]}) == len(prompts)
    assert greedy(round_trip(hf, tmp_path), prompts) == source


def test_the_tokenizer_of_an_export_opens(tmp_path):
    hf = qwen_vocabulary.write_model_folder(hf_folders.write(tmp_path / "hf"))
    (hf / "README.md").write_text("# The model's own card\n")
    back = round_trip(hf, tmp_path)
    assert (hf / "README.md").read_bytes() == (back / "README.md").read_bytes()
    text = "Where is the <|im_start|>red door?"
    ours, theirs = (AutoTokenizer.from_pretrained(path)(text)["input_ids"] for path in (back, hf))
    assert ours == theirs
    assert {p.name for p in back.iterdir()} == {*(p.name for p in hf.iterdir()), "sums.json"}


def test_a_cast_on_the_way(kept, tmp_path):
    back = round_trip(kept(), tmp_path, "--dtype", "float32")
    assert {t.dtype for t in hf_folders.tensors(back).values()} == {torch.float32}
    assert json.loads((back / "config.json").read_text())["dtype"] == "float32"


def test_an_existing_target_is_kept_unless_asked(kept, tmp_path, capsys):
    out = tmp_path / "orbax"
    out.mkdir()
    (out / "precious").touch()
    assert convert.main(["to-orbax", str(kept()), str(out)]) == 1
    assert _errors(capsys) == f"error: {out}: exists already; remove it, or ask to overwrite it\n"
    assert os.listdir(out) == ["precious"]
    assert convert.main(["to-orbax", str(kept()), str(out), "--overwrite"]) == 0
    back = tmp_path / "hf"
    back.mkdir()
    assert convert.main(["to-hf", str(out), str(back), "--overwrite"]) == 0
    hf_folders.assert_same_bytes(kept(), back)


def test_a_foreign_orbax_folder_is_one_line(kept, tmp_path, capsys):
    assert convert.main(["to-hf", str(kept()), str(tmp_path / "out")]) == 1
    assert re.match(r"error: .*lfpc\.json: no such file.*\n$", _errors(capsys))
    assert os.listdir(tmp_path) == []


def _errors(capsys):
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("error"))


@pytest.mark.parametrize("tied", [True, False])
def test_check_in_float32(kept, tmp_path, capsys, tied):
    hf = kept(dtype=torch.float32, tied=tied)
    figures = tmp_path / "figures.json"
    assert convert.main(["check", str(hf), "--json", str(figures), "--prompts", "4"]) == 0
    found = json.loads(figures.read_text())
    assert 0 < found["max_abs_logit_diff"] < 1e-4
    assert 0 < found["max_abs_vision_diff"] < 1e-4
    assert [row["images"] for row in found["prompts"]] == [1, 2, 3, 0]
    assert all(row["argmax_agreement"] == 1 for row in found["prompts"])
    table = capsys.readouterr().out
    assert table.count("100.0%") == 4
    assert "tolerance 0.0001" in table


def test_check_in_bfloat16_reports_and_judges_only_if_asked(kept, tmp_path, capsys):
    arguments = ["check", str(kept()), "--dtype", "bfloat16", "--prompts", "1"]
    assert convert.main(arguments) == 0
    assert "no tolerance given" in capsys.readouterr().out
    figures = tmp_path / "figures.json"
    assert convert.main([*arguments, "--tolerance", "1e-6", "--json", str(figures)]) == 1
    assert "differs from transformers by more" in _errors(capsys)
    assert 1e-6 < json.loads(figures.read_text())["max_abs_logit_diff"] < 1


def test_check_notices_what_is_amiss(kept, capsys, monkeypatch):
    """Gate and up have one shape: exchanged, they pass every check but this."""

    def exchanged(*args, **kwargs):
        params = original(*args, **kwargs)
        text = params["text"]
        return params | {"text": text | {"gate": text["up"], "up": text["gate"]}}

    original = huggingface.load
    monkeypatch.setattr(huggingface, "load", exchanged)
    assert convert.main(["check", str(kept(dtype=torch.float32)), "--prompts", "1"]) == 1
    assert "differs from transformers by more" in _errors(capsys)


def test_a_nan_is_no_agreement(tmp_path, monkeypatch):
    """Python's own max over (0.0, nan) is 0.0."""
    rows = [parity.Difference(5, 1, diff, 0.0, 1.0) for diff in (0.0, float("nan"))]
    monkeypatch.setattr(parity, "differences", lambda *args, **kwargs: rows)
    assert convert.main(["check", str(tmp_path)]) == 1


def test_check_reads_the_folder_s_own_mean_and_deviation(tmp_path):
    """With a mean of its own, both sides must take it from the folder."""
    hf = qwen_vocabulary.write_model_folder(hf_folders.write(tmp_path / "hf", dtype=torch.float32))
    path = hf / "preprocessor_config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"image_mean": [0.1, 0.7, 0.3], "image_std": [0.5, 0.3, 0.4]}))
    assert convert.main(["check", str(hf), "--prompts", "2"]) == 0
