"""The commands by the names that a user types: `lfpc select`, or by their files in launch/."""

import shlex
from collections.abc import Sequence

SHORT = {"label_boxes": "label", "select_resolution": "select"}
"""Commands that are typed by a shorter name than their module's. The others' names are their
modules', with dashes."""


def typed_name(module: str) -> str:
    """The name that a user types for the module of a command, whose name may be typed as well."""
    return SHORT.get(module.replace("-", "_"), module.replace("_", "-"))


def typed(words: Sequence[str]) -> str:
    """A command as a user types it, from `train.py` and its arguments."""
    script, *arguments = words
    return f"lfpc {shlex.join((typed_name(script.removesuffix('.py')), *arguments))}"
