"""Config files by name: `stage1.py` or `stage1.py:3b` of configs/, or `path/to/own.py`.

A config file has a function `get_config()` that returns a `TrainConfig`. What follows a colon in
the name, as in `stage1.py:3b`, is the argument of that function.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

from lfpc_jax.rollout.episode import OLD_LIMIT
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.former_modules import importable, sized

_PACKAGE = Path(__file__).parents[1]
CONFIGS = next(filter(Path.is_dir, (_PACKAGE / "configs", _PACKAGE.parent / "configs")))
"""A wheel has the configs in the package, a checkout beside it."""


def load_config(name: str, folder: Path = CONFIGS) -> TrainConfig:
    """The config that a name stands for: a file, or one in `folder`. `.py` may be left out."""
    return named_config(name, folder)[0]


def named_config(name: str, folder: Path = CONFIGS) -> tuple[TrainConfig, str]:
    """The config, and a name for its runs: `stage1`, or `stage1_3b` if the size is not the file's
    default. Config files may import one another as `configs.stage1`."""
    _make_importable(folder)
    path, size = _file_and_size(name, folder)
    with _in_plain_words(path), importable(path):
        spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{path}: is no Python file; a config's name ends with .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = _call(getattr(module, "get_config", None), size, path)
    if not isinstance(config, TrainConfig):
        raise ValueError(f"{path}: has no get_config() that returns a TrainConfig")
    by_default = next(iter(inspect.signature(module.get_config).parameters.values()), None)
    is_default = size is None or (by_default is not None and size == by_default.default)
    return config, path.stem if is_default else f"{path.stem}_{size}"


def _make_importable(folder: Path) -> None:
    """Lets `import configs.NAME` find the files of `folder`, after those of any other folder
    `configs` that Python finds."""
    try:
        package = importlib.import_module("configs")
    except ModuleNotFoundError:
        package = importlib.util.module_from_spec(ModuleSpec("configs", None, is_package=True))
        sys.modules["configs"] = package
    if str(folder) not in package.__path__:
        package.__path__.append(str(folder))


@contextmanager
def _in_plain_words(path: Path) -> Iterator[None]:
    """Raises ValueError, with file and line, for whatever is wrong with a config's Python."""
    try:
        yield
    except ValueError:
        raise
    except SyntaxError as error:
        text = (error.text or "").strip()
        raise ValueError(
            f"{error.filename or path}, line {error.lineno}: {error.msg}: {text}"
        ) from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error


def _file_and_size(name: str, folder: Path) -> tuple[Path, str | None]:
    before, colon, after = name.rpartition(":")
    for text, size in ((name, None), *([(before, after)] if colon else [])):
        for path in (Path(text), folder / text, Path(f"{text}.py"), folder / f"{text}.py"):
            if path.is_file():
                return path, size
    if moved := _moved(name, folder):
        raise ValueError(f"config {name!r} is now {moved}")
    known = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if "def get_config" in path.read_text(encoding="utf-8")
    )
    raise ValueError(f"config {name!r}: no such file, nor among {known}")


def _moved(name: str, folder: Path) -> str:
    """The name that replaces a config file of an earlier version that was named for its size. Empty
    for other names."""
    former = sized("configs." + name.removesuffix(".py").replace("/", "."))
    if former is None:
        return ""
    file = former[0].removeprefix("configs.").replace(".", "/") + ".py"
    return f"{file}:{former[1]}" if (folder / file).is_file() else ""


def _call(get_config: Callable[..., object] | None, size: str | None, path: Path) -> object:
    if get_config is None:
        return None
    parameters = inspect.signature(get_config).parameters
    needed = [name for name, known in parameters.items() if known.default is known.empty]
    if size is not None and not parameters:
        raise ValueError(f"{path}: its get_config() takes no argument, so {size!r} means nothing")
    if size is None and needed:
        raise ValueError(f"{path}: needs its {needed[0]} behind a colon, as {path.name}:VALUE")
    try:
        return get_config() if size is None else get_config(size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except TypeError as error:
        if "'max_tokens'" not in str(error):
            raise
        raise ValueError(f"{path}: {OLD_LIMIT}") from error
