import json

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.protocol import CAUSES, Call, Refusal, read_turn
from lfpc_jax.rollout.tools import Ready, Toolbox, refuse, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from support.qwen_vocabulary import write_model_folder
from support.rotate import Rotate

PROCESSOR = ImageProcessor(min_pixels=784).with_tokens(256)
ZOOM, ROTATE = Zoom(PROCESSOR), Rotate(PROCESSOR)
BOTH = Toolbox((ZOOM, ROTATE))
FRAME = Frame(original=(300, 200), shown=(308, 196))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = write_model_folder(tmp_path_factory.mktemp("qwen"))
    return ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))


def test_a_second_tool_is_one_file_and_nothing_else():
    text = '<tool_call>{"name": "image_rotate_tool", "arguments": {"quarters": 1}}</tool_call>'
    ready = BOTH.validate(read_turn(text), FRAME)
    assert isinstance(ready, Ready)
    assert ready.tool is ROTATE
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    observation = ready.execute(PIL.Image.fromarray(pixels))
    turned = PIL.Image.fromarray(np.rot90(pixels))
    np.testing.assert_array_equal(observation.picture, PROCESSOR.resize(turned))
    assert observation.crop is None
    [message] = ready.tool.render(observation)
    assert [part["type"] for part in message["content"]] == ["text", "image", "text"]

    fault = BOTH.validate(Call("image_rotate_tool", {"quarters": 4.0}), FRAME)
    assert fault == Refusal("no_quarter", "quarters must be 1, 2 or 3")
    assert "no_quarter" in BOTH.causes
    assert "image_rotate_tool" in system_prompt(BOTH)
    assert "no_quarter" not in Toolbox((ZOOM,)).causes


def test_an_unknown_tool_is_told_the_known_ones():
    fault = BOTH.validate(Call("eval", {}), FRAME)
    assert fault.cause == "unknown_tool"
    assert "image_zoom_in_tool, image_rotate_tool" in fault.message
    assert "eval" not in fault.message
    assert "none" in Toolbox(()).validate(Call("eval", {}), FRAME).message


def test_two_tools_of_one_name_are_refused():
    with pytest.raises(ValueError, match="share a name"):
        Toolbox((ZOOM, Zoom(PROCESSOR, convention="unit")))


def test_causes_are_distinct_and_hold_those_of_every_stage():
    causes = BOTH.causes
    assert len(set(causes)) == len(causes)
    general = {"unknown_tool", "bad_arguments", "no_image"}
    assert {*CAUSES, *general, *ZOOM.causes, *ROTATE.causes} == set(causes)


def test_the_system_prompt_holds_one_schema_a_line():
    prompt = system_prompt(BOTH)
    lines = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    zoom, rotate = map(json.loads, lines)
    assert zoom["type"] == rotate["type"] == "function"
    assert zoom["function"]["name"] == "image_zoom_in_tool"
    assert zoom["function"]["parameters"]["required"] == ["bbox_2d"]
    assert rotate["function"]["parameters"]["properties"]["quarters"]["enum"] == [1, 2, 3]
    assert "<answer></answer>" in prompt


def test_without_tools_the_prompt_asks_for_the_answer_only():
    prompt = system_prompt(Toolbox(()))
    assert "tool" not in prompt
    assert "<answer></answer>" in prompt


@pytest.mark.seconds
def test_every_turn_that_a_tool_or_a_fault_makes_can_be_encoded(template):
    picture = PIL.Image.new("RGB", FRAME.original)
    ready = BOTH.validate(Call(ZOOM.name, {"bbox_2d": [0.0, 0.0, 100.0, 100.0]}), FRAME)
    observation = ready.execute(picture)
    grid = PROCESSOR.grid_of(observation.picture)
    ids = template.encode_after_reply(ready.tool.render(observation), [grid])
    tokenizer = template.tokenizer
    assert (ids == tokenizer.image_pad).sum() == grid[0] * grid[1]
    text = tokenizer.decode(ids)
    assert text.startswith("\n<|im_start|>user\n<tool_response>\n<|vision_start|>")
    assert "<|vision_end|>\nBoxes still refer to the first image.\n</tool_response>\n" in text
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")

    name = "<|im_end|><|image_pad|>"  # spelled out by the model, which the template would refuse
    fault = BOTH.validate(Call(name, {}), FRAME)
    text = tokenizer.decode(template.encode_after_reply(refuse(fault), []))
    assert "<tool_response>\nRefused: there is no tool of that name; the tools are: image_z" in text
    assert tokenizer.tool_call_end not in template.encode_after_reply(refuse(fault), [])
    template.render([{"role": "system", "content": system_prompt(BOTH)}], False)
