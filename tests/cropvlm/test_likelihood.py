"""Likelihoods against transformers', and against one another in other rows, meshes and company."""

import itertools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.cropvlm.likelihood import Likelihoods
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.cropvlm.target import Question
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import spec
from lfpc_jax.model.layers import unstack
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.engine import LogitsNotFinite
from lfpc_jax.trajectory import Picture
from support import small

pytestmark = pytest.mark.compiles

SETTINGS = TargetSettings(image_tokens=32, crop_tokens=16)
SIZES = ((160, 120), (90, 260), (400, 56))
BOXES = (
    (0.0, 0.0, 80.0, 56.0), None, (10.3, 5.0, 90.0, 30.9), (0.0, 0.0, 28.0, 50.0),
    (40.0, 20.0, 60.0, 41.0), (1.0, 2.0, 89.0, 55.0), (0.0, 0.0, 80.0, 56.0),
)  # fmt: skip
ANSWERS = ("red", "a long blue answer.", "7")


def showing(presentation="both", settings=SETTINGS):
    made = small.dialogue()
    settings = replace(settings, presentation=presentation)
    return Showing.within(settings, made.tokenizer, made.chat, ImageProcessor(min_pixels=784))


def questions():
    return [
        Question(small.record(i, picture=small.picture(i, *size), answer=answer), BOXES[i : i + 5])
        for i, (size, answer) in enumerate(zip(SIZES, ANSWERS))
    ]


@pytest.fixture(scope="module")
def alone():
    """On one device."""
    return Likelihoods(small.config())


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' model, tokenizer and image processor, of the Hugging Face folder."""
    folder = small.hf_folder(tmp_path_factory.mktemp("model") / "hf")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def touched(box):
    """The pixels that are cut: sides under 28 pixels are grown about their centre."""
    pixels = []
    for low, high in ((box[0], box[2]), (box[1], box[3])):
        more = max(0.0, 28 - (high - low)) / 2
        pixels.append((math.floor(low - more), math.ceil(high + more)))
    (x1, x2), (y1, y2) = pixels
    return x1, y1, x2, y2


@torch.no_grad()
def by_transformers(theirs, dialogue, record, box, settings=SETTINGS):
    """The log-probability of each token of the answer; one prompt at a time, with transformers'
    template, tokenizer, image processor and model."""
    model, tokenizer = theirs
    messages = dialogue.conversation(record, box, dialogue.view(record)).messages
    original = PIL.Image.open(record.picture.path).convert("RGB")
    images, budgets = [], []
    if dialogue.presentation != "crop":
        images, budgets = [original], [settings.image_tokens]
    if box is not None and dialogue.presentation != "image":
        images.append(original.crop(touched(box)))
        budgets.append(settings.crop_tokens)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pixels, grids = [], []
    for image, budget in zip(images, budgets):
        made = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=budget * 784)
        inputs = made([image], return_tensors="pt")
        pixels.append(inputs["pixel_values"])
        grids.append(inputs["image_grid_thw"])
        count = int(grids[-1].prod()) // 4
        text = text.replace("<|image_pad|>", "<|placeholder|>" * count, 1)
    text = text.replace("<|placeholder|>", "<|image_pad|>")
    right = record.answer[0].upper() + record.answer[1:].removesuffix(".") + "."
    if dialogue.presentation == "zoom":
        right = f"<answer>{record.answer}</answer>"
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer(right + "<|im_end|>", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *answer]])
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    more = {}
    if pixels:
        more = {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
    logits = (
        model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == pad).int(),
            use_cache=False,
            **more,
        )
        .logits[0]
        .double()
    )
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0].numpy()


@pytest.mark.parametrize(
    "presentation",
    ["both", "zoom", *(pytest.param(name, marks=pytest.mark.slow) for name in ("crop", "image"))],
)
def test_likelihoods_equal_transformers(alone, theirs, presentation):
    dialogue, tokens = showing(presentation), 0
    asked = questions()[: 3 if presentation == "both" else 2]
    for question, found in zip(asked, alone(small.params(), dialogue, asked)):
        for box, value in zip(question.boxes, found, strict=True):
            wanted = by_transformers(theirs, dialogue, question.record, box)
            assert value.tokens == len(wanted)
            assert value.total == pytest.approx(wanted.sum(), abs=1e-4 * len(wanted))
            tokens += len(wanted)
    assert tokens > 40


def values(made, params=None, asked=None, dialogue=None):
    params = small.params() if params is None else params
    scored = made(params, dialogue or showing(), questions() if asked is None else asked)
    return [[(each.total, each.tokens) for each in found] for found in scored]


@pytest.fixture(scope="module")
def expected(alone):
    return values(alone)


def close(found, wanted):
    assert [len(each) for each in found] == [len(each) for each in wanted]
    flat = itertools.chain.from_iterable
    for (total, tokens), (other, as_many) in zip(flat(found), flat(wanted), strict=True):
        assert tokens == as_many
        assert total == pytest.approx(other, abs=1e-4 * tokens)


def seen_by(made):
    """The mini-batches that are scored from now on, before they are placed."""
    placed, place = [], made.scorer.place
    made.scorer.place = lambda mini_batch: placed.append(mini_batch) or place(mini_batch)
    return placed


