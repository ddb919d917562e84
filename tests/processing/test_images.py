from importlib import resources

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL.ExifTags import Base as Exif
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import SizeDict
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.vision_utils import get_vision_window_index

from lfpc_jax.processing.images import ImageProcessor, to_rgb
from lfpc_jax.shapes import windows_for

PHOTOGRAPHS = {
    "china.jpg": "sklearn.datasets.images",
    "flower.jpg": "sklearn.datasets.images",
    "astronaut.png": "skimage.data",
    "coffee.png": "skimage.data",
    "chelsea.png": "skimage.data",
    "rocket.jpg": "skimage.data",
    "hubble_deep_field.jpg": "skimage.data",
}
PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
LIMITS = [(3136, 12_845_056), (3136, 64 * 784), (200_704, 1024 * 784), (784, 784)]


def _photograph(name: str) -> PIL.Image.Image:
    with (resources.files(PHOTOGRAPHS[name]) / name).open("rb") as file:
        return PIL.Image.open(file).convert("RGB")


def _noise(width: int, height: int, bands: int = 3) -> PIL.Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, bands))
    return PIL.Image.fromarray(values.astype(np.uint8))


def _assert_equals_transformers(image: PIL.Image.Image, processor: ImageProcessor) -> None:
    """The resized picture byte for byte, and every normalised patch in transformers' order."""
    limits = SizeDict(shortest_edge=processor.min_pixels, longest_edge=processor.max_pixels)
    reference = Qwen2VLImageProcessorPil(
        min_pixels=processor.min_pixels, max_pixels=processor.max_pixels
    )
    pixels = processor.resize(image)
    channels_first = np.moveaxis(convert_to_rgb(image, return_numpy=True), 2, 0)
    resized = reference.resize(channels_first, limits, resample=3, factor=28)
    np.testing.assert_array_equal(pixels, np.moveaxis(resized, 0, 2))

    expected = reference(image, return_tensors="np")
    rows, cols = processor.grid(*image.size)
    assert expected["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * cols]]
    patches = processor.patchify(pixels, windows_for(rows, cols) + 1)
    tokens = patches.reshape(-1, 4, 3, 14, 14)[processor.image_index((rows, cols))]
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (processor.mean, processor.std))
    normal = (tokens.astype(np.float32) / 255 - mean) / std
    twice = np.repeat(normal.reshape(-1, 3, 1, 14, 14), processor.temporal_patch, axis=2)
    np.testing.assert_allclose(
        twice.reshape(-1, 3 * 2 * 14 * 14), expected["pixel_values"], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_equal_transformers(name, limits):
    processor = ImageProcessor(min_pixels=limits[0], max_pixels=limits[1])
    _assert_equals_transformers(_photograph(name), processor)


@pytest.mark.parametrize(
    "size",
    [
        *[(1, 1), (27, 29), (28, 28), (41, 43), (70, 42), (1500, 1100)],
        *[(100, 1), (1, 200), (200, 1), (3, 600), (2800, 14), (70, 14_000), (8200, 41)],
    ],
)
@pytest.mark.parametrize("limits", LIMITS[:3])
def test_odd_sizes_equal_transformers(size, limits):
    processor = ImageProcessor(min_pixels=limits[0], max_pixels=limits[1])
    _assert_equals_transformers(_noise(*size), processor)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from(LIMITS))
def test_sizes_equal_transformers(width, height, limits):
    processor = ImageProcessor(min_pixels=limits[0], max_pixels=limits[1])
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="200 times the other"):
            processor.resized_size(width, height)
    else:
        tall, wide = smart_resize(height, width, 28, *limits)
        assert processor.resized_size(width, height) == (wide, tall)
        assert processor.grid(width, height) == (tall // 28, wide // 28)


@pytest.mark.parametrize(
    ("tokens", "size", "grid"), [(1024, (1176, 672), (24, 42)), (16384, (4760, 2688), (96, 170))]
)
def test_an_8k_picture_at_the_papers_budgets(tokens, size, grid):
    processor = ImageProcessor().with_tokens(tokens)
    assert processor.resized_size(7680, 4320) == size
    assert processor.grid(7680, 4320) == grid
    assert grid[0] * grid[1] <= tokens


def test_a_budget_changes_only_the_maximum():
    assert ImageProcessor().with_tokens(64) == ImageProcessor(max_pixels=64 * 784)
    with pytest.raises(ValueError, match=r"min_pixels 3136, max_pixels 784: .* token budget"):
        ImageProcessor().with_tokens(1)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (201, 1), (1, 201)])
def test_impossible_sizes_are_named(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels"):
        ImageProcessor().resized_size(*size)


@pytest.mark.parametrize(
    "bad", [{"patch": 0}, {"window": 0}, {"mean": (0.5,)}, {"std": (1.0, 0.0, 1.0)}]
)
def test_impossible_settings_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ImageProcessor(**bad)


# Colour


def _in_mode(mode: str) -> PIL.Image.Image:
    alpha = _noise(60, 40, 4)
    if mode in ("P", "LAB", "HSV", "YCbCr", "1", "L", "CMYK"):
        return alpha.convert("RGB").convert(mode)
    return alpha.convert("LA").convert(mode) if mode == "La" else alpha.convert(mode)


@pytest.mark.parametrize("mode", [*PLAIN_MODES, "I", "F"])
def test_every_8_bit_mode_equals_transformers(mode):
    image = _in_mode(mode)
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(rgb), convert_to_rgb(image, return_numpy=True))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    image = _in_mode(mode)
    image.putpixel((3, 2), 0 if mode != "RGB" else (9, 9, 9))
    image.info["transparency"] = image.getpixel((3, 2))
    rgb = to_rgb(image)
    assert rgb.getpixel((3, 2)) == (255, 255, 255)
    np.testing.assert_array_equal(np.asarray(rgb), convert_to_rgb(image, return_numpy=True))


