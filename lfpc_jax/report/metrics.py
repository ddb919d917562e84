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
    """The values of a metric. `starts` are the places at which the curve begins, or begins anew
    after lines of its kind without the metric."""

    kind: str
    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    starts: tuple[int, ...] = (0,)


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
    points: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    ordered = sorted(rows.items(), key=lambda row: row[0])
    for place, ((kind, step), (where, entry)) in enumerate(ordered):
        for name, value in entry.items():
            if name in _HEAD or value is None:
                continue
            if not _is_finite(value):
                problems.append(
                    Problem(where, f"{name!r:.80} is {value!r:.40} at step {step}, not a number")
                )
                continue
            points.setdefault((kind, name), []).append((place, step, float(value)))
    curves = [_curve(kind, name, found) for (kind, name), found in sorted(points.items())]
    return curves, problems


def _curve(kind: str, name: str, points: list[tuple[int, int, float]]) -> Curve:
    """From the places of its lines among all lines, its steps and its values."""
    places, steps, values = zip(*points)
    begins = (at for at in range(1, len(places)) if places[at] > places[at - 1] + 1)
    return Curve(kind, name, steps, values, (0, *begins))


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
