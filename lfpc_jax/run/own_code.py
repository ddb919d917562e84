"""The user's functions among a run's settings: whether they changed before a run was resumed.

Settings hold a function by name, but what it does is its source. So a checkpoint keeps a digest of
the source, and of the functions in the same file that it calls. Functions of other files do not
count, and neither do this package's functions, which change with its version.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

PACKAGE = __name__.partition(".")[0]


def functions_of(settings: Any, name: str = "") -> dict[str, str]:
    """The digest of every function, by the name of its setting. Functions whose source is not in a
    file are left out."""
    digests: dict[str, str] = {}
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        for field in dataclasses.fields(settings):
            digests |= functions_of(
                getattr(settings, field.name), f"{name}.{field.name}".lstrip(".")
            )
    elif isinstance(settings, tuple):
        for number, item in enumerate(settings):
            digests |= functions_of(item, f"{name}[{number}]")
    elif isinstance(settings, FunctionType) and not _of_package(settings):
        try:
            whole = "".join(_sources(settings, set()))
        except (OSError, TypeError):
            return {}
        digests[name] = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return digests


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of the settings whose function is known to have changed."""
    return sorted(name for name, source in now.items() if before.get(name, source) != source)


def _of_package(function: FunctionType) -> bool:
    return (function.__module__ or "").split(".")[0] == PACKAGE


def _sources(function: FunctionType, seen: set[FunctionType]) -> Iterator[str]:
    """The source of a function, and of every function in its file that it names."""
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
    """The names that code uses, in their order, including those of functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
