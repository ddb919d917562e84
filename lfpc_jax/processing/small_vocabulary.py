"""A small tokenizer in Qwen's layout, trained on given texts, for models trained from scratch.

It is a byte-level BPE with Qwen's special tokens and chat template, so whatever reads a published
folder reads this one too. The ids of special tokens follow those of the trained tokens.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from lfpc_jax.processing.images import ImageProcessor

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
ORDINARY = ("<tool_call>", "</tool_call>")
"""One id each, but text that a conversation may contain."""

_WORDS = (  # Qwen's pre-tokenisation, in which digits stay apart
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def write_tokenizer(
    folder: Path,
    texts: Iterable[str],
    size: int,
    processor: ImageProcessor,
    *,
    whole: Sequence[str] = (),
) -> dict[str, int]:
    """Writes the files of a tokenizer of at most `size` ids, and those of the image processor. Each
    text in `whole` becomes one id. Returns the ids of these texts and of the special tokens."""
    added = (*SPECIAL, *ORDINARY, *whole)
    if size < 256 + len(added):
        raise ValueError(
            f"a vocabulary of {size}: bytes and special tokens alone need {256 + len(added)}"
        )
    vocabulary, merges = _train(texts, size - len(added))
    ids = {token: len(vocabulary) + place for place, token in enumerate(added)}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _write(folder / "tokenizer_config.json", _tokenizer_config(ids))
    _write(folder / "preprocessor_config.json", _processor_config(processor))
    return ids


def _train(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(a, b) for a, b in model["merges"]]


def _tokenizer_config(ids: dict[str, int]) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {
            str(number): {"content": token, **flags, "special": token in SPECIAL}
            for token, number in ids.items()
        },
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": _TEMPLATE,
    }


def _processor_config(processor: ImageProcessor) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": processor.min_pixels,
        "max_pixels": processor.max_pixels,
        "patch_size": processor.patch,
        "temporal_patch_size": processor.temporal_patch,
        "merge_size": processor.merge,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
