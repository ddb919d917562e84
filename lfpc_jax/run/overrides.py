"""Typed overrides of a config's settings: `--rollout.slots 32 --data.train scenes,more`.

A value is parsed by the type of its field. A field that is a list takes items separated by commas;
where an item is a dataclass, its first field is given, such as the path of a source. `none` empties
an optional field, and `on` sets an optional dataclass to its defaults.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from lfpc_jax.rollout.episode import OLD_LIMIT
from lfpc_jax.run.config import RolloutSettings, TrainConfig

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def override(config: TrainConfig, words: Sequence[str]) -> TrainConfig:
    """The config with `--a.b value` (or `--a.b=value`) pairs applied, in order."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r}: expected an override such as --rollout.slots 32")
        name, given, value = word[2:].partition("=")
        if not given:
            if not rest:
                raise ValueError(f"--{name}: has no value")
            value = rest.pop(0)
        config = _set(config, name.split("."), value, name)
    return config


def _set(config: Any, path: list[str], value: str, name: str) -> Any:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"--{name}: {path[0]!r} is inside a field that has no fields")
    types_of = typing.get_type_hints(type(config))
    if path[0] == "max_tokens" and isinstance(config, RolloutSettings):
        raise ValueError(f"--{name}: {OLD_LIMIT}")
    if path[0] not in types_of:
        close = difflib.get_close_matches(path[0], types_of, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {sorted(types_of)}"
        raise ValueError(f"--{name}: unknown setting {path[0]!r}; {hint}")
    if len(path) > 1:
        old = getattr(config, path[0])
        if old is None:
            whole = name.removesuffix(".".join(["", *path[1:]]))
            _needs_file(types_of[path[0]], whole)
            raise ValueError(f"--{name}: {path[0]} is off; turn it on first: --{whole} on")
        new = _set(old, path[1:], value, name)
    else:
        new = _read(types_of[path[0]], value, name)
    return dataclasses.replace(config, **{path[0]: new})


def _read(kind: Any, value: str, name: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if type(None) in get_args(kind) and value == "none":
            return None
        return _read(_present(kind), value, name)
    if origin is Literal:
        if value in get_args(kind):
            return value
        raise ValueError(f"--{name} {value!r}: must be one of {', '.join(get_args(kind))}")
    if origin is tuple:
        return tuple(_read(get_args(kind)[0], item, name) for item in value.split(",") if item)
    if kind is bool:
        if value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
        raise ValueError(f"--{name} {value!r}: must be true or false")
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            word = "a whole number" if kind is int else "a number"
            raise ValueError(f"--{name} {value!r}: must be {word}") from None
    if kind is str:
        return value
    if dataclasses.is_dataclass(kind):
        _needs_file(kind, name, most=0 if value == "on" else 1)
        return kind() if value == "on" else kind(value)  # type: ignore[operator, call-arg]
    raise ValueError(f"--{name}: cannot be given on the command line; set it in a config file")


def _present(kind: Any) -> Any:
    """The type without its `None`, if it is optional."""
    return next((option for option in get_args(kind) if option is not type(None)), kind)


def _needs_file(kind: Any, name: str, most: int = 0) -> None:
    """Raises ValueError if more than `most` fields of a dataclass have no defaults."""
    kind = _present(kind)
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if len(needed) > most:
        raise ValueError(
            f"--{name}: {kind.__name__} needs {', '.join(needed)} all at once; set it in a config "
            "file"
        )
