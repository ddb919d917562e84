"""What a program compiled for a GPU reads and writes, from its text: the operands and results of
everything that is not fused away, times the iterations of loops whose number is known.

What a fusion cuts out of an operand, or writes into one, counts as large as the cut. Of a
condition's branches the cheapest counts, or the dearest. Views, tuples and constants cost nothing.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lfpc_jax.plan.collectives import _bytes, _computations, _loop

_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\dm\d\w*)?|c64|c128)\[([\d,]*)\]")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([\w\-]+)\((.*)$")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota",
         "partition-id", "copy-done", "async-done", "opt-barrier"}  # fmt: skip


@dataclass(frozen=True)
class Line:
    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    rest: str

    @property
    def bytes(self) -> int:
        return sum(_bytes(*array) for array in _ARRAY.findall(self.shape))


def lines(text: str, scope: str) -> list[tuple[str, int]]:
    """The lines of a scope, fused ones too, each with the elements of its largest array."""
    found = []
    for line in text.splitlines():
        arrays = _ARRAY.findall(line.split(" metadata=")[0])
        if scope in line and arrays:
            sizes = [math.prod(map(int, sides.split(","))) if sides else 1 for _, sides in arrays]
            found.append((line, max(sizes)))
    return found


def traffic(text: str, choose: Callable = min) -> Counter[str]:
    """Bytes by the innermost named scope that begins with `attention`, with the tier of sequences
    behind it (`attention_cudnn`), as `attention_own/tier_8192`; or else "other"."""
    raw = _computations(re.sub(r"/\*.*?\*/", "", text))
    parsed = {name: [line for line in map(_parsed, lines) if line] for name, lines in raw.items()}

    def of(name: str) -> Counter[str]:
        lines = parsed[name]
        shapes = {line.name: line for line in lines}
        total: Counter[str] = Counter()
        for line in lines:
            if line.kind in _FREE:
                continue
            if line.kind == "while":
                body = _first(r"body=%?([\w.\-]+)", line.rest)
                start = re.compile(rf"\s+(?:ROOT )?%?{re.escape(line.name)} = ")
                [original] = filter(start.match, raw[name])
                times = _loop(original, raw, raw[name]).times
                for scope, size in of(body).items():
                    total[scope] += size * times
            elif line.kind == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", line.rest)
                names = listed[1].split(", ") if listed else re.findall(
                    r"(?:true|false)_computation=%?([\w.\-]+)", line.rest)  # fmt: skip
                total += choose((of(x.strip("%")) for x in names), key=lambda x: x.total())
            elif line.kind == "call":
                total += of(_first(r"to_apply=%?([\w.\-]+)", line.rest))
            else:
                total[_scope(line.rest)] += _moved(line, shapes, parsed)
        return total

    return of([*parsed][-1])


def _parsed(text: str) -> Line | None:
    match = _LINE.match(text)
    if match is None:
        return None
    name, shape, kind, rest = match.groups()
    return Line(name, shape, kind, tuple(re.findall(r"%([\w.\-]+)", rest.split("), ")[0])), rest)


def usual(moved: Mapping[str, int]) -> dict[str, int]:
    """Of what is moved at most, that for rows whose sequences are of one tier in each part."""
    largest: dict[str, int] = {}
    for scope, size in moved.items():
        part, _, tier = scope.partition("/")
        kept = f"{part}, a tier" if tier else part
        largest[kept] = max(size, largest.get(kept, 0))
    return largest


def _scope(rest: str) -> str:
    name = re.search(r'op_name="([^"]*)"', rest)
    found = re.findall(r"(?<!\w)(attention\w*|tier_\d+)", name[1]) if name else []
    parts = [place for place, scope in enumerate(found) if scope.startswith("attention")]
    return "/".join(found[parts[-1] :]) if parts else "other"


def _first(pattern: str, text: str) -> str:
    """What a line of this kind always has."""
    found = re.search(pattern, text)
    assert found is not None, (pattern, text)
    return found[1]


def _moved(line: Line, shapes: dict[str, Line], parsed: dict[str, list[Line]]) -> int:
    operands = [shapes[name].bytes if name in shapes else 0 for name in line.operands]
    result = line.bytes
    if line.kind in ("dynamic-slice", "gather", "slice"):
        return 2 * result
    if line.kind == "dynamic-update-slice":
        return 2 * operands[1]
    if line.kind == "fusion":
        inner = parsed.get(_first(r"calls=%?([\w.\-]+)", line.rest), [])
        by_name = {each.name: each for each in inner}
        for each in inner:
            if each.kind != "parameter":
                continue
            number = int(_first(r"^(\d+)", each.rest))
            users = [x for x in inner if each.name in x.operands]
            if users and all(x.kind in ("dynamic-slice", "gather", "slice") for x in users):
                operands[number] = min(operands[number], sum(x.bytes for x in users))
            elif users and all(x.kind == "dynamic-update-slice" and x.operands[0] == each.name
                               for x in users):  # fmt: skip
                written = sum(by_name[x.operands[1]].bytes for x in users)
                operands[number], result = 0, result - each.bytes + written
    return sum(operands) + max(0, result)
