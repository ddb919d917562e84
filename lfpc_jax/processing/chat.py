"""Conversations to ids: the folder's own template, then one placeholder for each image token.

A message is `{"role": ..., "content": ...}`. Its content is a string or a list of parts, `{"type":
"text", "text": ...}` and `{"type": "image"}`. The pictures are given separately, as merged grids in
order of appearance. The template writes one `<|image_pad|>` for each image. Its id is then repeated
rows x columns times, which gives the same ids as transformers' repetition in the text.

Deviation from transformers: text that spells a special token is refused, not obeyed. In
transformers a question that contains `<|im_end|>` ends the user's turn, and one that contains
`<|image_pad|>` shifts every image after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from lfpc_jax.jsonfile import Checked, read_object
from lfpc_jax.processing.tokenizer import Tokenizer

Message = dict[str, Any]
Grid = tuple[int, int]


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template, bound to the tokenizer that it is written for."""

    source: str
    tokenizer: Tokenizer

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> "ChatTemplate":
        """Reads the first file that is there: chat_template.jinja, chat_template.json, or
        tokenizer_config.json."""
        template = cls(_read_source(folder), tokenizer)
        try:
            template.render([{"role": "user", "content": "Which way?"}], True)
        except Exception as error:  # whatever a template does, Jinja raises
            reason = " ".join(f"{type(error).__name__}: {error!s:.200}".split())
            raise ValueError(
                f"{folder}: its chat template cannot be rendered ({reason}); copy its file again"
            ) from error
        return template

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The conversation as text, with one placeholder for each image. Text that spells a special
        token is refused."""
        self._check(messages)
        return self._render(messages, add_generation_prompt)

    def encode(
        self, messages: Sequence[Message], grids: Sequence[Grid], add_generation_prompt: bool
    ) -> Int32[np.ndarray, "T"]:
        """The conversation as ids, with one placeholder for each image token."""
        return self._expand(self.render(messages, add_generation_prompt), messages, grids)

    def encode_after_reply(
        self, messages: Sequence[Message], grids: Sequence[Grid]
    ) -> Int32[np.ndarray, "T"]:
        """The ids that follow a sampled reply and its <|im_end|>: those of `messages`, then the
        prompt for the next reply.

        Appended to the sampled ids they give the ids of the whole conversation. So nothing that was
        sampled is ever decoded and encoded again.
        """
        self._check(messages)
        before = [{"role": role, "content": "."} for role in ("user", "assistant")]
        told = self._render(before, add_generation_prompt=False)
        whole = self._render([*before, *messages], add_generation_prompt=True)
        if "<|im_end|>" not in told or not whole.startswith(told):
            raise ValueError(
                "the chat template does not end turns by <|im_end|>, or rewrites earlier turns "
                "when later ones come, so no reply can be extended; use one that only appends"
            )
        end = told.rindex("<|im_end|>") + len("<|im_end|>")
        return self._expand(whole[end:], messages, grids)

    def _check(self, messages: Sequence[Message]) -> None:
        if not messages:
            raise ValueError("a conversation of no messages; give at least one")
        for index, message in enumerate(messages):
            if set(message) != {"role", "content"} or not isinstance(message["role"], str):
                raise ValueError(
                    f"message {index} is {message!r:.80}; it needs a role, a string, and a "
                    "content, and may have nothing else"
                )
            written = f"{message['role']}\n" + "".join(
                part["text"] if part["type"] == "text" else "\n" for part in _parts(index, message)
            )
            if token := self.tokenizer.reserved_in(written):
                raise ValueError(
                    f"message {index} ({message['role']!r:.40}) spells the special token {token}; "
                    "remove it from the text or skip the sample"
                )

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        text = self.tokenizer.backend.apply_chat_template(
            list(messages),
            chat_template=self.source,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        assert isinstance(text, str)
        return text

    def _expand(
        self, text: str, messages: Sequence[Message], grids: Sequence[Grid]
    ) -> Int32[np.ndarray, "T"]:
        images = sum(
            part["type"] == "image"
            for index, message in enumerate(messages)
            for part in _parts(index, message)
        )
        ids = self.tokenizer.encode(text)
        places = np.flatnonzero(ids == self.tokenizer.image_pad)
        if not images == len(grids) == len(places):
            raise ValueError(
                f"{len(grids)} grids for messages with {images} images, for which the chat "
                f"template wrote {len(places)} placeholders; give every image its grid, and use "
                "a vision-language template"
            )
        return expand(ids, grids, self.tokenizer.image_pad)


def expand(
    ids: Int32[np.ndarray, "T"], grids: Sequence[Grid], image_pad: int
) -> Int32[np.ndarray, "_"]:
    """Ids with a placeholder for each picture, as ids with one for each of its tokens."""
    repeats = np.ones(len(ids), np.int64)
    repeats[ids == image_pad] = [rows * cols for rows, cols in grids]
    return np.repeat(ids, repeats)


def _parts(index: int, message: Message) -> list[dict[str, Any]]:
    """The content as a list of well-formed parts."""
    content = message["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if not (kind == "image" or (kind == "text" and isinstance(part.get("text"), str))):
            raise ValueError(
                f"message {index} contains {part!r:.80}; content is a string, or a list of "
                '{"type": "text", "text": "..."} and {"type": "image"}'
            )
    return content


def _read_source(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = folder / name
        source = _from_json(file) if file.is_file() else None
        if source is not None:
            return source
    raise ValueError(
        f"{folder}: no chat template in chat_template.jinja, chat_template.json or "
        "tokenizer_config.json; copy one of them from the checkpoint"
    )


def _from_json(file: Path) -> str | None:
    """The `chat_template` of a JSON file. If the file names several, the default one."""
    source = read_object(file).get("chat_template")
    if isinstance(source, list):
        named = (entry for entry in source if isinstance(entry, dict))
        source = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if source is None or isinstance(source, str):
        return source
    raise Checked(file).wrong("chat_template", source, "a text, or a list of named ones")
