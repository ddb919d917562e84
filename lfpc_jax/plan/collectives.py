"""What a compiled program sends between chips, read from its text.

A collective inside a loop counts once for every iteration; both branches of a condition count.
Bytes are those that one chip sends in a ring: a group of n passes on (n - 1) / n of what is
gathered or scattered, and twice that for an all-reduce.

The TPU compiler hides a collective behind products. It then repeats the collective's channel in
every fusion or loop that does a part of it, so a channel is counted once, in the place where it
runs least. Where it peels the first iteration off a loop, the loop counts from 1, and both places
count. The compiler writes a reduce-scatter as an all-reduce in a fusion of that name; it is
counted as a reduce-scatter.

A group may lie across slices or hosts, which a slower network joins. The least that must pass
between them is counted: each part of an array enters a slice once, spread over its chips. So of
what a chip in a group of n on s slices sends, (s - 1) / (n - 1) goes between slices. The TPU
compiler splits such a collective itself: what goes between slices is sent by the host.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) "
    r"(?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_BETWEEN = re.compile(
    r"= \((?P<shape>\w+\[[\d,]*\]).* send\(.*_xla_megascale_target=\"\{(?P<slices>[\d,]+)\}"
    r".*_xla_megascale_transfer_type=\"(?P<kind>\w+)\""
)
"""What a host sends to other slices."""
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+(?:e\dm\d\w*)?|c64|c128)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=([^,]*))")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_UNTIL = re.compile(r"ROOT .* compare\(\S*?%?([\w.\-]+), \S*?%?([\w.\-]+)\), direction=LT")


@dataclass(frozen=True)
class Collective:
    """A collective in a group of so many chips, `times` in one run of the program. Each time a chip
    sends `bytes`, of which `between` go to other slices or hosts."""

    kind: str
    bytes: int
    group: int
    times: int = 1
    between: int = 0


def collectives(text: str, hosts: Sequence[int] = ()) -> list[Collective]:
    """The collectives in a compiled program's text (`compiled.as_text()`). `hosts` are those of its
    devices, in their order, if a network joins them that is slower than what joins the devices of
    one."""
    computations = _computations(text)
    devices = re.search(r"num_partitions=(\d+)", text)
    everyone = int(devices.group(1)) if devices else 1
    by_channel: dict[str, dict[bool, Collective]] = defaultdict(dict)
    for name, runs in _runs(computations).items():
        for line in computations[name]:
            collective = _between(line) or _collective(line, name, everyone, hosts)
            if collective is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line)
            places = by_channel[channel.group(1) if channel else line.split("=")[0]]
            least = places.get(runs.peeled)
            if least is None or least.times > runs.times:
                places[runs.peeled] = replace(collective, times=runs.times)
    return [
        replace(next(iter(places.values())), times=sum(place.times for place in places.values()))
        for places in by_channel.values()
    ]


def sent(exchanges: Iterable[Collective]) -> dict[str, int]:
    """Bytes that a chip sends in one run of the program, by kind."""
    return _by_kind((one.kind, one.bytes * one.times) for one in exchanges)


def sent_between(exchanges: Iterable[Collective]) -> dict[str, int]:
    """Of these, the bytes that go to other slices or hosts."""
    return _by_kind((one.kind, one.between * one.times) for one in exchanges if one.between)


def _by_kind(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for kind, size in sizes:
        sums[kind] += size
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


@dataclass(frozen=True, order=True)
class _Runs:
    """How often a computation runs, and whether that is within a loop whose first iteration stands
    in front of it."""

    times: int
    peeled: bool = False


def _runs(computations: dict[str, list[str]]) -> dict[str, _Runs]:
    """How often each computation runs. For one that is called from several places, the place where
    it runs most often counts."""
    entry = next(reversed(computations))
    runs = {entry: _Runs(1)}
    waiting = [entry]
    while waiting:
        caller = waiting.pop()
        for line in computations[caller]:
            loop = _loop(line, computations, computations[caller])
            for callee in _callees(line):
                many = _Runs(runs[caller].times * loop.times, runs[caller].peeled or loop.peeled)
                if callee in computations and (callee not in runs or many > runs[callee]):
                    runs[callee] = many
                    waiting.append(callee)
    return runs


def _callees(line: str) -> Iterator[str]:
    yield from _CALLED.findall(line)
    for several, single in _BRANCHES.findall(line):
        yield from (name.strip(" %") for name in (several or single).split(","))


def _loop(line: str, computations: dict[str, list[str]], around: list[str]) -> _Runs:
    """The iterations of a `while` that counts from a constant to another; once for any other
    line. `around` are the lines of its computation."""
    if " while(" not in line:
        return _Runs(1)
    if known := _TRIPS.search(line):
        return _Runs(int(known.group(1)))
    condition, body = (re.search(rf"{part}=%?([\w.\-]+)", line) for part in ("condition", "body"))
    if condition is None or body is None:
        return _Runs(1)
    until = computations[condition.group(1)]
    compared = _UNTIL.search("\n".join(until))
    limits = dict(_CONSTANT.findall("\n".join(until)))
    if compared is None or compared.group(2) not in limits:
        return _Runs(1)
    place = re.search(
        rf"%?{re.escape(compared.group(1))} = .*get-tuple-element\(.*index=(\d+)", "\n".join(until)
    )
    if place is None:
        return _Runs(int(limits[compared.group(2)]))
    counter = int(place.group(1))
    start = _start(line, counter, around)
    step = _step(counter, computations[body.group(1)])
    return _Runs(-(-(int(limits[compared.group(2)]) - start) // step), peeled=start > 0)


def _start(line: str, counter: int, around: list[str]) -> int:
    """The constant from which a loop counts; 0 if it is written otherwise."""
    lines = "\n".join(around)
    given = re.search(r" while\(%?([\w.\-]+)\)", line)
    made = given and re.search(
        rf"%?{re.escape(given.group(1))} = .* tuple\((.*?)\)(?:, |$)", lines, re.M
    )
    if not made:
        return 0
    name = made.group(1).split(", ")[counter].split("%")[-1]
    constants = dict(_CONSTANT.findall(lines))
    while name not in constants:
        copied = re.search(rf"%?{re.escape(name)} = \S+ copy\(%?([\w.\-]+)\)", lines)
        if copied is None:
            return 0
        name = copied.group(1)
    return int(constants[name])


def _step(counter: int, body: list[str]) -> int:
    """By how much a loop's body raises its counter: in the body's result, the operand in the
    counter's place is a sum with a constant. 1 if it is written otherwise."""
    result = next((line for line in body if line.lstrip().startswith("ROOT")), "")
    operands = re.search(r" tuple\((.*?)\)(?:, |$)", result)
    if operands is None:
        return 1
    name = operands.group(1).split(", ")[counter].split("%")[-1]
    lines = "\n".join(body)
    added = re.search(rf"%?{re.escape(name)} = .* add\(.*?%?[\w.\-]+, .*?%?([\w.\-]+)\)", lines)
    constants = dict(_CONSTANT.findall(lines))
    return int(constants.get(added.group(1), 1)) if added else 1


