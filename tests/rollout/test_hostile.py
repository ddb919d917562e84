"""Whatever a model writes, about whatever picture: a crop in the image, or words, never a crash."""

import json
from collections import Counter
from functools import cache

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.protocol import Answer, Call, Nothing, Refusal, read_turn
from lfpc_jax.rollout.tools import NO_IMAGE, Toolbox, refuse
from lfpc_jax.rollout.zoom import Zoom
from support.hostile import TAGS, call, outputs

BUDGET = 32
PROCESSOR = ImageProcessor(min_pixels=784).with_tokens(BUDGET)
TOOLBOX = Toolbox((Zoom(PROCESSOR, aspect_limit=float(BUDGET)),))
SIZES = (
    *[(1, 1), (1, 200), (200, 1), (27, 29), (5600, 28), (300, 200), (1000, 1500)],
    *[(20_000, 100), (100, 20_000), (20_000, 900)],
)
RESERVED = ("<|", "<tool_call>", "</tool_call>")


@cache
def picture(size):
    return PIL.Image.effect_noise(size, 64).convert("RGB")


@cache
def frame(size):
    return Frame(original=size, shown=ImageProcessor().with_tokens(256).resized_size(*size))


def outcome(text, size):
    """What came of a turn, in a word, after every promise about it has been checked."""
    action = read_turn(text)
    if isinstance(action, Call):
        action = TOOLBOX.validate(action, frame(size))
    match action:
        case Nothing():
            return "nothing"
        case Answer(_, fault):
            return fault or "answer"
        case Refusal(cause, message):
            assert cause in TOOLBOX.causes
            assert message.isprintable()
            assert len(message) < 200
            assert not any(token in message for token in RESERVED)
            [turn] = refuse(action)
            assert message in turn["content"][1]["text"]
            return cause
    observation = action.execute(picture(size))
    rows, columns = PROCESSOR.grid_of(observation.picture)
    assert observation.picture.dtype == np.uint8
    assert 1 <= rows * columns <= BUDGET
    x1, y1, x2, y2 = observation.crop.box
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    [turn] = action.tool.render(observation)
    assert sum(part["type"] == "image" for part in turn["content"]) == 1
    return "crop"


@pytest.mark.seconds
def test_ten_thousand_outputs():
    counts = Counter(
        outcome(text, SIZES[index % len(SIZES)]) for index, text in enumerate(outputs(0, 10_000))
    )
    print(*(f"{count:6d} {name}" for name, count in counts.most_common()), sep="\n")
    assert counts.total() == 10_000
    assert counts["crop"] > 1_000
    of_pictures = {"crop", "answer", "nothing", *TOOLBOX.causes} - {NO_IMAGE}
    assert set(counts) == of_pictures, "each comes up"


@pytest.mark.parametrize("size", [(20_000, 20_000), (1, 20_000)])
def test_pictures_too_large_to_open_here_are_still_judged(size):
    judged = Counter()
    for text in outputs(1, 300):
        if isinstance(action := read_turn(text), Call):
            found = TOOLBOX.validate(action, Frame(size, (1400, 1400)))
            judged[getattr(found, "cause", "crop")] += 1
    assert judged["crop"] > 0


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["bbox_2d", "label", "x"]), inner)
    ),
    max_leaves=9,
)
written = st.lists(st.sampled_from(TAGS) | st.text(max_size=20), max_size=8).map("".join)


@pytest.mark.seconds
@settings(max_examples=300, deadline=None)
@given(written, st.sampled_from(SIZES))
def test_any_text(text, size):
    assert outcome(text, size)


@settings(max_examples=300, deadline=None)
@given(json_values, st.sampled_from(SIZES))
def test_any_json_as_arguments(arguments, size):
    body = json.dumps({"name": "image_zoom_in_tool", "arguments": arguments})
    assert outcome(call(body), size) not in ("bad_json", "nothing")


@pytest.mark.seconds
@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-300, 3000), min_size=4, max_size=4), st.sampled_from(SIZES))
def test_any_box(box, size):
    body = f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}}}}}'
    assert outcome(call(body), size) in ("crop", "reversed_box", "empty_box", "narrow_box")
