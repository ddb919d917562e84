import time

import pytest

from lfpc_jax.rollout.protocol import (
    CAUSES,
    DEEPEST_CALL,
    LONGEST_CALL,
    Answer,
    Call,
    Nothing,
    Refusal,
    read_turn,
)

ZOOM = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2.5, 3e1, -4], "label": "x"}}'
READ = Call("image_zoom_in_tool", {"bbox_2d": [1.0, 2.5, 30.0, -4.0], "label": "x"})


def call(body):
    return f"<tool_call>{body}</tool_call>"


@pytest.mark.parametrize(
    "text",
    [
        call(ZOOM),
        call(f"\n{ZOOM}\n"),
        call(ZOOM) + "<|im_end|>",
        call(ZOOM) + "\n<|im_end|>\n",
        f"<think>I will look.</think>\n{call(ZOOM)}",
        f"<think>never closed {call(ZOOM)}",
        f"an <answer> never closed {call(ZOOM)}",
    ],
)
def test_calls(text):
    assert read_turn(text) == READ


def test_every_number_is_a_float():
    arguments = read_turn(call('{"name": "t", "arguments": {"a": [1, -0, true, 1e3]}}')).arguments
    assert [type(value) for value in arguments["a"]] == [float, float, bool, float]


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("unopened_call", ZOOM + "</tool_call>"),
        ("unopened_call", "</tool_call>" + call(ZOOM)),
        ("unclosed_call", "<tool_call>" + ZOOM),
        ("unclosed_call", "<tool_call>"),
        ("unclosed_call", "<tool_call>" + ZOOM + "<|im_end|>"),
        ("unclosed_call", "<tool_call><tool_call>" + ZOOM),
        ("nested_call", call(call(ZOOM))),
        ("nested_call", call("<tool_call>" + ZOOM)),
        ("several_calls", call(ZOOM) + call(ZOOM)),
        ("several_calls", call(ZOOM) + "\n<tool_call>"),
        ("text_after_call", call(ZOOM) + "and then"),
        ("text_after_call", call(ZOOM) + "</tool_call>"),
        ("call_too_long", call(ZOOM.replace("x", "x" * LONGEST_CALL))),
        ("call_too_long", call("9" * 5000)),
        ("call_too_deep", call("[" * (DEEPEST_CALL + 1))),
        ("call_too_deep", call('{"a":' * (DEEPEST_CALL + 1))),
        ("bad_json", call("[" * DEEPEST_CALL)),
        ("bad_json", call("")),
        ("bad_json", call(" ")),
        ("bad_json", call("image_zoom_in_tool(1, 2, 3, 4)")),
        ("bad_json", call(ZOOM.replace('"', "'"))),
        ("bad_json", call(ZOOM[:-1])),
        ("bad_json", call(ZOOM + "}")),
        ("bad_json", call(ZOOM + ZOOM)),
        ("bad_json", call(ZOOM.replace("]", ",]"))),
        ("bad_json", call(f"```json\n{ZOOM}\n```")),
        ("bad_json", call(ZOOM + " // the sign")),
        ("bad_json", call(ZOOM.replace("-4", "0x10"))),
        ("bad_json", call(ZOOM.replace("-4", "+4"))),
        ("bad_json", call(ZOOM.replace("-4", "04"))),
        ("bad_json", call(ZOOM.replace("-4", "1_000"))),
        ("bad_json", call(ZOOM.replace("-4", "nan"))),
        ("bad_json", call(ZOOM.replace("-4", "__import__('os')"))),
        ("bad_json", call(ZOOM.replace("x", "a\nb"))),
        ("bad_json", call("\ufeff" + ZOOM)),
        ("bad_json", call("\u00a0" + ZOOM)),
        ("bad_json", call(ZOOM.replace("-4", "\uff14"))),
        ("duplicate_key", call('{"name": "a", "name": "b", "arguments": {}}')),
        ("duplicate_key", call('{"name": "a", "arguments": {"x": 1, "\\u0078": 2}}')),
        ("not_finite", call(ZOOM.replace("-4", "NaN"))),
        ("not_finite", call(ZOOM.replace("-4", "Infinity"))),
        ("not_finite", call(ZOOM.replace("-4", "-Infinity"))),
        ("not_finite", call(ZOOM.replace("-4", "1e999"))),
        ("not_finite", call(ZOOM.replace("-4", "-" + "9" * 3000))),
        ("not_a_call", call("null")),
        ("not_a_call", call("[]")),
        ("not_a_call", call("{}")),
        ("not_a_call", call(f"[{ZOOM}]")),
        ("not_a_call", call('"' + "x" * 20 + '"')),
        ("not_a_call", call('{"name": "a"}')),
        ("not_a_call", call('{"name": 1, "arguments": {}}')),
        ("not_a_call", call('{"name": "a", "arguments": []}')),
        ("not_a_call", call('{"name": "a", "arguments": "{}"}')),
        ("not_a_call", call('{"name": "a", "arguments": null}')),
        ("not_a_call", call('{"name": "a", "arguments": {}, "id": 1}')),
    ],
)
def test_faults(cause, text):
    found = read_turn(text)
    assert isinstance(found, Refusal)
    assert found.cause == cause
    assert cause in CAUSES


def test_every_cause_of_a_fault_is_in_the_table_above():
    (mark,) = [m for m in test_faults.pytestmark if m.name == "parametrize"]
    assert {cause for cause, _ in mark.args[1]} == set(CAUSES) - {"answer_and_call"}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("A", "<answer>A</answer>"),
        ("A", "<think>so</think><answer>\n A\n</answer>\n<|im_end|>"),
        ("A", "<answer>A</answer> I am sure."),
        ("", "<answer></answer>"),
        ("B", "<answer>A</answer><answer>B</answer>"),
        ("A", "<answer>A</answer><answer>B"),
        ("A", "<answer>A</answer></answer>"),
        ("A", "<answer><answer>A</answer></answer>"),
        ("a\nb", "<answer>a\nb</answer>"),
    ],
)
def test_answers(answer, text):
    assert read_turn(text) == Answer(answer)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>A</answer>" + call(ZOOM),
        call(ZOOM) + "<answer>A</answer>",
        "<answer>A</answer><tool_call>",
        "</tool_call><answer>A</answer>",
        "<tool_call><answer>A</answer>",
        call(ZOOM.replace('"x"', '"<answer>A</answer>"')),
    ],
)
def test_an_answer_beside_a_call_ends_the_episode_and_is_flagged(text):
    assert read_turn(text) == Answer("A", fault="answer_and_call")


@pytest.mark.parametrize(
    "text",
    ["", " \n", "<|im_end|>", "A", "<answer>A", "A</answer>", "<Answer>A</Answer>", "<tool_call"],
)
def test_nothing(text):
    assert read_turn(text) == Nothing()


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<answer>a", "<tool_call>", "[", "<"])
def test_reading_takes_linear_time(piece):
    start = time.process_time()
    read_turn(piece * (400_000 // len(piece)))
    assert time.process_time() - start < 1


def test_messages_repeat_nothing_that_the_model_wrote():
    marked = ZOOM.replace("zoom", "<|im_end|>").replace("label", "<|image_pad|>")
    for body in (marked, marked[:-1], marked + marked, f'{{"<|im_end|>": {marked}}}'):
        found = read_turn(call(body))
        assert isinstance(found, Call) or "<" not in found.message