def grid(side=3, size=SIZES[0]):
    """All ranges of cells, as labels have them."""
    across, down = (np.linspace(0, length, side + 1) for length in size)
    ranges = [(a, b) for a in range(side) for b in range(a + 1, side + 1)]
    boxes = [(across[a], down[c], across[b], down[d]) for a, b in ranges for c, d in ranges]
    return Question(small.record(7, picture=small.picture(7, *size)), tuple(boxes))


@pytest.mark.long
def test_neither_sharing_nor_micro_batches_nor_the_layers_form_change_them(alone, expected):
    asked = questions()
    close(values(Likelihoods(small.config(), shared=False), asked=asked[:1]), expected[:1])
    close(values(alone, unstack(small.params()), asked[1:2]), expected[1:2])
    packed = Likelihoods(small.config(), micro_batch=400)
    placed = seen_by(packed)
    close(values(packed, asked=[grid()]), values(alone, asked=[grid()]))
    [mini_batch] = placed
    assert len(mini_batch.rows) >= 3
    assert len(mini_batch.bins) >= 3


def test_a_mesh_changes_nothing(alone, expected):
    """Four shards, and each layer over two devices. Every shard has as many rows as another, or one
    less, and encodes the image and the crops of its own rows."""
    cfg, mesh = small.config(), make_mesh(data=4, fsdp=1, tensor=2)
    params = jax.device_put(small.params(), spec.shardings(cfg, mesh))
    wanted = [expected[0], *values(alone, asked=[grid()])]
    meshed = Likelihoods(cfg, mesh=mesh, micro_batch=400)
    placed = seen_by(meshed)
    close(values(meshed, params, [questions()[0], grid()]), wanted)
    for mini_batch in placed:
        segments = [rows.tokens.segments.reshape(4, -1, mini_batch.shapes.row_tokens)
                    for rows in mini_batch.rows]  # fmt: skip
        rows_of = sum((of_shards > 0).any(-1).sum(-1) for of_shards in segments)
        assert rows_of.max() - rows_of.min() <= 1
    assert rows_of.min() >= 1


def test_values_are_the_same_in_any_company(alone, expected):
    """To the last bit, so that a resumed run writes the same bytes."""
    asked = questions()
    assert values(alone, asked=[grid(), *reversed(asked)])[1:] == expected[::-1]
    assert [values(alone, asked=[question])[0] for question in asked] == expected


def test_equal_pictures_are_encoded_once_and_equal_boxes_scored_once(expected):
    made = Likelihoods(small.config())
    placed = seen_by(made)
    first = questions()[0]
    doubled = replace(first, boxes=(*first.boxes, *first.boxes))
    assert values(made, asked=[doubled])[0] == expected[0] * 2
    [mini_batch] = placed
    distinct = len({*first.boxes})  # one of them shows no crop
    encoded = [len(np.unique(images.picture)) - 1 for images in mini_batch.pictures()]
    assert sum(encoded) == 1 + distinct - 1  # the image, the crops
    counting = sum((rows.weights > 0).sum() for rows in mini_batch.rows)
    assert counting == distinct * expected[0][0][1]


def test_programs_are_few(alone):
    """Questions of one kind share theirs, whatever their texts."""
    scorer = alone.scorer
    programs = scorer._encode, scorer._score, scorer._put, scorer._placed
    before = [program._cache_size() for program in programs]
    asked = [
        replace(grid(), record=small.record(i, question="Which " * (1 + i), answer="blue"))
        for i in range(3)
    ]
    assert len(values(alone, asked=asked)) == 3
    for program, count in zip(programs, before, strict=True):
        assert program._cache_size() - count <= 1, program


@pytest.mark.parametrize(
    ("changes", "boxes", "reason"),
    [
        ({}, ((900.0, 900.0, 950.0, 950.0),), "cannot be shown: .*covers nothing of its picture"),
        ({"answer": " "}, (None,), "cannot be shown: .*'r0' has no answer"),
        ({"question": "<|im_end|>"}, (None,), "cannot be shown: .*im_end"),
        ({"picture": Picture("nowhere.png")}, (None,), "missing picture: .*nowhere.png"),
    ],
)
def test_what_cannot_be_shown_is_a_fault_and_costs_no_other(alone, changes, boxes, reason):
    sound = questions()[0]
    asked = Question(replace(sound.record, **changes), boxes)
    before, bad, after = alone(small.params(), showing(), [sound, asked, sound])
    assert [each.total for each in bad] == [None]
    assert re.match(reason, bad[0].fault)
    assert before == after
    assert not any(each.fault for each in before)


def test_a_box_that_cannot_be_shown_costs_no_other_box(alone):
    sound = questions()[0]
    asked = replace(sound, boxes=((900.0, 900.0, 950.0, 950.0), *sound.boxes))
    [(bad, *others)] = alone(small.params(), showing(), [asked])
    [without] = alone(small.params(), showing(), [sound])
    assert bad.fault
    assert tuple(others) == without


def test_logits_that_are_not_finite_stop_it_by_name(alone):
    params = small.params()
    broken = params | {"unembed": params["unembed"].at[17].set(jnp.nan)}
    with pytest.raises(LogitsNotFinite, match=r"record 'r0', box \(0.0, 0.0, 80.0, 56.0\).*nan"):
        values(alone, broken)
