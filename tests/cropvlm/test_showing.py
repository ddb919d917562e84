"""What a target is shown: texts by hand, ids, positions and pixels by transformers, crops by the
zoom tool."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.cropvlm.target import Question
from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import ALTERATIONS, alteration
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.protocol import Call
from lfpc_jax.rollout.tools import Toolbox, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Picture
from support import small
from support.qwen_vocabulary import write_model_folder
from support.reference import patches, rope_index

PRESENTATIONS = ("both", "crop", "image", "zoom")
TOKENS = 64
BOX = (10.0, 20.0, 300.0, 400.5)
BOXES = (BOX, (0.0, 0.0, 900.0, 60.0), (880.0, 690.0, 899.0, 700.0), (333.3, 5.0, 334.0, 695.0))
NOWHERE = ((5.0, 5.0, 5.0, 9.0), (950.0, 0.0, 990.0, 50.0))
DEFAULT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
CUE = "<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def showing(folder):
    cache = {}

    def of(presentation: str, **changes) -> Showing:
        settings = TargetSettings(
            presentation=presentation, image_tokens=TOKENS, crop_tokens=TOKENS
        )
        if presentation not in cache:
            cache[presentation] = Showing.from_folder(folder, settings)
        return replace(cache[presentation], **changes)

    return of


def record(**changes):
    return small.record(3, picture=small.picture(3, 900, 700), **changes)


def parts(dialogue, box, asked=None):
    """The opening and the reply for a box."""
    shown = dialogue.show(Question(asked or record(), (box,)))
    [place] = shown.places
    opening = shown.openings[place.opening]
    return opening, opening.follow[place.follow]()


def text_of(dialogue, ids):
    """Ids as text, with one placeholder for each run of them."""
    pad = dialogue.tokenizer.image_pad
    kept = [i for n, i in enumerate(ids) if i != pad or n == 0 or ids[n - 1] != pad]
    return dialogue.tokenizer.decode(np.array(kept, np.int32))


QUESTION = "Which colour is 3?"
BRIEF = f"{QUESTION}\nGive a very brief answer."
RESPONSE = (
    f"<tool_response>\n{PLACE}\nBoxes still refer to the first image.\n</tool_response>\n"
    "Call a tool again, or give your answer."
)
CALL = (
    '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [3, 6, 84, 112]}}'
    "</tool_call>"
)
USER = "<|im_start|>user\n"


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("presentation", "box", "left", "following"),
    [
        ("both", BOX, f"{DEFAULT}{USER}{PLACE}", f"{PLACE}{BRIEF}{CUE}"),
        ("both", None, f"{DEFAULT}{USER}{PLACE}", f"{BRIEF}{CUE}"),
        ("image", BOX, f"{DEFAULT}{USER}{PLACE}", f"{BRIEF}{CUE}"),
        ("crop", BOX, f"{DEFAULT}{USER}", f"{PLACE}{BRIEF}{CUE}"),
        ("crop", None, f"{DEFAULT}{USER}", f"{BRIEF}{CUE}"),
        (
            "zoom",
            BOX,
            f"<|im_start|>system\nTOOLS<|im_end|>\n{USER}{PLACE}{QUESTION}{CUE}",
            f"{CALL}<|im_end|>\n{USER}{RESPONSE}{CUE}",
        ),
        (
            "zoom",
            None,
            f"<|im_start|>system\n{system_prompt(Toolbox(()))}<|im_end|>\n{USER}{PLACE}",
            f"{QUESTION}{CUE}",
        ),
    ],
)
def test_conversations_by_hand(showing, presentation, box, left, following):
    dialogue = showing(presentation)
    opening, reply = parts(dialogue, box)
    left = left.replace("TOOLS", system_prompt(dialogue.toolbox))
    assert text_of(dialogue, opening.ids.tolist()) == left
    assert text_of(dialogue, reply.ids.tolist()) == following
    shows_full = presentation != "crop"
    assert (opening.view is not None) == shows_full
    assert (reply.picture is not None) == (PLACE in following)
    assert (reply.crop is not None) == (PLACE in following)


@pytest.mark.parametrize("presentation", PRESENTATIONS)
@pytest.mark.parametrize("box", [*BOXES, None])
def test_both_parts_are_the_conversation_in_one_go(showing, presentation, box):
    """Its text with all placeholders written out, encoded once; positions by transformers."""
    dialogue = showing(presentation)
    for asked in (record(), record(options=("1,000 metres", "B."), question="\n\n why\n"), record(
        question=" Wo steht „café“?", longest_side=300
    )):  # fmt: skip
        opening, reply = parts(dialogue, box, asked)
        conversation = dialogue.conversation(asked, box, dialogue.view(asked))
        text = dialogue.chat.render(conversation.messages, True)
        grids = [dialogue.processor.grid_of(picture) for picture in conversation.pictures]
        first, *others = text.split("<|image_pad|>")
        pads = ["<|image_pad|>" * (rows * columns) for rows, columns in grids]
        whole = first + "".join(pad + rest for pad, rest in zip(pads, others, strict=True))
        ids = np.concatenate([opening.ids, reply.ids])
        np.testing.assert_array_equal(ids, dialogue.tokenizer.encode(whole))
        episode = Episode(opening, 0, Rules(), dialogue, 4096)
        _, after = episode.take(reply)
        positions = np.concatenate([opening.positions[:, :-1], after], axis=1)
        wanted, deltas = rope_index([ids], grids, dialogue.tokenizer.image_pad)
        np.testing.assert_array_equal(positions, wanted[:, 0])
        assert episode.position + 1 == deltas[0] + len(ids)


@pytest.mark.seconds
@pytest.mark.parametrize("presentation", ["both", "crop", "image", "zoom"])
def test_ids_and_pixels_equal_transformers_processor(showing, folder, presentation, monkeypatch):
    """Of the original and a piece of it, both still to be resized. Built without a video
    processor, which would need torchvision."""
    monkeypatch.setattr(
        Qwen2_5_VLProcessor, "check_argument_for_proper_class", lambda *unused: None
    )
    dialogue = showing(presentation)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=TOKENS * 784),
        tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
        chat_template=dialogue.chat.source,
    )
    original = PIL.Image.open(record().picture.path)
    for box in (BOX, (100.0, 200.0, 850.0, 340.0)):
        shown = [original] if presentation != "crop" else []
        if presentation != "image":
            x1, y1, x2, y2 = box
            shown.append(original.crop((int(x1), int(y1), int(x2), int(np.ceil(y2)))))
        conversation = dialogue.conversation(record(), box, dialogue.view(record()))
        text = processor.apply_chat_template(
            [_in_parts(message) for message in conversation.messages], add_generation_prompt=True
        )
        theirs = processor(text=[text], images=shown, return_tensors="pt")
        opening, reply = parts(dialogue, box)
        ids = np.concatenate([opening.ids, reply.ids])
        assert theirs["input_ids"][0].tolist() == ids.tolist()
        ours = torch.cat([patches(picture) for picture in conversation.pictures])
        torch.testing.assert_close(theirs["pixel_values"], ours, atol=1e-5, rtol=0)


def _in_parts(message):
    content = message["content"]
    return message | {
        "content": [{"type": "text", "text": content}] if isinstance(content, str) else content
    }


def test_equal_boxes_share_a_place_and_what_cannot_be_shown_has_its_reason(showing):
    boxes = (BOX, None, BOX, (float("nan"), 0.0, 1.0, 1.0), *NOWHERE, BOXES[1])
    for presentation in ("both", "crop", "zoom"):
        dialogue = showing(presentation)
        shown = dialogue.show(Question(record(), boxes))
        first, nothing, again, *faulty, last = shown.places
        assert first == again != last
        assert nothing not in (first, last)
        assert "must be a finite number" in faulty[0]
        assert all("covers nothing of its picture of 900x700 pixels" in why for why in faulty[1:])
        assert len(shown.openings) == (2 if presentation == "zoom" else 1)
        follows = [len(opening.follow) for opening in shown.openings]
        assert follows == ([2, 1] if presentation == "zoom" else [3])
    for dialogue in (showing("image"), showing("both", toolbox=Toolbox(()))):
        shown = dialogue.show(Question(record(), boxes))
        assert set(shown.places) == {(0, 0)}, "no box matters where no crop is shown"
        _, reply = parts(dialogue, BOX)
        assert reply.picture is None
    assert showing("both").show(Question(record(), ())).openings == ()


@pytest.mark.parametrize("presentation", PRESENTATIONS)
def test_without_a_picture_only_the_question_is_asked(showing, presentation):
    dialogue = showing(presentation)
    opening, reply = parts(
        dialogue, BOX, small.record(3, picture=Picture())
    )  # fmt: skip
    text = text_of(dialogue, [*opening.ids.tolist(), *reply.ids.tolist()])
    assert "image_pad" not in text
    assert QUESTION in text
    assert text.endswith(CUE)


@pytest.mark.parametrize("presentation", ["both", "crop", "zoom"])
def test_a_crop_is_what_the_zoom_tool_gives(showing, presentation):
    """Cut from the original, also where the full image has an information gap; a box that the
    tool would refuse as too narrow is grown until it takes it."""
    dialogue = showing(presentation)
    [zoom] = dialogue.toolbox.tools
    asked = record(longest_side=200)
    original = pictures.original(asked.picture)
    exact = replace(zoom, convention="original")
    opening = Dialogue.open(showing("image"), asked)
    assert max(opening.view.shown.shape) <= 224
    for box in BOXES[:3]:
        _, reply = parts(dialogue, box, asked)
        region = exact.validate({"bbox_2d": list(box)}, opening.view.frame)
        np.testing.assert_array_equal(reply.picture, zoom.execute(region, original).picture)
        assert reply.crop.box == region.box
    _, reply = parts(dialogue, BOXES[3], asked)
    x1, y1, x2, y2 = reply.crop.box
    assert (x2 - x1, y1, y2) == (28.0, 5.0, 695.0)
    narrow = replace(small.record(9), picture=small.picture(9, 4000, 40))
    few = replace(dialogue, toolbox=Toolbox((Zoom.within(16, dialogue.processor),)))
    boxes = (0.0, 0.0, 4000.0, 40.0), (100.0, 0.0, 200.0, 4.0)
    long, short = few.show(Question(narrow, boxes)).places
    assert "spans 4000 by 40 pixels of its picture" in long
    assert not isinstance(short, str)


def test_a_forced_call_reads_as_the_targets_own(showing):
    """In every convention the call is valid and asks for the box, to the rounding."""
    for convention in ("shown", "original", "unit", "percent", "mille"):
        dialogue = showing("zoom")
        [zoom] = dialogue.toolbox.tools
        dialogue = replace(dialogue, toolbox=Toolbox((replace(zoom, convention=convention),)))
        for box in BOXES[:2]:
            opening, reply = parts(dialogue, box)
            written = text_of(dialogue, reply.ids.tolist()).partition("<|im_end|>")[0]
            call = dialogue.read(written)
            assert isinstance(call, Call)
            request = dialogue.validate(call, opening)
            frame = opening.view.frame
            unit = frame.to(request.parsed.box, "original", "unit")
            np.testing.assert_allclose(
                unit, frame.to(type(unit)(*box), "original", "unit"), atol=6e-3
            )
            assert reply.crop.written == request.parsed.written


@pytest.mark.parametrize("name", ALTERATIONS)
@pytest.mark.parametrize("presentation", ["both", "crop", "zoom"])
def test_alterations_replace_the_crop_and_nothing_else(showing, presentation, name):
    target = (600.0, 100.0, 700.0, 200.0)
    asked = record(targets=((target,),))
    other = small.record(8, picture=small.picture(8, 640, 480))
    plain = showing(presentation)
    dialogue = replace(plain, alter=alteration(name, [asked, other], seed=1))
    opening, reply = parts(dialogue, BOX, asked)
    was_opening, was = parts(plain, BOX, asked)
    np.testing.assert_array_equal(opening.ids, was_opening.ids)
    assert reply.crop == was.crop
    assert not np.array_equal(reply.picture, was.picture)
    if name == "truth":
        _, true = parts(plain, target, asked)
        np.testing.assert_array_equal(reply.picture, true.picture)
    else:
        assert reply.picture.shape == was.picture.shape
        np.testing.assert_array_equal(reply.ids, was.ids)
    if name == "blank":
        assert len(np.unique(reply.picture.reshape(-1, 3), axis=0)) == 1
    full, crop = dialogue.pictures(asked, BOX)
    np.testing.assert_array_equal(crop, reply.picture)
    assert (full is None) == (presentation == "crop")
    if full is not None:
        np.testing.assert_array_equal(full, opening.view.shown)


def test_the_right_answer_as_the_target_would_write_it(showing):
    def written(presentation, answer):
        return showing(presentation).answer_text(record(answer=answer))

    for presentation in ("both", "crop", "image"):
        assert written(presentation, "red") == "Red."
        assert written(presentation, " NASA and esa ") == "NASA and esa."
        assert written(presentation, "élan") == "Élan."
        assert written(presentation, "U.S.") == "U.S."
        assert written(presentation, "3") == "3."
    assert written("zoom", "red") == "<answer>red</answer>"
    both = showing("both")
    ids = both.answer_ids(record(answer="a red bus"))
    assert ids.dtype == np.int32
    assert both.tokenizer.decode(ids) == "A red bus.<|im_end|>"
    _, reply = parts(both, BOX)
    messages = [
        *both.conversation(record(), BOX, both.view(record())).messages,
        {"role": "assistant", "content": "A red bus."},
    ]
    whole = both.chat.encode(messages, [(1, 1), (1, 1)], False).tolist()
    end = [*reply.ids.tolist()[-5:], *ids.tolist()]
    assert whole[-1 - len(end) : -1] == end, "as the template writes it, up to a last line break"
    with pytest.raises(ValueError, match="record 'r3' has no answer"):
        written("both", " ")
    with pytest.raises(ValueError, match=r"spells the special token <\|im_end\|>"):
        both.answer_ids(record(answer="<|im_end|>"))


@pytest.mark.parametrize(
    ("written", "plain", "zoomed"),
    [
        ("Red.", "Red", "Red."),
        ("3.5.", "3.5", "3.5."),
        ("U.S.", "U.S", "U.S."),
        ("<think>hm.</think>Red. \n", "Red", "Red."),
        (".", "", "."),
        (" red \n", "red", "red"),
        ("<answer>red</answer>", "red", "red"),
        ("<think>is it?</think>Blue", "Blue", "Blue"),
        ("", "", ""),
        ("a <tool_call>", "a <tool_call>", ""),
    ],
)
def test_answers_are_read(showing, written, plain, zoomed):
    for presentation in PRESENTATIONS:
        dialogue = showing(presentation)
        opening, reply = parts(dialogue, BOX)
        episode = Episode(opening, 0, Rules(max_turns=1), dialogue, 4096)
        episode.take(reply)
        ids = [*dialogue.tokenizer.encode(written).tolist(), dialogue.tokenizer.im_end]
        episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
        assert episode.close_turn(stopped=True) is None
        answer = dialogue.answer(episode.trajectory())
        assert answer == (zoomed if presentation == "zoom" else plain)


@pytest.mark.parametrize("presentation", PRESENTATIONS)
@pytest.mark.parametrize(
    ("written", "plain"),
    [("The sign says that the ex", "The sign says that the ex"), ("<think>The sign", "")],
)
def test_an_answer_that_was_cut_off_is_scored_as_it_stands(showing, presentation, written, plain):
    """After a call of the zoom tool an answer needs its tags, so there it is an empty one."""
    dialogue = showing(presentation)
    opening, reply = parts(dialogue, BOX)
    ids = dialogue.tokenizer.encode(written).tolist()
    episode = Episode(opening, 0, Rules(max_turns=1, turn_tokens=len(ids)), dialogue, 4096)
    episode.take(reply)
    episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
    assert episode.close_turn(stopped=False) is None
    trajectory = episode.trajectory()
    assert trajectory.end == "max_tokens"
    assert dialogue.answer(trajectory) == ("" if presentation == "zoom" else plain)


@pytest.mark.parametrize("presentation", PRESENTATIONS)
def test_lengths_are_known_without_opening_a_picture(showing, presentation):
    dialogue = showing(presentation)
    records = [
        record(),
        record(question="Why? " * 40),
        record(longest_side=100),
        record(options=("a", "b")),
        small.record(4, picture=small.picture(4, 1200, 60)),
    ]
    measured = [(dialogue.size(each), dialogue.texts(each)) for each in records]
    pad = dialogue.tokenizer.image_pad
    for each, ((grid, text), (left, following)) in zip(records, measured, strict=True):
        assert left == text
        size = pictures.size(each.picture)
        shown = dialogue.show(Question(each, (None, BOX, (0.0, 0.0, *map(float, size)))))
        grids = {
            (0, 0) if o.view is None else dialogue.processor.grid_of(o.view.shown)
            for o in shown.openings
        }
        assert grids == {grid}
        assert max(int((o.ids != pad).sum()) for o in shown.openings) == left
        follows = [int((f().ids != pad).sum()) for o in shown.openings for f in o.follow]
        assert max(follows) <= following <= max(follows) + (16 if presentation == "zoom" else 0)
    gone = replace(record(), picture=Picture(path="gone.png"))
    assert dialogue.texts(gone) == measured[0][1]


def test_a_question_that_spells_a_special_token_cannot_be_shown(showing):
    for presentation in PRESENTATIONS:
        with pytest.raises(ValueError, match=r"spells the special token <\|im_end\|>"):
            showing(presentation).show(Question(record(question="a<|im_end|>"), (BOX,)))
