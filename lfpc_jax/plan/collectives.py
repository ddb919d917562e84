"""What a compiled program sends between chips, read from its text.

A collective inside a loop counts once for every iteration; both branches of a condition count.
Bytes are those that one chip sends in a ring: a group of n passes on (n - 1) / n of what is
gathered or scattered, and twice that for an all-reduce.

The TPU compiler hides a collective behind products. It then repeats the collective's channel in
every fusion or loop that does a part of it, so a channel is counted once, in the place where it
runs least. The compiler writes a reduce-scatter as an all-reduce in a fusion of that name; it is
counted as a reduce-scatter.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) "
    r"(?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\dm\d\w*)?|c64|c128)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,]*))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_UNTIL = re.compile(r"ROOT .* compare\(\S*?%?([\w.\-]+), \S*?%?([\w.\-]+)\), direction=LT")


@dataclass(frozen=True)
class Collective:
    """A collective in a group of so many chips. A chip sends `bytes` each time, `times` in one run
    of the program."""

    kind: str
    bytes: int
    group: int
    times: int


def collectives(text: str) -> list[Collective]:
    """The collectives in a compiled program's text (`compiled.as_text()`)."""
    computations = _computations(text)
    devices = re.search(r"num_partitions=(\d+)", text)
    everyone = int(devices.group(1)) if devices else 1
    by_channel: dict[str, Collective] = {}
    for name, times in _runs(computations).items():
        for line in computations[name]:
            collective = _collective(line, name, everyone, times)
            if collective is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            key = channel.group(1) if channel else line.split("=")[0]
            if key not in by_channel or by_channel[key].times > times:
                by_channel[key] = collective
    return list(by_channel.values())


def sent(exchanges: list[Collective]) -> dict[str, int]:
    """Bytes that a chip sends in one run of the program, by kind."""
    sums: dict[str, int] = defaultdict(int)
    for exchange in exchanges:
        sums[exchange.kind] += exchange.bytes * exchange.times
    return dict(sums)


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation; the entry's name comes last, as in the text."""
    lines: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = lines.setdefault(head.group(1), [])
        elif line.startswith(" "):
            current.append(line)
    return lines


def _runs(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs. For one that is called from several places, the place where
    it runs most often counts."""
    entry = next(reversed(computations))
    runs = {entry: 1}
    waiting = [entry]
    while waiting:
        caller = waiting.pop()
        for line in computations[caller]:
            trips = _trips(line, computations)
            for callee in _callees(line):
                times = runs[caller] * trips
                if callee in computations and times > runs.get(callee, 0):
                    runs[callee] = times
                    waiting.append(callee)
    return runs


def _callees(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for several, single in _BRANCHES.findall(line):
        yield from (name.strip(" %") for name in (several or single).split(","))


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """The iterations of a `while` that counts from 0 to a constant; 1 for any other."""
    if " while(" not in line:
        return 1
    if known := _TRIPS.search(line):
        return int(known.group(1))
    condition, body = (re.search(rf"{part}=%?([\w.\-]+)", line) for part in ("condition", "body"))
    if condition is None or body is None:
        return 1
    until = computations[condition.group(1)]
    compared = _UNTIL.search("\n".join(until))
    limits = dict(_CONSTANT.findall("\n".join(until)))
    if compared is None or compared.group(2) not in limits:
        return 1
    step = _step(compared.group(1), until, computations[body.group(1)])
    return -(-int(limits[compared.group(2)]) // step)


def _step(counter: str, condition: list[str], body: list[str]) -> int:
    """By how much a loop's body raises its counter: in the body's result, the operand in the
    counter's place is a sum with a constant. 1 if it is written otherwise."""
    place = re.search(
        rf"%?{re.escape(counter)} = .*get-tuple-element\(.*index=(\d+)", "\n".join(condition)
    )
    result = next((line for line in body if line.lstrip().startswith("ROOT")), "")
    operands = re.search(r" tuple\((.*?)\)(?:, |$)", result)
    if place is None or operands is None:
        return 1
    name = operands.group(1).split(", ")[int(place.group(1))].split("%")[-1]
    lines = "\n".join(body)
    added = re.search(rf"%?{re.escape(name)} = .* add\(.*?%?[\w.\-]+, .*?%?([\w.\-]+)\)", lines)
    constants = dict(_CONSTANT.findall(lines))
    return int(constants.get(added.group(1), 1)) if added else 1


def _collective(line: str, inside: str, everyone: int, times: int) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    arrays = [_bytes(*array) for array in _ARRAY.findall(match["shape"])]
    kind, group = match["kind"], _group(line, everyone)
    if match[3] and kind == "all-gather":
        whole = sum(arrays) * group // (group + 1)  # the operands stand beside the results
    elif match[3] and kind == "collective-permute":
        whole = arrays[0]
    else:
        whole = sum(arrays)
    if kind == "reduce-scatter":
        whole *= group
    if "all-reduce-scatter" in inside:
        kind = "reduce-scatter"
    if kind == "collective-permute":
        return Collective(kind, whole, group, times)
    passes = 2 if kind == "all-reduce" else 1
    return Collective(kind, passes * whole * (group - 1) // group, group, times)


def _group(line: str, everyone: int) -> int:
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota.group(1))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    return len(listed.group(1).split(",")) if listed else everyone


def _bytes(dtype: str, sides: str) -> int:
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype).group())  # type: ignore[union-attr]
    return math.prod(int(side) for side in sides.split(",") if side) * bits // 8
