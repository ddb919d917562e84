"""Text that is sent on while it comes, and what is held back of it."""

import random

import pytest

from lfpc_jax.rollout.protocol import CALL
from lfpc_jax.serve.spoken import TextDecoder, Watched, tool_call
from support import small

TEXT = 'Größe: "漢字" 👩‍🔬 é and more, naïve — 12 %.'


def test_pieces_are_the_text_and_every_piece_ends_with_a_whole_letter():
    tokenizer = small.dialogue().tokenizer
    ids = tokenizer.encode(TEXT).tolist()
    assert len(ids) > len(TEXT.split())
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.add([number]) for number in ids]
    pieces.append(decoder.add([tokenizer.im_end], last=True))
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_letter_are_told_in_the_end():
    tokenizer = small.dialogue().tokenizer
    half = tokenizer.encode("漢").tolist()[:1]
    decoder = TextDecoder(tokenizer)
    assert decoder.add(half) == ""
    assert decoder.add((), last=True) == "\ufffd"
    many = [piece for piece in (decoder.add(half) for _ in range(40)) if piece]
    assert many, "they are not held back for ever"


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_is_found_however_the_text_is_cut(seed):
    rng = random.Random(seed)
    text = "one\n\ntwo STO STOP three"
    watched, sent = Watched(("STOP", "never")), []
    while text:
        cut = rng.randint(1, 4)
        sent.append(watched.add(text[:cut]))
        text = text[cut:]
    watched.add("", last=True)
    assert "".join(sent) == watched.text == "one\n\ntwo STO "
    assert watched.stopped


@pytest.mark.parametrize("seed", range(20))
def test_a_call_is_held_back_and_nothing_else(seed):
    rng = random.Random(seed)
    said, call = (
        "I look <tool> closer.",
        f'{CALL}{{"name": "f", "arguments": {{"a": [1, 2]}}}}</tool_call>',
    )
    text, watched, sent = said + call, Watched((), (CALL,)), ""
    while text:
        cut = rng.randint(1, 7)
        sent += watched.add(text[:cut])
        text = text[cut:]
    assert sent + watched.add("", last=True) == said
    found = tool_call(watched.held)
    assert (found.name, found.arguments) == ("f", '{"a": [1, 2]}')


def test_what_is_no_call_stays_text():
    for held in ("", CALL, f"{CALL}{{}}</tool_call>", f'{CALL}{{"name": "f"}}</tool_call>',
                 f'{CALL}{{"name": "\\ud800", "arguments": {{}}}}</tool_call>'):  # fmt: skip
        assert tool_call(held) is None
    watched = Watched((), (CALL,))
    assert watched.add("a <tool_ca") == "a "
    assert watched.add("", last=True) == "<tool_ca"
