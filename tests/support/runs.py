"""A run's folder by hand: pictures of one green rectangle on black, and what a model said of them.

Every id, span, box and size is written here and not by the engine.
"""

import io
import json
import shutil

import numpy as np
import PIL.Image
import PIL.ImageDraw

from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.trajectory import Crop, Group, Picture, Record, Trajectory, Turn
from support import small

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [140, 70, 252, 182]}}'
SYSTEM, REPLY = "Tools and rules.", "<tool_response>\n"
HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>\u202eevil'


def tokenizer() -> Tokenizer:
    return small.dialogue().tokenizer


def picture(size, green) -> Picture:
    image = PIL.Image.new("RGB", size, "black")
    x1, y1, x2, y2 = green
    PIL.ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=(0, 255, 0))
    data = io.BytesIO()
    image.save(data, "PNG")
    return Picture(data=data.getvalue())


def record(name, size, green, **more) -> Record:
    nest = tuple(tuple(map(float, box)) for box in (green,))
    plain = {"question": f"What is in {name}?", "answer": "a door", "targets": (nest,)}
    return Record(id=name, picture=picture(size, green), **plain | more)


def trajectory(of: Record, size, shown, green=None, rollout=0, answer="a door", tokens=16):
    """One crop of `green`, if given, seen as `tokens` square tokens, and then an answer."""
    encode, pad = tokenizer().encode, tokenizer().image_pad
    ids: list[int] = []
    sampled: list[bool] = []

    def add(more, own=False):
        start = len(ids)
        ids.extend(int(one) for one in more)
        sampled.extend([own] * (len(ids) - start))
        return start, len(ids)

    def image(count):
        add(encode("<|vision_start|>"))
        add([pad] * count)
        add(encode("<|vision_end|>"))

    add(encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"))
    image(shown[0] * shown[1] // 28**2)
    add(encode(f"{of.question}<|im_end|>\n<|im_start|>assistant\n"))
    turns = []
    if green is not None:
        text = f"look{CALL}</tool_call>"
        box = tuple(map(float, green))
        turns.append(
            Turn(*add(encode(text), True), text, True, Crop((140.0, 70.0, 252.0, 182.0), box))
        )
        add(encode(f"<|im_end|>\n<|im_start|>user\n{REPLY}"))
        image(tokens)
        add(encode("\n</tool_response><|im_end|>\n<|im_start|>assistant\n"))
    text = f"<answer>{answer}</answer>"
    turns.append(Turn(*add(encode(f"{text}<|im_end|>"), True), text))
    mask = np.array(sampled)
    logprobs = np.where(mask, -0.25, 0).astype(np.float32)
    return Trajectory(
        record=of.id,
        rollout=rollout,
        ids=np.array(ids, np.int32),
        sampled=mask,
        logprobs=logprobs,
        policy_logprobs=np.where(mask, -0.5, 0).astype(np.float32),
        original=size,
        shown=shown,
        turns=tuple(turns),
        end="answered",
        answer=answer,
    )


def rewards(right, iou=None, **more):
    found = {"total": 2.0 * right, "accuracy": float(right), "format": 0.0, "tool": 1.0}
    return found | ({} if iou is None else {"iou": iou, "overlap": 1.0}) | more


def metric_lines(shift=0.0):
    for step in range(5):
        yield {"step": step, "kind": "train", "reward/total": step + shift, "crop/iou": 0.1 * step}
    yield {"step": 4, "kind": "validation", "validation/accuracy": 0.5 + shift}


def write(folder, parts, *, lines=None, with_tokenizer=True):
    """`parts` maps names to groups."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"stage": 1}')
    lines = list(metric_lines()) if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    archive = Archive(folder / "trajectories")
    for part, groups in parts.items():
        archive.append(part, groups)
    if with_tokenizer:
        shutil.copytree(small.folder(), folder / "assets")
    return folder


# Shown at 0.28 of its size, at which every edge of the box is a whole pixel.
WIDE, WIDE_SHOWN, WIDE_GREEN = (2000, 1000), (560, 280), (500, 250, 900, 650)
# Shown larger than most windows, and smaller than any.
LARGE, LARGE_SHOWN, LARGE_GREEN = (3000, 2000), (2100, 1400), (1200, 300, 2700, 1700)
SMALL, SMALL_SHOWN, SMALL_GREEN = (320, 480), (56, 84), (40, 120, 200, 320)
SIZES = {
    "wide": (WIDE, WIDE_SHOWN, WIDE_GREEN),
    "large": (LARGE, LARGE_SHOWN, LARGE_GREEN),
    "small": (SMALL, SMALL_SHOWN, SMALL_GREEN),
}


def groups(sizes=SIZES) -> list[Group]:
    """Three questions with two rollouts each: one with a crop and right, one without and wrong.
    The third one's texts are hostile."""
    found = []
    for name, (size, shown, green) in sizes.items():
        of = record(name, size, green, **({"question": HOSTILE} if name == "small" else {}))
        looked = trajectory(of, size, shown, green)
        guessed = trajectory(
            of, size, shown, rollout=1, answer="a cat" if name != "small" else HOSTILE
        )
        found.append(
            Group(
                of,
                (looked, guessed),
                rewards=(rewards(True, 1.0), rewards(False, 0.0, mine=3.5)),
            )
        )
    return found