def _collective(line: str, inside: str, everyone: int, hosts: Sequence[int]) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if match is None:
        return None
    arrays = [_bytes(*array) for array in _ARRAY.findall(match["shape"])]
    kind, groups = match["kind"], _groups(line, everyone)
    group = groups.shape[1]
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
        return Collective(kind, whole, group, between=round(whole * _crossing(line, hosts)))
    passes = 2 if kind == "all-reduce" else 1
    size = passes * whole * (group - 1) // group
    spans = (
        max((len({hosts[device] for device in each}) for each in groups), default=1) if hosts else 1
    )
    return Collective(kind, size, group, between=size * (spans - 1) // max(1, group - 1))


def _between(line: str) -> Collective | None:
    """What the host of a TPU sends to other slices for its chips."""
    match = _BETWEEN.search(line)
    if match is None:
        return None
    part = sum(_bytes(*array) for array in _ARRAY.findall(match["shape"]))
    slices = len(match["slices"].split(","))
    kind = match["kind"].lower().replace("_", "-")
    size = {"all-reduce": 2 * part * (slices - 1) // slices, "all-gather": part * (slices - 1)}
    sends = size.get(kind, part * (slices - 1) // slices)
    return Collective(kind, sends, slices, between=sends)


def _crossing(line: str, hosts: Sequence[int]) -> float:
    """The share of the pairs of a permutation that lie on two hosts."""
    listed = re.search(r"source_target_pairs=\{\{(.*?)\}\}", line)
    if listed is None or not hosts:
        return 0.0
    pairs = [tuple(map(int, pair.split(","))) for pair in listed.group(1).split("},{")]
    return sum(hosts[source] != hosts[target] for source, target in pairs) / len(pairs)


def _groups(line: str, everyone: int) -> np.ndarray:
    """The devices of each group, one group a row."""
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        sides = [int(side) for side in iota.group(3).split(",")]
        order = [int(axis) for axis in (iota.group(4) or "").split(",") if axis]
        devices = np.arange(math.prod(sides)).reshape(sides)
        return devices.transpose(order or None).reshape(int(iota.group(1)), int(iota.group(2)))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", line):
        named = {name: int(side) for name, side in re.findall(r"'(\w+)'=(\d+)", mesh.group(1))}
        axes = re.findall(r"'(\w+)'", mesh.group(2))
        devices = np.arange(math.prod(named.values())).reshape(*named.values())
        last = [[*named].index(axis) for axis in axes]
        moved = np.moveaxis(devices, last, range(-len(last), 0))
        return moved.reshape(-1, math.prod(named[axis] for axis in axes))
    if listed := re.search(r"replica_groups=\{(\{[\d,{}]+\})\}", line):
        groups = listed.group(1).strip("{}").split("},{")
        return np.array([[int(device) for device in group.split(",")] for group in groups])
    return np.arange(everyone).reshape(1, -1)


def _bytes(dtype: str, sides: str) -> int:
    bits = _BITS.get(dtype) or int(re.search(r"\d+", dtype).group())  # type: ignore[union-attr]
    return math.prod(int(side) for side in sides.split(",") if side) * bits // 8
