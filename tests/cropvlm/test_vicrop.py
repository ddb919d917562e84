"""Relative attention against transformers' attentions, and its boxes against literal loops."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lfpc_jax.cropvlm import vicrop
from lfpc_jax.cropvlm.vicrop import (
    RATIOS,
    RelativeAttention,
    attended_box,
    relative_attention_boxes,
    usual_layer,
)
from lfpc_jax.model import qwen
from lfpc_jax.model.layers import unstack
from lfpc_jax.rollout.dialogue import question
from lfpc_jax.trajectory import Picture
from support import pictured, ported, reference, small

TOLERANCE = 1e-5


@pytest.mark.long
@pytest.mark.compiles
@pytest.mark.parametrize("seed", [3])
def test_weights_of_the_last_token_equal_transformers(seed, tmp_path):
    model = reference.random_model(reference.random_config(seed, tied=True), seed)
    model.set_attn_implementation("eager")
    cfg = ported.read_config(model.config, tmp_path, dtype="float32")
    params = ported.parameters(model, cfg)
    rng = np.random.default_rng(seed)
    prompts = [reference.random_prompt(rng, images) for images in (1, 2)]
    tokens, images = ported.arrays(prompts, cfg, length=256, windows=25)
    images = jax.tree.map(jax.numpy.asarray, images)
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    with torch.no_grad():
        theirs = model(**reference.model_inputs(prompts, 256), output_attentions=True).attentions
    weights = jax.jit(qwen.last_weights, static_argnames=("cfg", "depth"))
    for depth in {0, cfg.text.layers - 1}:
        ours = np.asarray(weights(params, tokens, embeddings, cfg=cfg, depth=depth))
        loose = np.asarray(weights(unstack(params), tokens, embeddings, cfg=cfg, depth=depth))
        for row, prompt in enumerate(prompts):
            last = len(prompt.ids) - 1
            wanted = theirs[depth][row, :, last].numpy()
            assert np.abs(ours[row] - wanted).max() <= TOLERANCE
            assert np.abs(loose[row] - wanted).max() <= TOLERANCE
            assert np.ptp(wanted[:, : last + 1]) > 1e-3  # not uniform


@pytest.mark.long
@pytest.mark.compiles
def test_boxes_equal_those_of_transformers_and_literal_loops(tmp_path):
    sizes = [(230, 170), (150, 210), (90, 60), (600, 90), (28, 28)]
    records = [
        pictured.record(f"r{i}", picture=Picture(data=pictured.jpeg(*size, seed=i)), question=text)
        for i, size in enumerate(sizes)
        for text in [("Which colour is it?", "What is on the left?")[i % 2]]
    ]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        small.hf_folder(tmp_path / "model"), attn_implementation="eager"
    ).eval()
    dialogue, settings = small.dialogue(), RelativeAttention(layer=1, side=40.0, rows=4)
    boxes = list(
        relative_attention_boxes(small.params(), small.config(), dialogue, records, settings)
    )
    for record, size, box in zip(records, sizes, boxes, strict=True):
        relative = _theirs(model, dialogue, record, settings)
        np.testing.assert_allclose(box, _literally(relative, size, settings.side), atol=1e-6)
        assert 0 <= box[0] < box[2] <= size[0]
        assert 0 <= box[1] < box[3] <= size[1]
    assert boxes[-1] == (0.0, 0.0, 28.0, 28.0)  # smaller than the square
    assert len({box[2] - box[0] for box in boxes}) > 1  # more than one size is chosen


@pytest.mark.compiles
def test_records_that_cannot_be_shown_are_logged_and_have_no_boxes(caplog):
    unread = pictured.record("unread", picture=Picture(data=b"no picture"))
    records = [pictured.record("sound"), unread, pictured.record("text", picture=Picture())]
    boxes = list(
        relative_attention_boxes(
            small.params(), small.config(), small.dialogue(), records, RelativeAttention(rows=4)
        )
    )
    assert boxes[0] is not None
    assert boxes[1:] == [None, None]
    assert "record 'unread' skipped" in caplog.text
    assert "record 'text' skipped: there is no image to attend to" in caplog.text


def test_a_peak_is_found_at_its_cell():
    """Cells of 10 pixels: the smallest square holds exactly one, and no other is as sharp."""
    attention = np.ones((6, 8))
    attention[4, 2] = 5
    assert attended_box(attention, (80, 60), 10.0) == (20.0, 40.0, 30.0, 50.0)


def test_worked_example_of_the_sharpest_size():
    """A 2 x 2 patch of 3 in a map of 1 with cells of 10 pixels. Squares of 20 pixels and more
    cover 2 x 2 cells up to a factor of 1.4, then 3 x 3 (1.6, 1.8), then 4 x 4. Sums: 12 beside
    8, 8, 8, 8 gives (12 - 8) / 4; 3 x 3 covers the patch wherever it lies over it, so the first
    peak has neighbours as large as itself and is less sharp."""
    attention = np.ones((6, 6))
    attention[2:4, 3:5] = 3
    assert attended_box(attention, (60, 60), 20.0) == (30.0, 20.0, 50.0, 40.0)


def test_boxes_are_shifted_into_the_image():
    attention = np.ones((6, 6))
    attention[0, 5] = 9
    # A side of 14 pixels covers one cell of 10, whose centre is (55, 5).
    assert attended_box(attention, (60, 60), 14.0) == (46.0, 0.0, 60.0, 14.0)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (3, 4), (2, 2), (1, 1), (7, 5)])
@pytest.mark.parametrize("side", [5.0, 33.0, 61.0, 224.0])
def test_any_map_gives_what_literal_loops_give(shape, side):
    rng = np.random.default_rng(shape[0] * 10 + shape[1])
    size = (shape[1] * 31, shape[0] * 29)
    for attention in (rng.random(shape), rng.integers(0, 2, shape).astype(float), np.ones(shape)):
        box = attended_box(attention, size, side)
        np.testing.assert_allclose(box, _literally(attention, size, side), atol=1e-9)


def test_settings_are_checked():
    text = small.config().text
    assert usual_layer(replace(text, layers=36)) == 22
    assert RelativeAttention().depth(text) == usual_layer(text)
    with pytest.raises(ValueError, match="layer 2 of a model whose 2 layers"):
        RelativeAttention(layer=2).depth(text)
    with pytest.raises(ValueError, match="side must be positive"):
        RelativeAttention(side=0.0)


def test_neutral_attention_of_zero_gives_numbers():
    dialogue = small.dialogue()
    record = small.record(0)
    asked = vicrop._asked(0, record, dialogue, vicrop.INSTRUCTION)
    grid = dialogue.processor.grid_of(asked.view.shown)
    cells = grid[0] * grid[1]
    places = np.r_[-1, np.arange(cells)]
    weights = np.zeros((2, cells + 1), np.float32)
    weights[0, 1] = 0.5
    relative = vicrop._map(weights, places, asked, dialogue)
    assert np.isfinite(relative).all()
    assert relative.argmax() == 0


def _theirs(model, dialogue, record, settings) -> np.ndarray:
    """The map from transformers' attentions, each prompt alone in its row."""
    view = dialogue.look(record)
    grid = dialogue.processor.grid_of(view.shown)
    image = dialogue.tokenizer.image_pad
    means = []
    for text in (question(record), "Write a general description of the image."):
        content = [{"type": "image"}, {"type": "text", "text": f"{text} {settings.instruction}"}]
        ids = dialogue.chat.encode([{"role": "user", "content": content}], [grid], True)
        inputs = reference.model_inputs([reference.Prompt(ids, [view.shown])], len(ids))
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image).int()
        with torch.no_grad():
            weights = model(**inputs, output_attentions=True).attentions[settings.layer]
        means.append(weights[0, :, -1].mean(axis=0).double().numpy()[ids == image])
    return (means[0] / means[1]).reshape(grid)


