import json

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.processing.images import ImageProcessor
from support.qwen_vocabulary import PREPROCESSOR

SIZES = {"shortest_edge": 6272, "longest_edge": 1_000_000}


def _write(folder, name, content):
    (folder / name).write_text(json.dumps(content))
    return folder


def _without(*keys, **more):
    return {key: value for key, value in PREPROCESSOR.items() if key not in keys} | more


def test_the_checkpoints_file_gives_the_defaults(model_folder):
    assert ImageProcessor.from_folder(model_folder) == ImageProcessor()


@pytest.mark.parametrize(
    "config",
    [
        _without(min_pixels=6272, max_pixels=1_000_000),
        _without("min_pixels", "max_pixels", size=SIZES),
        _without(min_pixels=None, max_pixels=None, size=SIZES, resample=None, do_resize=None),
        _without("min_pixels", "max_pixels", size={"min_pixels": 6272, "max_pixels": 1_000_000}),
        _without(min_pixels=6272, max_pixels=1_000_000, size={"shortest_edge": 1}),
    ],
)
def test_limits_are_found_wherever_they_are_written(config, tmp_path):
    processor = ImageProcessor.from_folder(_write(tmp_path, "preprocessor_config.json", config))
    assert (processor.min_pixels, processor.max_pixels) == (6272, 1_000_000)


def test_what_transformers_saves_is_read(tmp_path):
    Qwen2VLImageProcessorPil(min_pixels=6272, max_pixels=1_000_000).save_pretrained(tmp_path)
    expected = ImageProcessor(min_pixels=6272, max_pixels=1_000_000)
    assert ImageProcessor.from_folder(tmp_path) == expected


def test_a_nested_file_comes_first_as_in_transformers_5(tmp_path):
    _write(tmp_path, "preprocessor_config.json", PREPROCESSOR)
    nested = {"image_processor": _without(max_pixels=1_000_000), "processor_class": "x"}
    _write(tmp_path, "processor_config.json", nested)
    assert ImageProcessor.from_folder(tmp_path).max_pixels == 1_000_000
    _write(tmp_path, "processor_config.json", {"processor_class": "x"})
    assert ImageProcessor.from_folder(tmp_path).max_pixels == 12_845_056


def test_other_sizes_are_read(tmp_path):
    other = _without(patch_size=8, merge_size=4, temporal_patch_size=1, image_std=[1, 2, 3])
    _write(tmp_path, "preprocessor_config.json", other)
    _write(tmp_path, "config.json", {"vision_config": {"window_size": 64}})
    processor = ImageProcessor.from_folder(tmp_path)
    assert processor == ImageProcessor(
        patch=8, merge=4, temporal_patch=1, std=(1.0, 2.0, 3.0), window=2
    )
    assert processor.factor == 32


@pytest.mark.parametrize("config", [{}, {"vision_config": {}}, {"vision_config": {"depth": 2}}])
def test_a_window_that_is_not_given_is_qwens(config, tmp_path):
    _write(tmp_path, "preprocessor_config.json", PREPROCESSOR)
    _write(tmp_path, "config.json", config)
    assert ImageProcessor.from_folder(tmp_path).window == 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resample", 2),
        ("do_resize", False),
        ("do_rescale", False),
        ("do_normalize", False),
        ("do_convert_rgb", False),
        ("rescale_factor", 1.0),
        ("image_processor_type", "SiglipImageProcessor"),
    ],
)
def test_what_would_go_wrong_in_silence_is_refused(key, value, tmp_path):
    _write(tmp_path, "preprocessor_config.json", _without(**{key: value}))
    with pytest.raises(ValueError, match=rf"preprocessor_config.json: `{key}` is {value!r}"):
        ImageProcessor.from_folder(tmp_path)


@pytest.mark.parametrize("key", ["min_pixels", "patch_size", "merge_size", "image_mean"])
def test_what_is_missing_is_named(key, tmp_path):
    _write(tmp_path, "preprocessor_config.json", _without(key))
    with pytest.raises(ValueError, match=rf"preprocessor_config.json: no `{key}`"):
        ImageProcessor.from_folder(tmp_path)


def test_a_folder_without_settings_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}: neither `preprocessor_config.json`"):
        ImageProcessor.from_folder(tmp_path)
