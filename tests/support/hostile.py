"""What a model might write at its worst: whole texts, reproducible from a seed."""

import json
import random
from collections.abc import Iterator

TAGS = (
    *["<tool_call>", "</tool_call>", "<answer>", "</answer>", "<think>", "</think>"],
    *["<tool_response>", "</tool_response>", "<|im_end|>", "<|image_pad|>", "<|im_start|>user\n"],
)
NUMBERS = (  # as JSON would have them, or not
    *["0", "-0", "1", "-1", "0.5", "27.999", "1e2", "1E+2", "5e-324", "1e308", "-1e308", "1e-400"],
    *["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "nan", "inf", "9" * 40, "9" * 500],
    *["true", "false", "null", '"12"', "[1]", "{}", "01", "+1", "1.", ".5", "0x1f", "1_0", "--1"],
    *["1,5", "١٢", "４", "½", "1+1", "int(3)", "10px", "1e", "𝟙"],
)
TEXTS = (
    *["", " ", "\n", "\t", "\0", "\x1f", "\u2028", "\ufeff", "\ufffd", "\ud800", "e\u0301", "汉字"],
    *["🧿" * 3, "\u202e sdrawkcab", "é", "{", "}", "[", "]", '"', "'", "\\", "\\u0000", "\\ud800"],
    *["//", "/* */", "#", "```json\n", "```", ",", ":", "%s", "{0}", "$(ls)", "../../etc/passwd"],
    *["__import__('os').system('true')", "null", "x" * 5000, "[" * 100, '{"a":' * 100, "\\" * 999],
)
KEYS = ("name", "arguments", "bbox_2d", "label", "bbox", "box", "NAME", "__class__", "")


def outputs(seed: int, count: int) -> Iterator[str]:
    rng = random.Random(seed)
    writers = (_boxes, _boxes, _boxes, _wild_boxes, _mutated, _mutated, _tagged, _soup, _shaped)
    for _ in range(count):
        yield rng.choice(writers)(rng)


def call(body: str) -> str:
    return f"<tool_call>{body}</tool_call>"


def _zoom(box: str, label: str = '"a sign"') -> str:
    arguments = f'{{"bbox_2d": {box}, "label": {label}}}'
    return f'{{"name": "image_zoom_in_tool", "arguments": {arguments}}}'


def _boxes(rng: random.Random) -> str:
    """Mostly boxes as they should be, at every scale and on every side of the image."""
    across, down = (rng.choice([1, 20, 100, 100, 400, 4000, 1e300]) for _ in "xy")
    x, y = rng.uniform(-0.2, 0.6) * across, rng.uniform(-0.2, 0.6) * down
    box = [x, y, x + rng.uniform(-0.1, 1) * across, y + rng.uniform(-0.1, 1) * down]
    if rng.random() < 0.5:
        box = [round(value) for value in box]
    label = rng.choice(["a sign", *TEXTS]) if rng.random() < 0.2 else "a sign"
    return f"<think>closer</think>{call(_zoom(json.dumps(box), json.dumps(label)))}"


def _wild_boxes(rng: random.Random) -> str:
    length = rng.choice([4] * 9 + [0, 1, 3, 5, 40])
    numbers = [rng.choice(NUMBERS) if rng.random() < 0.3 else "7" for _ in range(length)]
    return call(_zoom(f"[{', '.join(numbers)}]"))


def _mutated(rng: random.Random) -> str:
    text = _boxes(rng)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        stop = min(len(text), start + rng.choice([0, 0, 1, 1, 2, 10]))
        piece = rng.choice([*TAGS, *TEXTS, *NUMBERS, text[start:stop] * 2, ""])
        text = text[:start] + piece + text[stop:]
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.15 else text


def _tagged(rng: random.Random) -> str:
    """Whole calls, answers and tags in any order."""
    body = _zoom("[10, 10, 90, 90]")
    pieces = (call(body), call(body), "<answer>A</answer>", body, call(call(body)), *TAGS, "so")
    return "".join(rng.choice(pieces) for _ in range(rng.randint(1, 5)))


def _soup(rng: random.Random) -> str:
    inside = "".join(
        rng.choice([*TAGS, *TEXTS, *NUMBERS, *KEYS, ", ", ": ", " "])
        for _ in range(rng.randint(0, 12))
    )
    return rng.choice([inside, call(inside), call(_zoom(inside)), f"<tool_call>{inside}"])


def _shaped(rng: random.Random) -> str:
    """Sound JSON of the wrong shape."""

    def value(depth: int) -> object:
        kind = rng.randrange(8 if depth < 4 else 5)
        if kind < 5:
            return [None, True, rng.uniform(-1e4, 1e4), rng.choice(TEXTS), 10**400][kind]
        if kind == 5:
            return [value(depth + 1) for _ in range(rng.randint(0, 5))]
        return {rng.choice(KEYS): value(depth + 1) for _ in range(rng.randint(0, 4))}

    call_like = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 1, 99, 99]}}
    match rng.randrange(5):
        case 0:
            return call(json.dumps(value(0)))
        case 1:
            call_like["arguments"] = value(0)
        case 2:
            call_like["arguments"]["bbox_2d"] = value(0)
        case 3:
            call_like["name"] = value(0) if rng.random() < 0.5 else rng.choice(TEXTS)
        case _:
            call_like["arguments"][rng.choice(KEYS)] = value(0)
    text = json.dumps(call_like)
    return call(text.replace('"arguments"', '"name"', 1) if rng.random() < 0.1 else text)
