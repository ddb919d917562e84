"""Config files of earlier versions import modules by names that those no longer have.

While a config file is loaded, such an import gives the module's new place, and one warning says
where to import from. Nothing else can import the former names, nor can a function of the file that
is called later; the warning names what such functions import.
"""

import ast
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

log = logging.getLogger(__name__)

_MOVED = {
    "lfpc_jax.config": "lfpc_jax.run.config",
    "lfpc_jax.data.losses": "lfpc_jax.data.rejected",
    "lfpc_jax.grpo.step": "lfpc_jax.grpo.updater",
    "lfpc_jax.grpo.trained": "lfpc_jax.model.parameters",
    "lfpc_jax.grpo.update": "lfpc_jax.grpo.learner",
}
_RENAMED = {"Loss": "Rejected", "Trained": "Trainable"}
"""Classes of these modules by their former names."""
_SIZED = {
    "configs.micro.baseline": ("configs.baseline", "micro"),
    "configs.micro.stage1": ("configs.stage1", "micro"),
    "configs.micro.stage2": ("configs.stage2", "micro"),
    "configs.micro.control": ("configs.ablations.no_iou", "micro"),
}
"""Config files that are now another's at a size; so is every one whose name ended in `_3b`."""


@contextmanager
def importable(file: Path) -> Iterator[None]:
    """Within the context, `file` and what it imports can import the former names."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.used:
            sys.modules.pop(name, None)
            parent, _, child = name.rpartition(".")
            vars(sys.modules[parent]).pop(child, None)
    late = _imported_by_functions(file)
    if moves := finder.used | late:
        told = ", ".join(f"{name} is now {home}" for name, home in moves.items())
        if late:
            told += f"; a function that is called after loading cannot import {', '.join(late)}"
        log.warning("%s imports modules by former names: %s", file, told)


class _Finder(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self.used: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        former = sized(fullname)
        known = find_spec(former[0]) is not None if former else fullname in _MOVED
        return ModuleSpec(fullname, self) if known else None

    def exec_module(self, module: ModuleType) -> None:
        """Makes an alias: the module holds the same objects as the new place."""
        name = module.__name__
        former = sized(name)
        home = importlib.import_module(former[0] if former else _MOVED[name])
        held = {key: value for key, value in vars(home).items() if not key.startswith("__")}
        held |= {old: held[new] for old, new in _RENAMED.items() if new in held}
        if former:
            held["get_config"] = partial(home.get_config, former[1])
        vars(module).update(held)
        self.used[name] = _home(name)


def sized(name: str) -> tuple[str, str] | None:
    """The module and the size that replace a config file named for its size."""
    if name.startswith("configs.") and name.endswith("_3b"):
        return name.removesuffix("_3b"), "3b"
    return _SIZED.get(name)


def _home(name: str) -> str:
    """What to import in place of a former name, in words."""
    former = sized(name)
    return f"{former[0]} with get_config({former[1]!r})" if former else _MOVED[name]


def _imported_by_functions(file: Path) -> dict[str, str]:
    """The former names, and their homes, that functions of the file import when they are called;
    `get_config` is called while the file is loaded."""
    homes = {}
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name != "get_config":
            for node in ast.walk(function):
                for name in _imports(node):
                    if name in _MOVED or sized(name):
                        homes[name] = _home(name)
    return homes


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []
