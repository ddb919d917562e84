"""Functions of one's own among a run's settings: what they were, when it goes on.

Settings name a function; what it does is its source. So a checkpoint keeps a digest of that, and of
the functions in the same file that it calls. What it takes from other files is not looked at, and
neither are this package's own functions, which change with its version.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

PACKAGE = __name__.partition(".")[0]


def functions_of(settings: Any, name: str = "") -> dict[str, str]:
    """The digest of each, by the name of its setting; without those whose source is not a file."""
    found: dict[str, str] = {}
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        for field in dataclasses.fields(settings):
            found |= functions_of(getattr(settings, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(settings, tuple):
        for number, one in enumerate(settings):
            found |= functions_of(one, f"{name}[{number}]")
    elif isinstance(settings, FunctionType) and not _of_package(settings):
        try:
            whole = "".join(_sources(settings, set()))
        except (OSError, TypeError):
            return {}
        found[name] = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The settings whose function is known to have been another."""
    return sorted(name for name, one in now.items() if before.get(name, one) != one)


def _of_package(function: FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] == PACKAGE


def _sources(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    """Its own, and that of every function which it names and its file holds."""
    if function in seen:
        return
    seen.add(function)
    yield inspect.getsource(function)
    for name in _names(function.__code__):
        used = function.__globals__.get(name)
        same_file = getattr(getattr(used, "__code__", None), "co_filename", None)
        if isinstance(used, FunctionType) and same_file == function.__code__.co_filename:
            yield from _sources(used, seen)


def _names(code: CodeType) -> Iterator[str]:
    """In the order in which it has them, functions within it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
