import io
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.processing.images import ImageProcessor, to_rgb
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.zoom import Region, Zoom

SMALL = ImageProcessor(min_pixels=784).with_tokens(128)
ZOOM = Zoom(SMALL)
ZOOM_8K = Zoom(SMALL, minimum_side=8, aspect_limit=64.0)
PICTURE_8K = Frame(original=(7680, 4320), shown=(1176, 672))


def box(*numbers, **more):
    return {"bbox_2d": list(numbers), **more}


def cause(found):
    assert isinstance(found, Refusal)
    assert "<" not in found.message.replace("x1 < x2", "").replace("y1 < y2", "")
    return found.cause


@pytest.mark.parametrize(
    ("convention", "numbers"),
    [
        ("shown", (294.0, 168.0, 588.0, 336.0)),
        ("original", (1920.0, 1080.0, 3840.0, 2160.0)),
        ("unit", (0.25, 0.25, 0.5, 0.5)),
        ("percent", (25.0, 25.0, 50.0, 50.0)),
        ("mille", (250.0, 250.0, 500.0, 500.0)),
    ],
)
def test_a_box_of_an_8k_picture_in_every_convention(convention, numbers):
    region = Zoom(SMALL, convention=convention).validate(box(*numbers), PICTURE_8K)
    assert region.written == numbers
    assert region.box == (1920, 1080, 3840, 2160)
    assert region.pixels == (1920, 1080, 3840, 2160)


@pytest.mark.parametrize(
    ("numbers", "grown"),
    [
        ((10, 10, 12, 14), (0, 0, 28, 28)),
        ((50, 60, 52, 64), (37, 48, 65, 76)),
        ((99, 0, 100, 100), (72, 0, 100, 100)),
        ((-50, 20, 30, 80), (0, 20, 30, 80)),
        ((-1e308, -1e308, 1e308, 1e308), (0, 0, 100, 100)),
        ((20, 20, 48, 48), (20, 20, 48, 48)),
    ],
)
def test_boxes_are_clamped_and_grown(numbers, grown):
    frame = Frame(original=(100, 100), shown=(100, 100))
    region = ZOOM.validate(box(*numbers), frame)
    assert region.box == grown
    assert region.written == numbers


def test_a_picture_under_the_minimum_side_is_cut_whole():
    frame = Frame(original=(20, 9), shown=(56, 28))
    assert ZOOM.validate(box(5, 5, 6, 6), frame).box == (0, 0, 20, 9)


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        ("bad_arguments", {}),
        ("bad_arguments", {"label": "x"}),
        ("bad_arguments", {"bbox": [1, 2, 3, 4]}),
        ("bad_arguments", box(1, 2, 30, 40, zoom=2)),
        ("bad_arguments", box(1, 2, 30, 40, label=3.0)),
        ("bad_arguments", box(1, 2, 30, 40, label=None)),
        ("not_four_numbers", {"bbox_2d": None}),
        ("not_four_numbers", {"bbox_2d": "[1, 2, 3, 4]"}),
        ("not_four_numbers", {"bbox_2d": {"x1": 1.0}}),
        ("not_four_numbers", {"bbox_2d": [[1, 2, 3, 4]]}),
        ("not_four_numbers", box()),
        ("not_four_numbers", box(1, 2, 3)),
        ("not_four_numbers", box(1, 2, 3, 4, 5)),
        ("not_four_numbers", box("1", 2, 3, 4)),
        ("not_four_numbers", box(None, 2, 3, 4)),
        ("not_four_numbers", box(False, False, True, True)),
        ("not_four_numbers", box(0, 0, math.nan, 4)),
        ("not_four_numbers", box(0, 0, math.inf, 4)),
        ("not_four_numbers", box(0, 0, 10**400, 4)),
        ("reversed_box", box(50, 10, 20, 40)),
        ("reversed_box", box(10, 50, 20, 40)),
        ("empty_box", box(10, 10, 10, 40)),
        ("empty_box", box(10, 10, 40, 10)),
        ("empty_box", box(1176, 10, 1200, 40)),
        ("empty_box", box(-50, 10, 0, 40)),
        ("empty_box", box(1e300, 1e300, 1e308, 1e308)),
        ("narrow_box", box(0, 100, 1176, 101)),
        ("narrow_box", box(100, 0, 101, 672)),
    ],
)
def test_boxes_refused(wanted, arguments):
    assert cause(ZOOM_8K.validate(arguments, PICTURE_8K)) == wanted


def test_the_aspect_limit_holds_for_the_pixels_cut():
    zoom = Zoom(SMALL, convention="original", aspect_limit=2.0)
    frame = Frame(original=(1000, 1000), shown=(280, 280))
    assert isinstance(zoom.validate(box(0, 0, 200, 100), frame), Region)
    assert cause(zoom.validate(box(0, 0, 200.5, 100), frame)) == "narrow_box"
    assert cause(zoom.validate(box(0, 0, 100, 200.5), frame)) == "narrow_box"


