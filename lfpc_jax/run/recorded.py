"""A training run's settings, read back from its config.json.

Functions are recorded by name only, so they do not come back: readers are the default one,
`demonstrate` is none, and rewards of the user's own are left out.
"""

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from lfpc_jax.jsonfile import OTHER_SHAPE, expecting, read_object
from lfpc_jax.rollout.episode import with_limits
from lfpc_jax.run.config import TrainConfig


def recorded_config(file: Path) -> TrainConfig:
    """Settings that the file does not have, because it is older, have their defaults; settings that
    this version does not know are ignored. Raises ValueError for a file that is damaged."""
    try:
        raw = read_object(file)
        raw["rollout"] = with_limits(raw.get("rollout", {}))
        config = _read(TrainConfig, raw)
    except OTHER_SHAPE as error:
        raise ValueError(f"{file}: holds no settings of a run ({error!r:.200})") from error
    assert isinstance(config, TrainConfig)
    return config


def own_rewards(file: Path) -> tuple[str, ...]:
    """The names of the rewards that are functions of the user's own."""
    with expecting("settings of a run", file):
        rewards = read_object(file).get("rewards", {})
        return tuple(str(reward["name"]) for reward in rewards.get("own", ()))


def _read(kind: Any, value: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _read(_present(kind), value)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value)
    if origin is tuple:
        item = get_args(kind)[0]
        return tuple(_read(item, each) for each in value) if _readable(item) else ()
    return value


def _dataclass(kind: Any, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.name in values]
    return kind(
        **{
            name: _read(hints[name], values[name])
            for name in known
            if not _is_function(hints[name])
        }
    )


def _readable(kind: Any) -> bool:
    """Whether a dataclass can be built without its functions."""
    if not dataclasses.is_dataclass(kind):
        return True
    hints = typing.get_type_hints(kind)
    return not any(
        _is_function(hints[field.name])
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
    )


def _is_function(kind: Any) -> bool:
    return get_origin(_present(kind)) is Callable


def _present(kind: Any) -> Any:
    """The type without its `None`, if it is optional."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    return next(each for each in get_args(kind) if each is not type(None))
