"""Trajectories as the page's data: a line for the list, and the details of the chosen episode.

Whatever an archive holds, a trajectory becomes complete data or a `Problem`: spans, boxes and sizes
are checked before anything is drawn from them. A picture that cannot be opened is a separate
problem; its episodes stay, with their boxes in an empty frame.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.geometry import Box, Frame, crop_box
from lfpc_jax.report.album import Album, Opened
from lfpc_jax.report.conversation import Decoder, seen_size, token_side
from lfpc_jax.report.problems import Problem
from lfpc_jax.rollout.said import by_target, said
from lfpc_jax.trajectory import Group, Picture, Record, Trajectory, Turn

Line = dict[str, Any]

_EXPECTED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What damaged values raise where they are used as what they are not."""
_LARGEST_SHOWN = 1 << 26
_FARTHEST = 1e9
"""Pixels; no box is beyond, and NaN is not within."""


Pixels = UInt8[np.ndarray, "_ _ 3"]

SeenByTarget = Callable[[Record, Trajectory], Sequence[tuple[str, Pixels]]]
"""The pictures of an episode as its target saw them, each with what it is."""


@dataclass(frozen=True)
class Replaced:
    """Crops that were altered before the model saw them: the alteration's name, and a function from
    an episode, the number of a crop in it and the original to what the model saw."""

    name: str
    show: Callable[[Record, Trajectory, int, PIL.Image.Image], Pixels]


