"""Trajectories on disk: a folder of append-only files, and beside them the pictures, each once.

    <folder>/<part>.jsonl           a line for each group: its record, and all that was rolled out
    <folder>/pictures/<sha256>      the pictures that came as bytes, still encoded

A part has one writer at a time, so no lock is needed. The writer decides what a part stands for (a
step, a process). Every line is complete by itself, so parts may be split and joined between lines.
A line that a crash cut short is logged and skipped, and the next append begins a new line.

Everything is read back as it was written, floats to the bit, with two exceptions: a picture that
came as bytes comes back as the path of its file, and arrays come back as NumPy's.

A trajectory's arrays are one string, the base64 of compressed bytes: ids, sampled, logprobs, and
policy_logprobs as the bits in which they differ from logprobs. Without top-k and top-p these are
zero and cost nothing. Each array is laid out by bytes of like significance, which compress better.
In archives of early versions, policy_logprobs are those at temperature 1. They are read all the
same, and a replay names how far they lie from those at the temperature of sampling.
"""

import base64
import hashlib
import json
import logging
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lfpc_jax import regular
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.trajectory import Crop, Group, Picture, Record, Trajectory, Turn

VERSION = 1

_ARRAYS: dict[str, type[np.generic]] = {
    "ids": np.int32,
    "sampled": np.bool_,
    "logprobs": np.float32,
    "policy_logprobs": np.float32,
}
_TOKEN_BYTES = sum(np.dtype(dtype).itemsize for dtype in _ARRAYS.values())
_MOST_BYTES = 1 << 28
"""Of the arrays of a group, some twenty million tokens. A foreign archive's line may inflate to a
thousand times its own length."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    folder: Path

    def append(self, part: str, groups: Iterable[Group]) -> None:
        """Adds groups to a part, which need not exist yet. If the process is killed after this, no
        group is lost. If the host dies, the last seconds may be: waiting for its disk each time
        would take longer than a small model takes to answer."""
        file = self._file(part)
        self.folder.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as out:
            if _cut_short(out):
                out.write(b"\n")
            for group in groups:
                line = {
                    "version": VERSION,
                    "record": self._record_entry(group.record),
                    "trajectories": [
                        _entry(group.record, trajectory) for trajectory in group.trajectories
                    ],
                    "rewards": group.rewards,
                }
                out.write(json.dumps(line, allow_nan=False).encode() + b"\n")

    def remove(self, part: str) -> None:
        """Deletes a part, if it exists; its pictures stay."""
        self._file(part).unlink(missing_ok=True)

    def read(self, part: str) -> Iterator[Group]:
        """The groups of a part in the order in which they were written, one in memory at a time."""
        file = self._file(part)
        for number, line in enumerate(regular.lines(file), 1):
            try:
                entry = json.loads(line)
                version = entry["version"]
                group = self._group(entry) if version == VERSION else None
            except (*OTHER_SHAPE, zlib.error) as error:
                log.warning(f"{file}, line {number}: no whole group, skipped ({error!r:.200})")
                continue
            if group is None:
                raise ValueError(
                    f"{file}, line {number}: version {version!r:.20} of the archive, not "
                    f"{VERSION}; read it with the release that wrote it"
                )
            yield group

    def count(self, part: str) -> int:
        """How many groups a part should hold: its lines, damaged ones included."""
        return sum(1 for _ in regular.lines(self._file(part)))

    def parts(self) -> list[str]:
        """The names of all parts, sorted."""
        return sorted(file.name.removesuffix(".jsonl") for file in self.folder.glob("*.jsonl"))

    def _file(self, part: str) -> Path:
        if not part or Path(part).name != part:
            raise ValueError(f"part {part!r}: a part is named like a file, without folders")
        return self.folder / f"{part}.jsonl"

    def _picture_file(self, digest: str) -> Path:
        return self.folder / "pictures" / digest

    def _record_entry(self, record: Record) -> dict[str, Any]:
        path, data = record.picture.path, record.picture.data
        if path is not None and data is not None:
            raise ValueError(
                f"record {record.id!r}: its picture is both a path and bytes; correct the reader "
                "of its data set"
            )
        picture = {"path": path} if data is None else {"sha256": self._keep(data)}
        return record.entry() | {"picture": picture}

    def _keep(self, data: bytes) -> str:
        """Stores a picture unless it is there already; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        file = self._picture_file(digest)
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            beside = file.with_name(f"{digest}.{uuid.uuid4().hex}")
            with beside.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(file)
        return digest

    def _group(self, entry: dict[str, Any]) -> Group:
        plain = _tuples(entry["record"])
        kept = plain["picture"]
        path = str(self._picture_file(kept["sha256"])) if "sha256" in kept else kept["path"]
        record = Record(**plain | {"picture": Picture(path)})
        room, trajectories = _MOST_BYTES, []
        for packed in entry["trajectories"]:
            trajectories.append(_trajectory(packed, room))
            room -= _TOKEN_BYTES * len(trajectories[-1].ids)
        return Group(record, tuple(trajectories), rewards=tuple(entry["rewards"]))