def test_half_transparent_red_on_white_is_pink():
    image = PIL.Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert to_rgb(image).getpixel((0, 0)) == (255, 127, 127)


def test_a_palettes_own_alpha_is_laid_on_white():
    image = PIL.Image.new("P", (1, 1))
    image.putpalette([255, 0, 0, 128], "RGBA")
    assert to_rgb(image).getpixel((0, 0)) == (255, 127, 127)


@pytest.mark.parametrize(("mode", "straight"), [("La", "LA"), ("RGBa", "RGBA")])
def test_premultiplied_alpha_is_laid_on_white_too(mode, straight):
    image = _in_mode(mode)
    np.testing.assert_array_equal(to_rgb(image), to_rgb(image.convert(straight)))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bit_grey_is_scaled_where_pillow_turns_it_white(mode):
    values = np.array([[0, 128, 129, 257, 32896, 65535]])
    dtype = {"I;16B": ">u2", "I;16N": "=u2", "I": "=i4"}.get(mode, "<u2")
    image = PIL.Image.frombytes(mode, (6, 1), values.astype(dtype).tobytes())
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert np.asarray(image.convert("RGB"))[0, 3:, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_grey_of_unknown_depth_is_refused(value):
    image = PIL.Image.fromarray(np.full((2, 3), value, np.int32))
    with pytest.raises(ValueError, match=rf"\(3, 2\) has values .*{value}"):
        to_rgb(image)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="NaN or infinity"):
        to_rgb(PIL.Image.fromarray(np.full((2, 3), value, np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, tmp_path):
    marked = PIL.Image.new("RGB", (4, 2))
    marked.putpixel((0, 0), (255, 0, 0))
    exif = PIL.Image.Exif()
    exif[Exif.Orientation] = orientation
    marked.save(tmp_path / "turned.png", exif=exif)
    upright = to_rgb(PIL.Image.open(tmp_path / "turned.png"))
    corner = {1: (0, 0), 2: (3, 0), 3: (3, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 3)}
    assert upright.size == ((4, 2) if orientation < 5 else (2, 4))
    assert upright.getpixel(corner.get(orientation, (0, 3))) == (255, 0, 0)
    assert to_rgb(upright).tobytes() == upright.tobytes()
    resized = ImageProcessor().resize(PIL.Image.open(tmp_path / "turned.png"))
    np.testing.assert_array_equal(resized, ImageProcessor().resize(upright))


# Layout


def test_where_everything_lies():
    """The patch at (row 9, column 2) of a picture of 5x6 tokens, found by hand."""
    processor = ImageProcessor()
    pixels = np.asarray(_noise(6 * 28, 5 * 28))
    patches = processor.patchify(pixels, windows=7)
    assert patches.shape == (7, 64, 588)
    # Token (4, 1): window 2, below the first; place 1 of its first row. Patch (1, 0) of the token.
    patch = pixels[9 * 14 : 10 * 14, 2 * 14 : 3 * 14]
    np.testing.assert_array_equal(patches[2, 1 * 4 + 2], np.moveaxis(patch, 2, 0).ravel())
    assert processor.image_index((5, 6))[4 * 6 + 1] == 2 * 16 + 1


@given(st.integers(1, 11), st.integers(1, 11), st.integers(0, 3), st.integers(1, 5))
def test_places_hold_the_whole_picture_and_nothing_else(rows, cols, spare, window):
    processor = ImageProcessor(patch=2, merge=3, window=window)
    pixels = np.random.default_rng(rows * cols).integers(1, 256, (rows * 6, cols * 6, 3), np.uint8)
    patches = processor.patchify(pixels, windows_for(rows, cols, window) + spare)
    tokens = patches.reshape(-1, 9 * 12)
    places = processor.image_index((rows, cols))
    back = tokens[places].reshape(rows, cols, 3, 3, 3, 2, 2).transpose(0, 2, 5, 1, 3, 6, 4)
    np.testing.assert_array_equal(back.reshape(pixels.shape), pixels)
    assert not np.delete(tokens, places, axis=0).any()
    assert tokens[places].all()


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_order_of_windows_is_transformers_own(rows, cols):
    order, _ = get_vision_window_index(
        torch.tensor([[1, 2 * rows, 2 * cols]]),
        spatial_merge_size=2,
        window_size=112,
        patch_size=14,
    )
    np.testing.assert_array_equal(np.argsort(ImageProcessor().image_index((rows, cols))), order)


def test_too_few_windows_are_refused():
    pixels = np.zeros((5 * 28, 6 * 28, 3), np.uint8)
    with pytest.raises(ValueError, match="5x6 merged tokens needs 4 windows, not 3"):
        ImageProcessor().patchify(pixels, windows=3)


def test_pictures_that_were_not_resized_are_refused():
    with pytest.raises(ValueError, match="30x28 pixels: sides must be multiples of 28"):
        ImageProcessor().patchify(np.zeros((28, 30, 3), np.uint8), windows=1)
