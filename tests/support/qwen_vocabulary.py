"""Qwen's real vocabulary as a model folder, built offline.

No checkpoint can be downloaded here, but the PyPI package `dashscope` carries `qwen.tiktoken`: the
151,643 byte-level ranks that Qwen2 and Qwen2.5-VL publish as `vocab.json` and `merges.txt`. This
module turns the one into the other and adds the special tokens and the chat template, in either
layout in which a tokenizer is published: `merges` (vocab.json, merges.txt) or `fast`
(tokenizer.json). The template is written here; it renders what Qwen2.5-VL's own is documented to.
"""

import base64
import functools
import itertools
import json
from importlib import resources
from pathlib import Path

FIRST_SPECIAL = 151643
SPECIAL = [  # hidden when text is decoded for show, and never to be read out of untrusted text
    *["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"],
    *["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"],
    *["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"],
]
ADDED = [  # one id each, but otherwise ordinary text
    *["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
    *["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
]
SPLIT = (  # Qwen's pre-tokenisation
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def special_ids() -> dict[str, int]:
    return {token: FIRST_SPECIAL + i for i, token in enumerate(SPECIAL + ADDED)}


@functools.cache
def ranks() -> dict[bytes, int]:
    """Byte string -> id, as published."""
    lines = (resources.files("dashscope") / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def write_model_folder(folder: Path, layout: str = "merges") -> Path:
    """Writes the tokenizer's and the image processor's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {_printable(token): rank for token, rank in ranks().items()}
    if layout == "merges":
        lines = ["#version: 0.2", *(" ".join(pair) for pair in _merges())]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _write_json(folder / "vocab.json", vocabulary)
    else:
        _write_json(folder / "tokenizer.json", _fast_layout(vocabulary))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "preprocessor_config.json", PREPROCESSOR)
    return folder


@functools.cache
def _merges() -> list[tuple[str, str]]:
    """The last merge that makes each token: what its bytes are just before rank joins them."""
    table, merges = ranks(), []
    for token, rank in table.items():
        if len(token) > 1:
            left, right = _last_two_parts(token, rank, table)
            merges.append((_printable(left), _printable(right)))
    return merges


def _last_two_parts(token: bytes, rank: int, table: dict[bytes, int]) -> tuple[bytes, bytes]:
    halves = [(token[:i], token[i:]) for i in range(1, len(token))]
    known = [(a, b) for a, b in halves if max(table.get(a, rank), table.get(b, rank)) < rank]
    if len(known) == 1:  # half of all tokens, and 100 times faster than joining byte by byte
        return known[0]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [table.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        i = joined.index(min(joined))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@functools.cache
def _alphabet() -> dict[int, str]:
    """GPT-2's byte alphabet: printable Latin-1 stands for itself, the rest follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def _printable(token: bytes) -> str:
    return "".join(map(_alphabet().__getitem__, token))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _flags(token: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, **flags, "special": token in SPECIAL}


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(i): _flags(token) for token, i in special_ids().items()},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "chat_template": TEMPLATE,
    }


def _fast_layout(vocabulary: dict[str, int]) -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    pieces = [split, {**byte_level, "use_regex": False}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **_flags(token)} for token, i in special_ids().items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "post_processor": {**byte_level, "use_regex": False},
        "decoder": {**byte_level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _merges()},
    }
