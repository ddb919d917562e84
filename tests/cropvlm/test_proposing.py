"""What a crop network is asked, and what its text means."""

import time
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lfpc_jax.cropvlm.demonstrating import labelled_box
from lfpc_jax.cropvlm.proposing import OUTLINE, Proposal, proposing, read_box, write_box
from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.rollout.protocol import Call, Refusal
from lfpc_jax.rollout.tools import NO_IMAGE, Ready
from lfpc_jax.trajectory import Picture, Record
from support import hostile, qwen_vocabulary, small

TOOL = Proposal.within(64, ImageProcessor())
FRAME = Frame(original=(400, 200), shown=(112, 56))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen_vocabulary.write_model_folder(tmp_path_factory.mktemp("qwen") / "folder")


@pytest.fixture(scope="module")
def dialogue(folder):
    return proposing(folder, image_tokens=32, crop_tokens=64)


# ------------------------------------------------------------------------------------ the prompt


def test_the_prompt_is_the_published_one_and_has_no_system_message(dialogue):
    record = small.record(0, question="what does NASA write on the side?")
    [turn] = dialogue.messages(record)
    assert turn["role"] == "user"
    assert turn["content"] == [
        {"type": "image"},
        {"type": "text", "text": "What does NASA write on the side?\nOutline the region in the "
         "image that would help answer this question."},
    ]  # fmt: skip


def test_options_are_shown_and_a_question_in_text_alone_has_no_image(dialogue):
    record = Record("r", "which?", "A", Picture(), options=("red", "blue"))
    [turn] = dialogue.messages(record)
    assert turn["content"] == [{"type": "text", "text": f"Which?\nA. red\nB. blue\n{OUTLINE}"}]
    call = read_box("[1, 2, 3, 4].")
    assert dialogue.validate(call, dialogue.open(record)).cause == NO_IMAGE


def test_its_ids_are_those_of_transformers_tokenizer_and_template(folder, dialogue):
    """The real Qwen vocabulary; transformers writes one placeholder, here there are 4 x 3 / 1."""
    record = small.record(3, question="what's the price, in €?")
    opening = dialogue.open(record)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text":
         f"What's the price, in €?\n{OUTLINE}"}]},
    ]  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    rows, columns = dialogue.processor.grid_of(opening.view.shown)
    assert rows * columns > 1
    pad = "<|image_pad|>"
    ids = tokenizer(text.replace(pad, pad * rows * columns))["input_ids"]
    assert opening.ids.tolist() == ids
    assert dialogue.size(record) == ((rows, columns), len(ids) - rows * columns)


# -------------------------------------------------------------------------------------- the box


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[10, 20, 30, 40].", (10, 20, 30, 40)),
        ("[10, 20, 30, 40]", (10, 20, 30, 40)),
        ("[10,20,30,40].", (10, 20, 30, 40)),
        ("  [ 0 ,20 , 100,40 ].\n", (0, 20, 100, 40)),
        ("[10, 20, 30, 40].<|im_end|>", (10, 20, 30, 40)),
        ("[10.5, 0.25, 30.0, 40].", (10.5, 0.25, 30, 40)),
        ("[-3, 20, 30, 140].", (-3, 20, 30, 140)),  # to be clamped
        ("[30, 20, 10, 40].", (30, 20, 10, 40)),  # to be refused with its frame known
    ],
)
def test_boxes_that_are_read(text, numbers):
    assert read_box(text) == Call("propose_box", {"bbox_2d": list(numbers)})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "no_box"),
        ("<|im_end|>", "no_box"),
        ("10, 20, 30, 40", "no_box"),
        ("(10, 20, 30, 40).", "no_box"),
        ("[10, 20, 30, 40", "no_box"),
        ("The sign.", "no_box"),
        ("[10, 20, 30, 40]. [1, 2, 3, 4].", "several_boxes"),
        ("[10, 20, 30, 40][]", "several_boxes"),
        ("The region is [10, 20, 30, 40].", "text_around_box"),
        ("[10, 20, 30, 40]. It is there.", "text_around_box"),
        ("[10, 20, 30, 40]..", "text_around_box"),
        ("[[10, 20, 30, 40]]", "text_around_box"),
        ('{"bbox_2d": [10, 20, 30, 40]}', "text_around_box"),
        ("<answer>[10, 20, 30, 40]</answer>", "text_around_box"),
        ("[].", "not_four_numbers"),
        ("[10, 20, 30].", "not_four_numbers"),
        ("[10, 20, 30, 40, 50].", "not_four_numbers"),
        ("[10, 20, 30, ].", "not_four_numbers"),
        ("[10 20 30 40].", "not_four_numbers"),
        ("[1e1, 20, 30, 40].", "not_four_numbers"),
        ("[nan, 20, inf, 40].", "not_four_numbers"),
        ("[+1, 20, 30, 40].", "not_four_numbers"),
        ("[1_0, 20, 30, 40].", "not_four_numbers"),
        ("[.5, 20, 30, 40].", "not_four_numbers"),
        ("[١٢, 20, 30, 40].", "not_four_numbers"),
        ("[10%, 20%, 30%, 40%].", "not_four_numbers"),
        ("[x1, y1, x2, y2].", "not_four_numbers"),
    ],
)
def test_turns_that_are_refused(text, cause):
    assert read_box(text).cause == cause


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("[25, 50, 75, 100].", (100, 100, 300, 200)),
        ("[-10, -10, 25, 50].", (0, 0, 100, 100)),
        ("[90, 0, 100, 100.5].", (360, 0, 400, 200)),
        ("[50, 50, 50.5, 51].", (187, 87, 215, 115)),  # grown to 28 pixels about its centre
        ("[0, 0, 0.5, 1].", (0, 0, 28, 28)),
        ("[30, 20, 10, 40].", "reversed_box"),
        ("[10, 40, 30, 20].", "reversed_box"),
        ("[10, 20, 10, 40].", "empty_box"),
        ("[100, 0, 200, 100].", "empty_box"),
        ("[" + "9" * 400 + ", 20, 30, 40].", "not_four_numbers"),  # no float holds it
    ],
)
def test_a_box_is_checked_as_the_zoom_tool_s_are(text, outcome):
    found = TOOL.validate(read_box(text).arguments, FRAME)
    if isinstance(found, Refusal):
        assert found.cause == outcome
        assert outcome in TOOL.causes
    else:
        assert TOOL.crop(found).box == outcome