@dataclass(eq=False)
class Episodes:
    """Grows group by group. `lines[i]` and `details[i]`, which is JSON, are of the same episode.
    `records` are shared by all runs, so that the same question can be compared."""

    album: Album
    records: list[dict[str, Any]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _known: dict[tuple[object, ...], int] = field(default_factory=dict)

    def add(
        self,
        run: int,
        part: str,
        where: str,
        group: Group,
        decoder: Decoder,
        replaced: Replaced | None = None,
        seen: SeenByTarget | None = None,
    ) -> None:
        """Adds a group's episodes. `replaced` is given if their crops were altered, and `seen` if a
        target model was shown them."""
        try:
            record = self._record(group.record, where)
        except _EXPECTED as error:
            self._skip(f"{where}, record {group.record.id!r:.80}", error)
            return
        opened: Opened | None = None
        missing = False
        for place, trajectory in enumerate(group.trajectories):
            name = f"{where}, record {group.record.id!r:.80}, rollout {trajectory.rollout!r:.20}"
            try:
                check(trajectory)
                rewards = _rewards(group.rewards[place] if group.rewards else {})
                if opened is None and not missing and _has_picture(group.record, trajectory):
                    opened = self._open(group.record, trajectory, where)
                    missing = opened is None
                if opened is not None and tuple(trajectory.original) != opened.image.size:
                    raise ValueError(
                        f"its original is {trajectory.original}, its group's {opened.image.size}"
                    )
                content = self._detail(group.record, trajectory, rewards, opened, decoder, replaced)
                if seen is not None and opened is not None and "target" in content:
                    content["target"]["seen"] = self._seen(seen(group.record, trajectory))
                detail = json.dumps(content, allow_nan=False, separators=(",", ":"))
                line = _line(run, part, record, trajectory, rewards)
            except _EXPECTED as error:
                self._skip(name, error)
                continue
            self.lines.append(line)
            self.details.append(detail)

    def arrange(self) -> None:
        """Sorts the episodes by run and part, and leaves their order within a part."""
        order = sorted(
            range(len(self.lines)), key=lambda at: (self.lines[at]["run"], self.lines[at]["part"])
        )
        self.lines = [self.lines[at] for at in order]
        self.details = [self.details[at] for at in order]

    def _skip(self, name: str, error: Exception) -> None:
        reason = f"{error!s:.200}" or type(error).__name__
        self.problems.append(Problem(name, f"skipped: {reason}"))

    def _record(self, record: Record, where: str) -> int:
        key = (record.id, record.question, record.options, record.answer, record.references)
        if not all(isinstance(text, str) for text in (record.id, record.question, record.answer)):
            raise TypeError("id, question and answer must be texts")
        side = record.longest_side
        if side is not None and not (_is_whole(side) and side > 0):
            raise ValueError(f"its longest_side is {side!r:.40}, no number of pixels")
        if key not in self._known:
            self._known[key] = len(self.records)
            targets, bad = _targets(record)
            if bad:
                where = f"{where}, record {record.id!r:.80}"
                self.problems.append(Problem(where, f"{bad} of its targets are no boxes, left out"))
            self.records.append(
                {
                    "id": record.id,
                    "question": record.question,
                    "answer": record.answer,
                    "options": [str(option) for option in record.options],
                    "targets": targets,
                    "dataset": str(record.dataset),
                    "category": str(record.category),
                }
                | _scored(record)
            )
        return self._known[key]

    def _open(self, record: Record, trajectory: Trajectory, where: str) -> Opened | None:
        try:
            return self.album.open(record.picture, trajectory.original)
        except Unusable as error:
            self.problems.append(Problem(f"{where}, record {record.id!r:.80}", str(error)))
            return None

    def _detail(
        self,
        record: Record,
        trajectory: Trajectory,
        rewards: dict[str, float | None],
        opened: Opened | None,
        decoder: Decoder,
        replaced: Replaced | None,
    ) -> dict[str, Any]:
        blocks = decoder.blocks(trajectory)
        tokens = decoder.images(trajectory)
        side = token_side(tokens[0], trajectory.shown) if tokens else 0
        crops = iter(tokens[1:])
        turns = [
            self._turn(turn, trajectory, opened, next(crops, 0) if turn.crop else 0, side)
            for turn in trajectory.turns
        ]
        original = view = None
        if opened is not None:
            if replaced is not None:
                self._replace(turns, record, trajectory, opened, replaced)
            original = self.album.original(opened)
            view = self.album.shown(opened, record.longest_side, trajectory.shown)
        return {
            "original": trajectory.original,
            "shown": trajectory.shown,
            "longest_side": record.longest_side,
            "image": original,
            "view": view,
            "tokens": tokens,
            "turns": turns,
            "blocks": blocks,
            "rewards": rewards,
        } | _of_target(trajectory)

    def _seen(self, shown: Sequence[tuple[str, Pixels]]) -> list[dict[str, Any]]:
        """What a target saw: the name, the picture and its size."""
        return [
            {
                "name": name,
                "image": self.album.artificial(PIL.Image.fromarray(pixels)),
                "size": pixels.shape[1::-1],
            }
            for name, pixels in shown
        ]

    def _turn(
        self, turn: Turn, trajectory: Trajectory, opened: Opened | None, tokens: int, side: int
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"call": bool(turn.call), "fault": str(turn.fault), "crop": None}
        if turn.crop is None:
            return entry
        box = Box(*turn.crop.box)
        x1, y1, x2, y2 = pixels = crop_box(box, trajectory.original)
        seen = seen_size(tokens, (x2 - x1, y2 - y1), side)
        in_shown = Frame(trajectory.original, trajectory.shown).to(box, "original", "shown")
        entry["crop"] = {
            "written": [float(value) for value in turn.crop.written],
            "box": [float(value) for value in box],
            "shown": [round(value, 4) for value in in_shown],
            "pixels": pixels,
            "seen": seen,
            "tokens": tokens,
            "image": None if opened is None else self.album.crop(opened, box, seen),
        }
        return entry

    def _replace(
        self,
        turns: list[dict[str, Any]],
        record: Record,
        trajectory: Trajectory,
        opened: Opened,
        replaced: Replaced,
    ) -> None:
        """Puts what the model was shown into the turns' crops."""
        cropped = [entry for entry in turns if entry["crop"] is not None]
        for number, entry in enumerate(cropped):
            pixels = replaced.show(record, trajectory, number, opened.image)
            height, width = pixels.shape[:2]
            image = self.album.artificial(PIL.Image.fromarray(pixels))
            entry["crop"] |= {"image": image, "seen": (width, height), "by": replaced.name}


def _scored(record: Record) -> dict[str, Any]:
    """How answers are scored, where an answer may be partly right."""
    if not record.graded:
        return {}
    references = [str(reference) for reference in record.references]
    return {"metric": str(record.metric), "references": references}


def _of_target(trajectory: Trajectory) -> dict[str, Any]:
    """What a target model made of the box, if there is a target."""
    if not by_target(trajectory):
        return {}
    names = ("answer", "likelihood", "unanswered")
    return {"target": {name: getattr(trajectory, name) for name in names}}


def check(trajectory: Trajectory) -> None:
    """Raises ValueError or TypeError that says what cannot be drawn or read."""
    lengths = {
        name: len(getattr(trajectory, name))
        for name in ("ids", "sampled", "logprobs", "policy_logprobs")
    }
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays of different lengths: {lengths}")
    for name in ("original", "shown"):
        size = getattr(trajectory, name)
        if len(size) != 2 or not all(_is_whole(side) and side >= 0 for side in size):
            raise ValueError(f"its {name} size is {size!r:.60}, not a width and a height")
    if math.prod(trajectory.shown) > _LARGEST_SHOWN:
        raise ValueError(f"its shown size is {trajectory.shown}, which no model is shown")
    if not _is_whole(trajectory.rollout):
        raise TypeError("its rollout is no number")
    if not isinstance(trajectory.end, str) or not isinstance(trajectory.answer, str | None):
        raise TypeError("its end or answer is no text")
    if not isinstance(trajectory.unanswered, str):
        raise TypeError("why it is unanswered is no text")
    likelihood = trajectory.likelihood
    if likelihood is not None and not (_is_number(likelihood) and math.isfinite(likelihood)):
        raise ValueError(f"its likelihood is {likelihood!r:.40}, not a finite number")
    reached = 0
    for number, turn in enumerate(trajectory.turns):
        if not (_is_whole(turn.start) and _is_whole(turn.stop)):
            raise TypeError(f"turn {number} spans {turn.start!r:.20}:{turn.stop!r:.20}")
        if not reached <= turn.start <= turn.stop <= lengths["ids"]:
            raise ValueError(
                f"turn {number} spans {turn.start}:{turn.stop} of {lengths['ids']} ids, "
                f"where the one before ends at {reached}"
            )
        reached = turn.stop
        if not isinstance(turn.text, str):
            raise TypeError(f"the text of turn {number} is none")
        if turn.crop is not None:
            for name, box in (("box", turn.crop.box), ("written box", turn.crop.written)):
                if not _is_box(box):
                    raise ValueError(f"the {name} of turn {number} is {box!r:.80}")
            if min(*trajectory.original, *trajectory.shown) < 1:
                raise ValueError(f"turn {number} has a crop, but there is no picture")


def _line(
    run: int, part: str, record: int, trajectory: Trajectory, rewards: Mapping[str, float | None]
) -> Line:
    """What the list of episodes shows and filters by. `answer` is what was graded: training, which
    has a total, grades a tagged answer alone, and an evaluation whatever was said."""
    accuracy = rewards.get("accuracy")
    verdict = None if accuracy is None else accuracy > 0
    turns: Sequence[Turn] = trajectory.turns
    return {
        "run": run,
        "part": part,
        "record": record,
        "rollout": trajectory.rollout,
        "right": accuracy if accuracy is not None and 0 < accuracy < 1 else verdict,
        "answer": trajectory.answer if "total" in rewards else said(trajectory),
        "end": trajectory.end,
        "turns": len(turns),
        "crops": sum(turn.crop is not None for turn in turns),
        "faults": dict(Counter(str(turn.fault) for turn in turns if turn.fault)),
        "sampled": int(sum(trajectory.sampled)),
        "total": rewards.get("total"),
        "iou": rewards.get("iou"),
    }


def _rewards(given: Any) -> dict[str, float | None]:
    rewards: dict[str, float | None] = {}
    for name, value in dict(given).items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"its reward {name!r:.40} is {value!r:.40}, not a number")
        rewards[str(name)] = None if value is None else float(value)
    return rewards


def _targets(record: Record) -> tuple[list[list[list[float]]], int]:
    """The nested boxes of each target, and how many targets are none."""
    sound = [nest for nest in record.targets if nest and all(map(_is_box, nest))]
    boxes = [[[float(edge) for edge in box] for box in nest] for nest in sound]
    return boxes, len(record.targets) - len(sound)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return False
    return all(_is_number(edge) and abs(edge) <= _FARTHEST for edge in box)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_picture(record: Record, trajectory: Trajectory) -> bool:
    return record.picture != Picture() and min(*trajectory.original, *trajectory.shown) > 0
