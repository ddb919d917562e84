"""A run's `metrics.jsonl` as curves.

A line is `{"step": int, "kind": "train" | "validation", "<group>/<name>": number, ...}`; other
kinds are accepted as well. A resumed run repeats steps: the last line of a step and kind counts,
and the earlier ones are ignored. A line or value that cannot be read is left out and reported. null
is a value that the run did not know, and is left out without a report. Nothing is filled in: a
curve has only the steps at which it was written."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.report.problems import Problem

_HEAD = ("step", "kind")


@dataclass(frozen=True)
class Curve:
    kind: str
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read(file: Path) -> tuple[list[Curve], list[Problem]]:
    """The curves by kind and name, steps rising; none where there is no file."""
    if not file.is_file():
        return [], [Problem(str(file), "missing; no curves for this run")]
    problems: list[Problem] = []
    rows: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
    for where, line in _lines(file):
        try:
            entry = json.loads(line)
            step, kind = _head(entry)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(where, f"no line of metrics, skipped ({error!s:.160})"))
            continue
        rows[kind, step] = where, entry
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for (kind, step), (where, entry) in sorted(rows.items(), key=lambda row: row[0]):
        for name, value in entry.items():
            if name in _HEAD or value is None:
                continue
            if not _is_finite(value):
                problems.append(
                    Problem(where, f"{name!r:.80} is {value!r:.40} at step {step}, not a number")
                )
                continue
            points.setdefault((kind, name), []).append((step, float(value)))
    curves = [
        Curve(kind, name, *(tuple(column) for column in zip(*pairs)))
        for (kind, name), pairs in sorted(points.items())
    ]
    return curves, problems


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(regular.lines(file), 1):
        if line.strip():
            yield f"{file}, line {number}", line


def _head(entry: Any) -> tuple[int, str]:
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    step, kind = entry.get("step"), entry.get("kind")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise ValueError(f"its step is {step!r:.40}; a step is a whole number from 0 on")
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"its kind is {kind!r:.40}; a kind is a text like 'train'")
    return step, kind


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