def test_how_narrow_a_box_may_be_depends_on_the_crop_s_budget():
    frame = Frame(original=(4000, 4000), shown=(112, 112))
    wide = read_box("[0, 50, 100, 53].").arguments  # 4,000 x 120 pixels
    assert TOOL.validate(wide, frame).pixels == (0, 2000, 4000, 2120)
    less = Proposal.within(16, ImageProcessor())
    assert less.validate(wide, frame).cause == "narrow_box"


def test_its_pixels_are_those_that_pil_cuts():
    """[12, 30, 37, 55] of 200 x 140 pixels: 24 to 74 across, 42 to 77 down."""
    pixels = np.random.default_rng(0).integers(0, 256, (140, 200, 3), np.uint8)
    original = PIL.Image.fromarray(pixels)
    frame = Frame(original.size, (84, 56))
    region = TOOL.validate(read_box("[12, 30, 37, 55].").arguments, frame)
    assert region.pixels == (24, 42, 74, 77)
    shown = TOOL.execute(region, original).picture
    np.testing.assert_array_equal(shown, TOOL.processor.resize(original.crop((24, 42, 74, 77))))
    np.testing.assert_array_equal(np.array(original.crop((24, 42, 74, 77))), pixels[42:77, 24:74])


def test_ten_thousand_outputs_are_a_crop_in_the_image_or_a_counted_fault():
    seen = set()
    for text in hostile.outputs(0, 10_000):
        action = read_box(text)
        if isinstance(action, Call):
            action = TOOL.validate(action.arguments, FRAME)
        if isinstance(action, Refusal):
            assert action.cause in TOOL.causes
            assert action.message.isprintable()
            seen.add(action.cause)
        else:
            x1, y1, x2, y2 = action.pixels
            assert 0 <= x1 < x2 <= 400
            assert 0 <= y1 < y2 <= 200
    assert {"no_box", "several_boxes", "text_around_box"} <= seen


NUMBER = st.decimals(-200, 300, places=2).map(str) | st.sampled_from(hostile.NUMBERS)
LIST = st.lists(NUMBER, min_size=3, max_size=5).map(", ".join)


@settings(max_examples=500, deadline=None)
@given(LIST.map("[{}].".format) | st.text(alphabet="[]0123456789,. -e", max_size=40))
def test_whatever_lies_in_brackets_is_a_crop_in_the_image_or_a_fault(text):
    action = read_box(text)
    if isinstance(action, Call):
        action = TOOL.validate(action.arguments, FRAME)
    if isinstance(action, Refusal):
        assert action.cause in TOOL.causes
    else:
        x1, y1, x2, y2 = action.pixels
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 200


