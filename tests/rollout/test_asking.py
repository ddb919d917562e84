"""The file that says how a model is to be asked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.asking import FILE, Asking, prompt_text, toolbox
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.tools import Observation, Toolbox, refuse
from lfpc_jax.rollout.zoom import Zoom
from support import small

CROPPER = Asking("percent", 64, 12, 1, 32, prompt="[question]\n?\n", dialogue="box")
PERCENT = Asking("percent", 64, 12, 4, 128, 200, prompt_text("percent"))


def test_what_is_written_is_read(tmp_path):
    assert Asking.read(tmp_path) is None
    (tmp_path / FILE).write_text(PERCENT.text)
    assert Asking.read(tmp_path) == PERCENT
    (tmp_path / FILE).write_text(CROPPER.text)
    assert Asking.read(tmp_path) == CROPPER


def test_a_file_of_a_model_that_answers_is_as_it_was_before_there_were_crop_networks(tmp_path):
    before = {"format": 1, "convention": "percent", "image_tokens": 64, "crop_tokens": 12,
              "max_turns": 4, "turn_tokens": 128, "episode_tokens": 200,
              "prompt": PERCENT.prompt}  # fmt: skip
    assert PERCENT.text == json.dumps(before, indent=2) + "\n"
    assert json.loads(CROPPER.text)["dialogue"] == "box"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, where 1 is read"),
        ({"convention": "inches"}, "convention"),
        ({"image_tokens": 0}, "image_tokens is 0; it must be a whole number, at least 1"),
        ({"crop_tokens": "12"}, "crop_tokens"),
        ({"max_turns": True}, "max_turns is True"),
        ({"episode_tokens": -1}, "at least 0"),
        ({"prompt": 3}, "prompt is .*; it must be a text"),
        ({"dialogue": "chat"}, "dialogue"),
        ({"dialogue": "box"}, "max_turns is 4, and a crop network's .* is 1; set it to that"),
        ({"dialogue": "box", "convention": "unit"}, "convention is unit, and .* is percent"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_file_that_is_damaged_is_refused_by_name(tmp_path, change, message):
    raw = json.loads(PERCENT.text)
    (tmp_path / FILE).write_text(json.dumps(raw | change))
    with pytest.raises(ValueError, match=message) as refused:
        Asking.read(tmp_path)
    assert str(tmp_path / FILE) in str(refused.value)
    for text in ("", "[]", "{}", "3"):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ValueError, match="restore it, or remove it"):
            Asking.read(tmp_path)


def test_differences_are_named_with_both_values():
    assert PERCENT.changed(PERCENT) == ""
    now = replace(PERCENT, convention="shown", crop_tokens=1024, prompt=prompt_text("shown"))
    assert PERCENT.changed(now) == "convention shown, not percent; crop_tokens 1024, not 12"
    assert CROPPER.changed(replace(PERCENT, turn_tokens=32, episode_tokens=0)) == (
        "max_turns 4, not 1; dialogue zoom, not box"  # their prompts cannot be compared
    )
    other = PERCENT.prompt.replace("Answer the question", "Look")
    assert PERCENT.changed(replace(PERCENT, prompt=other)) == (
        "the prompt, whose first changed line is "
        "'Look about the image. You can look closer before you do.', "
        "not 'Answer the question about the image. You can look closer be"
    )
    assert replace(PERCENT, prompt="").changed(PERCENT) == "", "nobody noted it"


def test_the_prompt_is_what_dialogues_say():
    """Of a real dialogue: its messages about a record, and what follows a crop and a refusal."""
    made = small.dialogue()
    zoom = Zoom(small.CROPS, "percent", aspect_limit=8.0)
    for tools in (toolbox(ImageProcessor(), Asking.crop_tokens, "percent"), Toolbox(())):
        talk = Dialogue(made.tokenizer, made.chat, made.processor, tools)
        options = ("FIRST", "SECOND")
        system, user = talk.messages(small.record(0, question="QUESTION", options=options))
        assert f"]\n{system['content']}\n" in PERCENT.prompt
        assert f"]\n{user['content'][1]['text']}\n" in PERCENT.prompt
    after = {
        "a crop": zoom.render(Observation(np.zeros((28, 28, 3), np.uint8), None)),
        "a refused call": refuse(Refusal("", "REASON")),
    }
    for what, [message] in after.items():
        said = "".join(part.get("text", "IMAGE") for part in message["content"])
        assert f"[after {what}]\n{said}\n" in PERCENT.prompt
    assert prompt_text("shown") != PERCENT.prompt


def test_an_old_run_s_settings_are_read_by_today_s_names():
    old = {"convention": "percent", "image_tokens": 64, "crop_tokens": 12, "max_turns": 4,
           "max_tokens": 128, "slots": 64, "temperature": 1.0}  # fmt: skip
    assert Asking.of_settings(old) == Asking("percent", 64, 12, 4, 128, 128)
