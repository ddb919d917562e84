"""The stop table against a search of the text itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpc_jax.rollout.stops import DONE, START, stop_table

STRINGS = ["</tool_call>", "</answer>", "aab", "é."]
WORDS = [b"", b"a", b"b", b"aa", b"ab", b"</", b"answer", b"ans", b"wer", b">", b">\n", b"tool",
         b"_call", b"</answer> and more", b"\xc3", b"\xa9", b".", b"x</ans", b"STOP"]  # fmt: skip
STOP = WORDS.index(b"STOP")
TABLE = stop_table(WORDS, STRINGS, [STOP])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=25))
def test_a_turn_stops_with_the_token_that_completes_a_string(ids):
    state, text, stopped = START, b"", False
    for token in ids:
        state = TABLE[state, token]
        text += WORDS[token]
        stopped |= token == STOP or any(s.encode() in text for s in STRINGS)
        assert (state == DONE) == stopped


def test_a_string_within_one_token_and_over_many():
    table = stop_table(WORDS, STRINGS, [])

    def after(*words):
        state = START
        for word in words:
            state = table[state, WORDS.index(word)]
        return state

    assert after(b"</answer> and more") == DONE
    assert after(b"x</ans", b"wer", b">\n") == DONE
    assert after(b"</", b"</", b"answer", b">") == DONE
    assert after(b"\xc3", b"\xa9", b".") == DONE
    assert after(b"</", b"answer", b"a") != DONE
    assert after(b"a", b"aa", b"b") == DONE  # the shorter ends of what was read count too
    assert after(b"") == START


@pytest.mark.seconds
def test_the_real_size_is_quick_and_small():
    rng = np.random.default_rng(0)
    vocabulary = [rng.bytes(n) for n in rng.integers(0, 20, 152_064)]
    table = stop_table(vocabulary, ["</tool_call>", "</answer>"], [5])
    assert table.nbytes < 4e6
    assert (table[:, 5] == DONE).all()


def test_strings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="an empty one would stop at once"):
        stop_table(WORDS, [""], [])
    with pytest.raises(ValueError, match="at most 254"):
        stop_table(WORDS, ["x" * 300], [])
