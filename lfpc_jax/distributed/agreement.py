"""Do all processes run the same thing? Code, versions and whatever else the caller names.

A difference is an error in every process that says which process differs in which part, and for
parts that are text, the first line that differs. Who is right is not known: those who are fewer are
named, and of two equal camps the one without process 0.
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
_SHOWN = 50_000
"""Characters of a part that are compared line by line once its digest has differed."""
_CAMPS = 4
"""Versions of a part that are shown."""


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
    """Raises ValueError in every process if one of them brings another part."""
    digests = {name: _digest(_bytes(part)) for name, part in parts.items()}
    notes = board.meet("agree", seconds, json.dumps(digests))
    found = {process: json.loads(text) for process, text in sorted(notes.items())}
    names = sorted({name for one in found.values() for name in one})
    camps = {name: _camps(name, found) for name in names}
    differing = [name for name in names if len(camps[name]) > 1]
    if not differing:
        return
    # One of each camp shows its text; bytes are compared by digest alone.
    texts = {
        name: part[:_SHOWN]
        for name in differing
        if board.process in [camp[0] for camp in camps[name][:_CAMPS]]
        and isinstance(part := parts.get(name), str)
    }
    notes = board.meet("agree-differences", seconds, json.dumps(texts))
    shown = {process: json.loads(text) for process, text in notes.items()}
    lines = [line for name in differing for line in _differences(name, camps[name], shown)]
    raise ValueError(
        "the processes do not run the same: " + "; ".join(lines) + ". Copy code, config and data "
        "to every host and start again"
    )


def _camps(name: str, found: Mapping[int, Mapping[str, str]]) -> list[tuple[int, ...]]:
    """Those who agree with each other, the largest camp first."""
    camps: dict[str | None, list[int]] = {}
    for process, one in found.items():
        camps.setdefault(one.get(name), []).append(process)
    return sorted((tuple(camp) for camp in camps.values()), key=lambda camp: (-len(camp), camp[0]))


def _differences(
    name: str, camps: Sequence[tuple[int, ...]], shown: Mapping[int, Mapping[str, str]]
) -> list[str]:
    most, *others = camps
    theirs = shown[most[0]].get(name)
    lines = []
    for camp in others[: _CAMPS - 1]:
        verb = "differs" if len(camp) == 1 else "differ"
        line = f"{named(camp)} {verb} from {named(most)} in {name!r}"
        ours = shown[camp[0]].get(name)
        if ours is not None and theirs is not None:
            line += f" ({_first_line(ours, theirs)})"
        lines.append(line)
    if len(others) >= _CAMPS:
        lines.append(f"and {len(others) - _CAMPS + 1} more versions of {name!r}")
    return lines


def _first_line(ours: str, theirs: str) -> str:
    for number, (one, other) in enumerate(zip_longest(ours.splitlines(), theirs.splitlines()), 1):
        if one != other:
            # A long line, such as a whole config, is shown around the difference.
            pairs = enumerate(zip(one or "", other or ""))
            shorter = min(len(one or ""), len(other or ""))
            at = next((i for i, (a, b) in pairs if a != b), shorter)
            return f"line {number}: {_shown(one, at)} instead of {_shown(other, at)}"
    return f"beyond the first {_SHOWN} characters, or in white space at the end of a line"


def _shown(line: str | None, at: int) -> str:
    return "nothing" if line is None else repr(line[max(0, at - 40) : at + 60])


def _bytes(part: bytes | str) -> bytes:
    return part.encode() if isinstance(part, str) else part


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def data_list(names: Sequence[str]) -> bytes:
    """A list of records as a part: in their order, since that is what has to agree."""
    return _digest("\n".join(names).encode()).encode()