def test_the_crop_comes_from_the_original_at_its_own_budget():
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (400, 600, 3), np.uint8))
    frame = Frame(original=(600, 400), shown=(84, 56))
    observation = ZOOM.execute(ZOOM.validate(box(7, 7, 42, 28), frame), picture)
    assert observation.crop.written == (7, 7, 42, 28)
    assert observation.crop.box == (50, 50, 300, 200)
    wanted = SMALL.resize(picture.crop((50, 50, 300, 200)))
    np.testing.assert_array_equal(observation.picture, wanted)
    assert observation.picture.shape == (140, 252, 3)


def test_a_turned_photograph_is_cut_upright():
    rng = np.random.default_rng(0)
    stored = PIL.Image.fromarray(rng.integers(0, 256, (60, 90, 3), np.uint8))
    exif = stored.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, "png", exif=exif)
    upright = to_rgb(PIL.Image.open(file))
    zoom = Zoom(SMALL, convention="original")
    region = zoom.validate(box(0, 0, 60, 30), Frame(original=upright.size, shown=(56, 84)))
    turned = np.rot90(np.asarray(stored), -1)[:30]
    wanted = SMALL.resize(PIL.Image.fromarray(turned))
    np.testing.assert_array_equal(zoom.execute(region, upright).picture, wanted)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (50, 100)), ("L", (100, 50))])
def test_another_picture_than_the_frames_is_refused(mode, size):
    region = ZOOM.validate(box(0, 0, 50, 50), Frame(original=(100, 50), shown=(112, 56)))
    with pytest.raises(ValueError, match="to_rgb"):
        ZOOM.execute(region, PIL.Image.new(mode, size))


@pytest.mark.parametrize(
    ("tokens", "changes", "words"),
    [
        (128, {"minimum_side": 0}, "minimum_side"),
        (128, {"aspect_limit": 0.5}, "between 1 and 200"),
        (1024, {"aspect_limit": 201.0}, "between 1 and 200"),
        (1024, {"aspect_limit": math.nan}, "between 1 and 200"),
        (64, {"aspect_limit": 65.0}, "at most 64"),
        (64, {}, "at most 64"),
    ],
)
def test_settings_refused(tokens, changes, words):
    with pytest.raises(ValueError, match=words):
        Zoom(SMALL.with_tokens(tokens), **changes)


def test_a_budget_hardly_over_the_minimum_is_refused():
    """19x19 pixels at a minimum of 4 tokens become 9, by a rounding error in Qwen's rule."""
    four = ImageProcessor()  # min_pixels of the checkpoints
    assert four.with_tokens(4).grid(19, 19) == (3, 3)
    with pytest.raises(ValueError, match="up to 9 tokens"):
        Zoom(four.with_tokens(8), aspect_limit=1.0)
    assert Zoom(four.with_tokens(9), aspect_limit=1.0)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("least", "tokens", "limit"), [(1, 4, 4.0), (1, 16, 16.0), (4, 15, 9.0), (4, 64, 64.0)]
)
def test_no_crop_ever_breaks_an_accepted_budget(least, tokens, limit):
    processor = ImageProcessor(min_pixels=least * 784).with_tokens(tokens)
    assert Zoom(processor, aspect_limit=limit)
    sides = [*range(1, 60), *range(60, 900, 23), *(28 * n for n in range(3, 40)), 2000, 4000]
    for width in sides:
        for height in sides:
            if max(width, height) <= limit * min(width, height):
                rows, columns = processor.grid(width, height)
                assert rows * columns <= tokens, (width, height)


sides = st.integers(1, 20_000)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-100, 21_000)
frames = st.builds(
    Frame, original=st.tuples(sides, sides), shown=st.tuples(st.integers(1, 2000), sides)
)
CONVENTIONS = ("shown", "original", "unit", "percent", "mille")


@given(frames, st.lists(numbers, min_size=4, max_size=4), st.sampled_from(CONVENTIONS))
def test_every_box_is_inside_and_large_enough_or_refused(frame, written, convention):
    found = Zoom(SMALL, convention=convention).validate(box(*written), frame)
    if isinstance(found, Refusal):
        assert found.cause in ("reversed_box", "empty_box", "narrow_box")
        return
    assert found.written == tuple(written)
    x1, y1, x2, y2 = found.box
    width, height = frame.original
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    assert x2 - x1 >= min(28, width) - 1e-6
    assert y2 - y1 >= min(28, height) - 1e-6
    left, top, right, bottom = found.pixels
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    rows, columns = SMALL.grid(right - left, bottom - top)
    assert rows * columns <= 128


@given(frames, st.tuples(*[st.floats(0.05, 0.45)] * 2, *[st.floats(0.5, 0.95)] * 2))
def test_all_conventions_cut_the_same(frame, shares):
    cut = []
    for convention in CONVENTIONS:
        written = frame.to(Box(*shares), "unit", convention)
        found = Zoom(SMALL, convention=convention).validate(box(*written), frame)
        cut.append(found if isinstance(found, Refusal) else found.box)
    if not any(isinstance(found, Refusal) for found in cut):
        np.testing.assert_allclose(cut, [cut[0]] * len(cut), rtol=0, atol=1e-6)
