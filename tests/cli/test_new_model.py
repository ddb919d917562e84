"""A model to train from nothing is an ordinary folder, the same from the same seed."""

import hashlib

import jax
import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lfpc_jax.cli import new_model
from lfpc_jax.data import scene
from lfpc_jax.model import beginning, config
from lfpc_jax.processing.tokenizer import Tokenizer

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("new") / "model"
    assert new_model.main([str(out)]) == 0
    return out


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_transformers_loads_it(folder):
    model, problems = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(problems.values()), problems
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    ids = torch.tensor([[1, 2, 3]])
    assert model(input_ids=ids).logits.abs().max() == 0  # the head begins at nothing
    assert model.config.vision_config.patch_size == 14


def test_seeds(folder, tmp_path):
    assert new_model.main([str(tmp_path / "same")]) == 0
    assert new_model.main([str(tmp_path / "other"), "--seed", "1"]) == 0
    assert digest(tmp_path / "same") == digest(folder)
    assert digest(tmp_path / "other") != digest(folder)


def test_matrices_keep_the_size_of_what_they_transform(folder):
    cfg = config.from_folder(folder)
    params = beginning.first_parameters(cfg, seed=0)
    x = jax.random.normal(jax.random.key(1), (512, cfg.text.width))
    out = np.asarray(x @ params["text"]["gate"]["w"][0])
    assert np.std(out) == pytest.approx(1, abs=0.1)


def test_the_tokenizer_is_short_where_episodes_are(folder):
    tokenizer = Tokenizer.from_folder(folder)
    call = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 5, 100, 45]}}'
    assert len(tokenizer.encode(call)) == 1 + 2 + 1 + 1 + 1 + 3 + 1 + 2 + 1
    for index in range(50):
        planned = scene.plan(scene.MICRO, 5, "heldout", index)
        assert len(tokenizer.encode(planned.answer)) <= 4
        assert len(tokenizer.encode(planned.question)) <= 32


def test_refusals(folder, tmp_path, capsys):
    assert new_model.main([str(tmp_path / "x"), "--width", "100"]) == 1
    assert "--width is 100; it must be a multiple of 64" in capsys.readouterr().err
    assert new_model.main([str(tmp_path / "x"), "--layers", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert new_model.main([str(folder)]) == 1
    assert "overwrite" in capsys.readouterr().err