def _literally(attention, size, side):
    """The published description, step by step: every square of every size, and its neighbours."""
    rows, columns = attention.shape
    width, height = size[0] / columns, size[1] / rows
    chosen = []
    for ratio in RATIOS:
        across, down = int(side * ratio / width), int(side * ratio / height)
        across, down = min(max(across, 1), columns), min(max(down, 1), rows)
        if across == columns and down == rows:
            break
        sums = {}
        for x in range(columns - across + 1):
            for y in range(rows - down + 1):
                cells = [attention[y + j, x + i] for j in range(down) for i in range(across)]
                sums[x, y] = np.array(cells).reshape(down, across).sum()
        (x, y), peak = max(sums.items(), key=lambda item: item[1])
        near = [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]
        beside = [sums[place] for place in near if place in sums]
        sharpness = (peak - sum(beside) / len(beside)) / (across * down)
        chosen.append((sharpness, ratio, x + across / 2, y + down / 2))
    if not chosen:
        return 0.0, 0.0, float(size[0]), float(size[1])
    _, ratio, x, y = max(chosen, key=lambda choice: choice[0])
    box = []
    for middle, extent in ((x * width, size[0]), (y * height, size[1])):
        length = min(side * ratio, extent)
        start = max(middle - length / 2, 0.0)
        if start + length > extent:
            start = extent - length
        box.append((start, start + length))
    (x1, x2), (y1, y2) = box
    return x1, y1, x2, y2
