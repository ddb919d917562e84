"""What the page says of a trajectory's ids."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.report.conversation import Decoder, seen_size, token_side
from support import runs


def a_trajectory(**more):
    size, shown, green = runs.SIZES["wide"]
    return runs.trajectory(runs.record("wide", size, green), size, shown, green, **more)


def test_blocks_are_the_conversation_in_order():
    blocks = Decoder(runs.tokenizer()).blocks(a_trajectory())
    said = [(block["role"], block["sampled"], block["turn"]) for block in blocks]
    assert said == [
        ("system", False, -1),
        ("user", False, -1),
        ("assistant", True, 0),
        ("user", False, 0),
        ("assistant", True, 1),
    ]
    system, user, called, reply, answered = blocks
    assert system["parts"] == ["Tools and rules.<|im_end|>\n"]
    assert user["parts"] == [
        "<|vision_start|>",
        {"image": 200, "number": 0},  # 560 x 280 in tokens of 28 x 28
        "<|vision_end|>What is in wide?<|im_end|>\n",
    ]
    assert "".join(token[0] for token in called["tokens"]) == f"look{runs.CALL}</tool_call>"
    assert called["tail"] == "<|im_end|>\n"  # given, after the turn that a call had ended
    assert reply["parts"][0] == "<tool_response>\n<|vision_start|>"
    assert reply["parts"][1] == {"image": 16, "number": 1}
    written = "".join(token[0] for token in answered["tokens"])
    assert written == "<answer>a door</answer><|im_end|>"


def test_each_sampled_token_has_its_id_and_both_log_probabilities():
    trajectory = a_trajectory()
    blocks = Decoder(runs.tokenizer()).blocks(trajectory)
    numbers = [one for block in blocks if block["sampled"] for _, n in block["tokens"] for one in n]
    assert [one[0] for one in numbers] == trajectory.ids[trajectory.sampled].tolist()
    assert {tuple(one[1:]) for one in numbers} == {(-0.25, -0.5)}
    same = replace(trajectory, policy_logprobs=trajectory.logprobs)
    blocks = Decoder(runs.tokenizer()).blocks(same)
    assert all(len(n) == 2 for b in blocks if b["sampled"] for _, ns in b["tokens"] for n in ns)


def test_characters_of_several_tokens_stay_whole_and_broken_ones_are_shown():
    trajectory = a_trajectory(answer="n\u00e9\U0001f600!")
    block = Decoder(runs.tokenizer()).blocks(trajectory)[-1]
    found = {text: len(numbers) for text, numbers in block["tokens"]}
    assert found["\u00e9"] == 2  # two bytes that the small vocabulary never merged
    assert found["\U0001f600"] == 4
    half = runs.tokenizer().encode("\u00e9")[:1]
    last = trajectory.turns[-1]
    ids = trajectory.ids.copy()
    ids[last.stop - 1] = half[0]
    block = Decoder(runs.tokenizer()).blocks(replace(trajectory, ids=ids))[-1]
    assert block["tokens"][-1][0] == "\ufffd"


def test_log_probabilities_that_are_none_are_none():
    trajectory = a_trajectory()
    broken = np.where(trajectory.sampled, -np.inf, 0).astype(np.float32)
    block = Decoder(runs.tokenizer()).blocks(replace(trajectory, logprobs=broken))[-1]
    assert block["tokens"][0][1][0][1] is None


def test_another_tokenizer_is_refused():
    trajectory = a_trajectory()
    ids = trajectory.ids.copy()
    ids[3] = 10**6
    with pytest.raises(ValueError, match="outside the tokenizer"):
        Decoder(runs.tokenizer()).blocks(replace(trajectory, ids=ids))


def test_without_a_tokenizer_turns_are_read_as_text():
    blocks = Decoder(None).blocks(a_trajectory())
    assert [block["tokens"] for block in blocks] == [
        [[f"look{runs.CALL}</tool_call>", []]],
        [["<answer>a door</answer>", []]],
    ]


def test_sizes_are_told_from_counts():
    assert Decoder(runs.tokenizer()).images(a_trajectory()) == [200, 16]
    assert token_side(200, (560, 280)) == 28
    assert token_side(199, (560, 280)) == 0
    assert token_side(0, (560, 280)) == 0
    assert seen_size(24, (600, 400), 28) == (168, 112)  # 6 x 4
    assert seen_size(24, (400, 600), 28) == (112, 168)
    assert seen_size(24, (2400, 100), 28) == (672, 28)  # 24 x 1
    assert seen_size(0, (10, 10), 28) is None
    assert math.prod(seen_size(17, (100, 90), 28)) == 17 * 28**2
