"""What the sampler must know of the vocabulary: which ids it may draw, and what they write."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lfpc_jax.processing.tokenizer import Tokenizer

_PLACEHOLDERS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
                 "<|video_pad|>")  # fmt: skip


def allowed_ids(
    tokenizer: Tokenizer, vocabulary: int, *, banned: Sequence[str] = ()
) -> Bool[np.ndarray, "V"]:
    """A mask over the model's ids of those that may be sampled: all that the tokenizer has, except
    the placeholders of vision and the `banned` tokens."""
    ids = tokenizer.backend.get_vocab()
    _check_size(tokenizer, vocabulary)
    unknown = [token for token in banned if token not in ids]
    if unknown:
        raise ValueError(f"banned tokens {unknown}: the tokenizer has none of that name")
    allowed = np.zeros(vocabulary, bool)
    allowed[list(ids.values())] = True
    allowed[[ids[token] for token in (*_PLACEHOLDERS, *banned) if token in ids]] = False
    return allowed


def token_bytes(tokenizer: Tokenizer, vocabulary: int) -> list[bytes]:
    """The bytes that each of the model's ids writes; none where the tokenizer has no such id."""
    _check_size(tokenizer, vocabulary)
    byte_of = _byte_alphabet()
    added = {i: token.content for i, token in tokenizer.backend.added_tokens_decoder.items()}
    written = [b""] * vocabulary
    for token, number in tokenizer.backend.get_vocab().items():
        if number in added:
            written[number] = added[number].encode()
            continue
        try:
            written[number] = bytes(byte_of[character] for character in token)
        except KeyError as error:
            raise ValueError(
                f"token {number}, {token!r}, is not spelled in the byte alphabet of Qwen's "
                "tokenizers; only byte-level tokenizers are known"
            ) from error
    return written


def _check_size(tokenizer: Tokenizer, vocabulary: int) -> None:
    if tokenizer.size > vocabulary:
        raise ValueError(
            f"{tokenizer.backend.name_or_path}: the tokenizer has ids up to {tokenizer.size - 1}, "
            f"the model a vocabulary of {vocabulary}; take the tokenizer from the model's own "
            "folder"
        )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes of Latin-1 stand for themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
