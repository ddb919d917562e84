"""Messages with pictures, as an OpenAI-compatible server takes them."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

Pixels = UInt8[np.ndarray, "_ _ 3"]


def with_pictures(
    messages: Sequence[dict[str, Any]],
    pictures: Iterable[Pixels],
    written: Callable[[Pixels], str],
) -> list[dict[str, Any]]:
    """The messages, with every picture in its place as `written` writes it."""
    left = iter(pictures)

    def part(given: dict[str, Any]) -> dict[str, Any]:
        if given["type"] != "image":
            return given
        return {"type": "image_url", "image_url": {"url": written(next(left))}}

    def content(given: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        return given if isinstance(given, str) else [part(each) for each in given]

    told = [{**message, "content": content(message["content"])} for message in messages]
    assert next(left, None) is None, "a picture without its place"
    return told


def data_url(picture: Pixels) -> str:
    """The picture as PNG, without loss."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"


def png(picture: Pixels) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