@pytest.mark.parametrize("piece", ["[", "]", "[1", "[ ", "1, ", "[1, 2, 3, ", " ", "-", "1" * 9])
def test_long_texts_are_read_in_linear_time(piece):
    begun = time.perf_counter()
    for text in (piece * 100_000, "[" + piece * 100_000 + "]"):
        read_box(text)
    assert time.perf_counter() - begun < 2, "seconds; a quadratic reader takes minutes"


def test_a_turn_of_the_dialogue_is_ready_to_be_cut(dialogue):
    opening = dialogue.open(small.record(0))
    request = dialogue.validate(dialogue.read("[50, 0, 100, 50]."), opening)
    assert isinstance(request, Ready)
    assert request.tool.ends
    crop = request.tool.crop(request.parsed)
    assert crop.written == (50, 0, 100, 50)
    assert crop.box == (80, 0, 160, 60)


# ------------------------------------------------------------------------------------ writing it


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ((100, 100, 300, 200), "[25, 50, 75, 100]."),
        ((101, 100, 299, 199), "[25, 50, 75, 100]."),  # outward
        ((0, 0, 400, 200), "[0, 0, 100, 100]."),
        ((120, 60, 120, 60), "[30, 30, 31, 31]."),  # never empty
        ((400, 200, 400, 200), "[99, 99, 100, 100]."),
        ((-50, -50, 500, 10), "[0, 0, 100, 5]."),
        ((0.1 * 400 * 3, 0, 400, 0.29 * 200), "[30, 0, 100, 29]."),  # 30.000000000000004 is 30
    ],
)
def test_a_box_is_written_in_whole_hundredths(box, text):
    assert write_box(tuple(map(float, box)), FRAME) == text


@pytest.mark.parametrize(
    "box", [(1, 2, float("nan"), 4), (0, 0, float("inf"), 9), (9, 0, 1, 5), (0, 9, 5, 1)]
)
def test_no_text_for_what_is_no_box(box):
    with pytest.raises(ValueError, match="box "):
        write_box(tuple(map(float, box)), FRAME)


SIDES = st.floats(-0.5, 1.5, allow_nan=False)


@settings(max_examples=500)
@given(
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    st.tuples(SIDES, SIDES, SIDES, SIDES),
)
def test_what_is_written_is_read_and_covers_the_box_by_less_than_a_hundredth(size, shares):
    frame = Frame(original=size, shown=(28, 28))
    (x1, x2), (y1, y2) = sorted(shares[::2]), sorted(shares[1::2])
    width, height = size
    box = Box(x1 * width, y1 * height, x2 * width, y2 * height)
    numbers = read_box(write_box(box, frame)).arguments["bbox_2d"]
    for low, high, first, last in ((x1, x2, *numbers[::2]), (y1, y2, *numbers[1::2])):
        assert 0 <= first < last <= 100
        low, high = (100 * min(max(side, 0), 1) for side in (low, high))
        assert first <= low + 1e-5
        assert last >= high - 1e-5
        assert low - first < 1 + 1e-5
        assert last - high <= 1 + 1e-5


@given(*[st.tuples(st.integers(0, 99), st.integers(1, 100)) for _ in range(2)])
def test_whole_hundredths_come_back_as_they_were(across, down):
    frame = Frame(original=(1234, 777), shown=(28, 28))
    x1, x2 = across[0], max(across[0] + 1, across[1])
    y1, y2 = down[0], max(down[0] + 1, down[1])
    box = frame.to(Box(x1, y1, x2, y2), "percent", "original")
    assert write_box(box, frame) == f"[{x1}, {y1}, {x2}, {y2}]."


def test_a_label_is_written_for_imitation_and_holds_all_targets():
    """As `true` boxes do in an evaluation: a target model sees one crop."""
    view = View(np.zeros((56, 112, 3), np.uint8), PIL.Image.new("RGB", (400, 200)))
    rng = np.random.default_rng(0)
    inner, outer = (40.0, 20.0, 80.0, 40.0), (0.0, 0.0, 200.0, 100.0)
    other = (200.0, 60.0, 300.0, 80.0)
    made = Record("r", "?", "a", Picture(path="x"), targets=((inner, outer),))
    assert labelled_box(made, view, rng) == ("[10, 10, 20, 20].",)
    made = replace(made, targets=((inner, outer), (other,)))
    assert labelled_box(made, view, rng) == ("[10, 10, 75, 40].",)
    with pytest.raises(ValueError, match="record 'r': has no box, so there is no label"):
        labelled_box(replace(made, targets=()), view, rng)
