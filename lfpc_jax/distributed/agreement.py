"""Checks that all processes run the same code, versions and whatever else the caller names.

If they differ, every process raises an error that names the differing process and part and, for a
part that is text, the first line that differs. Nobody can know which side is right: the smaller
group of processes is reported as differing, and of two equal groups the one without process 0.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from lfpc_jax.distributed.board import Board, named

_PACKAGE = Path(__file__).parents[1]
_VERSIONS = ("jax", "jaxlib", "numpy", "optax", "grain", "orbax-checkpoint", "tokenizers", "pillow")
_COMPARED = 50_000
"""How many characters of a part are compared line by line when its digests differ."""
_CAMPS = 4
"""How many versions of a part an error names."""


def code(package: Path = _PACKAGE) -> str:
    """A line for each source file: its path and a digest of its bytes."""
    files = sorted(package.rglob("*.py"))
    return "\n".join(
        f"{path.relative_to(package).as_posix()} {_digest(path.read_bytes())[:16]}"
        for path in files
    )


def versions() -> str:
    return "\n".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)


def agree(board: Board, parts: Mapping[str, bytes | str], seconds: float | int) -> None:
    """Raises ValueError in every process unless all bring the same parts."""
    digests = {name: _digest(_bytes(part)) for name, part in parts.items()}
    notes = board.meet("agree", seconds, json.dumps(digests))
    digests_of = {process: json.loads(text) for process, text in sorted(notes.items())}
    names = sorted({name for theirs in digests_of.values() for name in theirs})
    camps = {name: _camps(name, digests_of) for name in names}
    differing = [name for name in names if len(camps[name]) > 1]
    if not differing:
        return
    # One process of each camp sends its text; bytes are compared by digest alone.
    texts = {
        name: part[:_COMPARED]
        for name in differing
        if board.process in [camp[0] for camp in camps[name][:_CAMPS]]
        and isinstance(part := parts.get(name), str)
    }
    notes = board.meet("agree-differences", seconds, json.dumps(texts))
    texts_of = {process: json.loads(text) for process, text in notes.items()}
    lines = [line for name in differing for line in _differences(name, camps[name], texts_of)]
    raise ValueError(
        "the processes do not run the same: " + "; ".join(lines) + ". Copy code, config and data "
        "to every host and start again"
    )


def _camps(name: str, digests_of: Mapping[int, Mapping[str, str]]) -> list[tuple[int, ...]]:
    """Groups of processes that agree about part `name`, the largest group first."""
    camps: dict[str | None, list[int]] = {}
    for process, digests in digests_of.items():
        camps.setdefault(digests.get(name), []).append(process)
    return sorted((tuple(camp) for camp in camps.values()), key=lambda camp: (-len(camp), camp[0]))


def _differences(
    name: str, camps: Sequence[tuple[int, ...]], texts_of: Mapping[int, Mapping[str, str]]
) -> list[str]:
    most, *others = camps
    theirs = texts_of[most[0]].get(name)
    lines = []
    for camp in others[: _CAMPS - 1]:
        verb = "differs" if len(camp) == 1 else "differ"
        line = f"{named(camp)} {verb} from {named(most)} in {name!r}"
        ours = texts_of[camp[0]].get(name)
        if ours is not None and theirs is not None:
            line += f" ({_first_line(ours, theirs)})"
        lines.append(line)
    if len(others) >= _CAMPS:
        lines.append(f"and {len(others) - _CAMPS + 1} more versions of {name!r}")
    return lines


def _first_line(ours: str, theirs: str) -> str:
    lines = zip_longest(ours.splitlines(), theirs.splitlines())
    for number, (our_line, their_line) in enumerate(lines, 1):
        if our_line != their_line:
            # Of a long line, such as a whole config, only the part around the difference is quoted.
            a, b = our_line or "", their_line or ""
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            return f"line {number}: {_quoted(our_line, at)} instead of {_quoted(their_line, at)}"
    return f"beyond the first {_COMPARED} characters, or in white space at the end of a line"


def _quoted(line: str | None, at: int) -> str:
    return "nothing" if line is None else repr(line[max(0, at - 40) : at + 60])


def _bytes(part: bytes | str) -> bytes:
    return part.encode() if isinstance(part, str) else part


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def data_list(names: Sequence[str]) -> bytes:
    """A list of record names as a part for `agree`. Their order matters, since it must agree."""
    return _digest("\n".join(names).encode()).encode()
