"""The spec tree against transformers' own modules, at the published sizes."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, spec
from support import reference

SIZES = ("3b", "7b", "32b", "72b")


def published_json(size: str) -> dict:
    """A config.json as the model's publisher wrote it: flat, with the old rope keys."""
    cfg = config.published(size)
    text, vision = cfg.text, cfg.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "hidden_size": text.width,
        "initializer_range": 0.02,
        "intermediate_size": text.mlp,
        "max_position_embeddings": 128000,
        "max_window_layers": text.layers,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.layers,
        "num_key_value_heads": text.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": cfg.tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 32,
            "hidden_act": "silu",
            "hidden_size": 1280,
            "intermediate_size": vision.mlp,
            "num_heads": 16,
            "in_chans": 3,
            "out_hidden_size": vision.out,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": text.vocab,
    }


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_those_of_transformers(size, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_json(size)))
    cfg = config.from_folder(tmp_path)
    assert cfg == config.published(size)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(tmp_path))
    theirs = {
        reference.published_name(name): tuple(tensor.shape)
        for name, tensor in model.named_parameters()  # a tied head once
    }
    specs = jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param)
    ours = {name: param.hf_shape for param in specs for name in param.hf_names}
    assert ours == theirs
    assert all(math.prod(p.hf_shape) == math.prod(p.shape) for p in specs)


def test_a_nested_config_of_transformers_five_reads_alike(tmp_path):
    for seed in range(6):
        hf = reference.random_config(seed, tied=seed % 2 == 0)
        hf.save_pretrained(tmp_path)
        cfg = config.from_folder(tmp_path)
        assert cfg.tied == (seed % 2 == 0)
        assert (cfg.text.width, cfg.text.eps) == (
            hf.text_config.hidden_size,
            hf.text_config.rms_norm_eps,
        )
        assert cfg.vision.full_layers == tuple(hf.vision_config.fullatt_block_indexes)
        assert cfg.text.rope_theta == hf.text_config.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl', expected 'qwen2_5_vl'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "mrope_section": [16, 24, 24],
                    "original_max_position_embeddings": 32768,
                }
            },
            "rope type is 'yarn'",
        ),
        ({"num_key_value_heads": 3}, "kv heads divide the heads"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(published_json("7b") | change))
    with pytest.raises(ValueError, match=message):
        config.from_folder(tmp_path)


def test_missing_and_broken_config_name_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        config.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        config.from_folder(tmp_path)
    with pytest.raises(ValueError, match="choose one of 3b, 7b, 32b, 72b"):
        config.published("13b")


def test_image_statistics_come_from_the_processor_of_either_layout(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_json("3b")))
    processor = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert config.from_folder(tmp_path).vision.mean == (0.1, 0.2, 0.3)
    nested = {"image_processor": processor | {"image_mean": [0.7, 0.8, 0.9]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert config.from_folder(tmp_path).vision.mean == (0.7, 0.8, 0.9)
    (tmp_path / "processor_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"processor_config\.json: not valid JSON"):
        config.from_folder(tmp_path)


def test_every_parameter_goes_to_hugging_face_and_back():
    cfg = config.published("3b")
    rng = np.random.default_rng(0)
    for param in jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param):
        if math.prod(param.shape) > 2**22:
            continue
        tensor = rng.normal(size=param.hf_shape).astype(np.float32)
        array = param.from_hf(tensor)
        assert array.shape == param.shape
        np.testing.assert_array_equal(param.to_hf(array), tensor)
        if param.inputs:  # a Linear: y = x W^T
            x = rng.normal(size=param.shape[: param.inputs])
            ours = np.tensordot(x, array, axes=param.inputs)
            theirs = tensor.reshape(tensor.shape[0], -1).astype(np.float64) @ x.reshape(-1)
            np.testing.assert_allclose(ours.reshape(-1), theirs, atol=1e-9)


@pytest.mark.long
@pytest.mark.compiles
def test_initial_values_are_made_sharded_and_random(tmp_path):
    reference.random_config(0, tied=False).save_pretrained(tmp_path)
    cfg = config.from_folder(tmp_path)
    mesh = make_mesh(2, 2, 2)
    params = spec.init(jax.random.key(0), cfg, dtype=jnp.float32, mesh=mesh)
    expected = spec.abstract(cfg, jnp.float32, mesh)
    jax.tree.map(
        lambda x, e: (x.shape, x.dtype, x.sharding) == (e.shape, e.dtype, e.sharding) or 1 / 0,
        params,
        expected,
    )
    assert abs(float(params["embed"].std()) - 0.02) < 1e-3
    assert (params["norm"] == 1).all()
    assert (params["text"]["q"]["b"] == 0).all()
    first, second = params["text"]["gate"]["w"], params["text"]["up"]["w"]
    assert float(jnp.abs(first - second).min()) != 0
    alone = spec.init(jax.random.key(0), cfg, dtype=jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, params, alone)
