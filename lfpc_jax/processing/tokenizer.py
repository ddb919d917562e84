"""A model folder's own tokenizer, which gives arrays of ids.

It wraps transformers' fast tokenizers and never uses the network. Text is encoded as it is: no
tokens are added. Text that spells a special token becomes that token's id, which only a trusted
template may cause. Untrusted text goes through `ChatTemplate`, or is checked with `reserved_in`
first.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32
from transformers import PreTrainedTokenizerBase

from lfpc_jax import jsonfile, regular


@dataclass(frozen=True)
class Tokenizer:
    """Ids for text and back. `tool_call` and its end are None where the vocabulary lacks them."""

    backend: PreTrainedTokenizerBase = field(repr=False)
    size: int  # one more than the largest id; a model's padded vocabulary may be larger
    endoftext: int
    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    tool_call: int | None
    tool_call_end: int | None

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads tokenizer.json, or vocab.json and merges.txt, as tokenizer_config.json says."""
        _require_files(folder)
        backend = _backend(folder)
        ids = backend.get_vocab()

        def special(name: str) -> int:
            if name not in ids:
                raise ValueError(
                    f"{folder}: the tokenizer has no {name}; take all tokenizer files from one "
                    "Qwen2.5-VL checkpoint"
                )
            return ids[name]

        return cls(
            backend=backend,
            size=max(ids.values()) + 1,
            endoftext=special("<|endoftext|>"),
            im_start=special("<|im_start|>"),
            im_end=special("<|im_end|>"),
            vision_start=special("<|vision_start|>"),
            vision_end=special("<|vision_end|>"),
            image_pad=special("<|image_pad|>"),
            video_pad=special("<|video_pad|>"),
            tool_call=ids.get("<tool_call>"),
            tool_call_end=ids.get("</tool_call>"),
        )

    def encode(self, text: str) -> Int32[np.ndarray, "T"]:
        """The ids of trusted text, special tokens included where their text appears."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text holds half a surrogate pair, {text[error.start]!r}, at {error.start} of "
                f"{len(text)} characters; it is no Unicode: skip the sample"
            ) from error
        return np.asarray(self.backend.encode(text, add_special_tokens=False), np.int32)

    def decode(self, ids: Int[np.ndarray, "T"]) -> str:
        """The text of ids. Special tokens are written out, and bytes that are not UTF-8 become
        U+FFFD."""
        text = self.backend.decode(
            ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    @cached_property
    def reserved(self) -> tuple[str, ...]:
        """The tokens that untrusted text must not spell: special tokens, and all of the form
        <|...|>.

        `<tool_call>` and its end are not reserved: a conversation may rightly contain them.
        """
        added = self.backend.added_tokens_decoder.values()
        return tuple(t.content for t in added if t.special or t.content.startswith("<|"))

    def reserved_in(self, text: str) -> str | None:
        """The first reserved token that `text` spells, or None."""
        return next((token for token in self.reserved if token in text), None)


def _backend(folder: Path) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer, tried on a text. What transformers, its Rust library and a template
    raise for damaged files has no type in common, and a panic in Rust is no `Exception`."""
    try:
        backend = _kind(folder).from_pretrained(folder, local_files_only=True)
        backend.decode(backend.encode("Which way? [1, 2]", add_special_tokens=False))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        reason = " ".join(f"{type(error).__name__}: {error!s:.200}".split())
        raise ValueError(
            f"{folder}: its tokenizer files cannot be read ({reason}); copy tokenizer_config.json, "
            "tokenizer.json, vocab.json and merges.txt again, those of them that it had"
        ) from error
    return backend


def _kind(folder: Path) -> Any:
    """The class of a folder's tokenizer. Qwen's is imported by itself: `AutoTokenizer`, which finds
    all classes, imports PyTorch where that is installed, seconds at every start of a command."""
    settings = jsonfile.read_object(folder / "tokenizer_config.json")
    if settings.get("tokenizer_class") in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        from transformers import Qwen2Tokenizer

        return Qwen2Tokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer


def _require_files(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():  # transformers opens some of them
        if path.exists() and not path.is_dir():
            regular.check(path)

    def has(*names: str) -> bool:
        return all((folder / name).is_file() for name in names)

    vocabulary = has("tokenizer.json") or has("vocab.json", "merges.txt")
    if not (vocabulary and has("tokenizer_config.json")):
        raise ValueError(
            f"{folder}: no tokenizer; need tokenizer_config.json and either tokenizer.json or "
            "vocab.json with merges.txt: copy them from the checkpoint"
        )