def _cut_short(out: Any) -> bool:
    """Whether a file that is open for appending ends within a line."""
    if not out.seek(0, os.SEEK_END):
        return False
    out.seek(-1, os.SEEK_END)
    return bool(out.read(1) != b"\n")


def _entry(record: Record, trajectory: Trajectory) -> dict[str, Any]:
    if trajectory.record != record.id:
        raise ValueError(
            f"trajectory of record {trajectory.record!r}, rollout {trajectory.rollout}, in the "
            f"group of record {record.id!r}; put it into its own group"
        )
    plain = [field.name for field in fields(trajectory) if field.name not in _ARRAYS]
    entry = {name: getattr(trajectory, name) for name in plain}
    unset_names = (("likelihood", None), ("unanswered", ""), ("versions", ()))
    for name, unset in unset_names:  # most episodes have no target
        if entry[name] == unset:
            del entry[name]
    return entry | {"turns": list(map(asdict, trajectory.turns)), "arrays": _pack(trajectory)}


def _trajectory(entry: dict[str, Any], room: int) -> Trajectory:
    plain = _tuples(entry)
    turns = (
        Turn(**turn | {"crop": Crop(**turn["crop"]) if turn["crop"] else None})
        for turn in plain["turns"]
    )
    arrays = _unpack(plain.pop("arrays"), room)
    return Trajectory(**plain | arrays | {"turns": tuple(turns)})


def _tuples(value: Any) -> Any:
    """A JSON value with all lists as tuples, which is what the records hold."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _pack(trajectory: Trajectory) -> str:
    arrays = {name: np.asarray(getattr(trajectory, name)) for name in _ARRAYS}
    for name, array in arrays.items():
        if array.dtype != _ARRAYS[name] or array.shape != (len(arrays["ids"]),):
            raise ValueError(
                f"trajectory of record {trajectory.record!r}, rollout {trajectory.rollout}: {name} "
                f"is {array.dtype}{list(array.shape)}, and must be {_ARRAYS[name].__name__} with "
                "as many values as there are ids"
            )
    arrays["policy_logprobs"] = _differing(arrays["policy_logprobs"], arrays["logprobs"])
    planes = b"".join(_planes(array) for array in arrays.values())
    return base64.b64encode(zlib.compress(planes)).decode()


def _unpack(packed: str, room: int) -> dict[str, np.ndarray]:
    inflating = zlib.decompressobj()
    inflated = inflating.decompress(base64.b64decode(packed, validate=True), max(room, 1))
    if not inflating.eof:
        raise ValueError(f"arrays are cut short, or a group's are over {_MOST_BYTES} bytes")
    planes = np.frombuffer(inflated, np.uint8)
    by_token = planes.reshape(_TOKEN_BYTES, -1)
    arrays, row = {}, 0
    for name, dtype in _ARRAYS.items():
        width = np.dtype(dtype).itemsize
        values = np.ascontiguousarray(by_token[row : row + width].T)
        arrays[name] = values.view(np.dtype(dtype).newbyteorder("<"))[:, 0].astype(dtype)
        row += width
    arrays["policy_logprobs"] = _differing(arrays["policy_logprobs"], arrays["logprobs"])
    return arrays


def _planes(array: np.ndarray) -> bytes:
    """All values' first bytes, then all second ones, and so on; little-endian."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(array), array.itemsize).T.tobytes()


def _differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The bits in which floats differ, as floats. Applied twice it gives `a` back."""
    return (a.view(np.uint32) ^ b.view(np.uint32)).view(np.float32)
