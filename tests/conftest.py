"""Eight virtual CPU devices, programs that are compiled once a run, for all of its processes, and
every annotation of the package checked at run time, but in `make check`."""

import os
import re

from support import scratch, xla

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla.flags(8)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# A test's time says nothing on a busy machine.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")
pytest_plugins = ["support.compilations", "support.chromium"]

_ALL_COMPILE = re.compile(r"^pytestmark = .*\bcompiles\b", re.MULTILINE)
_LONGEST = ("test_train", "test_tour", "test_session", "test_readme", "test_compilations")

jax.devices()  # all eight, before a plan for two of them could be the first to ask


def pytest_configure(config):
    if scratch.ROOT not in os.environ:  # as it is in the workers
        config.add_cleanup(scratch.begin())
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(scratch.folder("compiled-"))
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    if not _quick(config):
        install_import_hook("lfpc_jax", "beartype.beartype")


def _quick(config):
    """`make check`: annotations go unchecked, and no file is imported for nothing."""
    return "not compiles" in config.option.markexpr


def pytest_ignore_collect(collection_path, config):
    if collection_path.suffix == ".py" and _quick(config):
        return bool(_ALL_COMPILE.search(collection_path.read_text(encoding="utf-8"))) or None


def pytest_collection_modifyitems(items):
    """The longest first, or one process would be left with them at the end."""
    items.sort(key=lambda item: not item.path.name.startswith(_LONGEST))


@pytest.fixture(autouse=True)
def _not_told_to_stop():
    """Commands that run in this process hear signals from then on; the next test begins anew."""
    yield
    from lfpc_jax import stopping

    stopping.forget()


@pytest.fixture(scope="module")
def lean():
    """What runs on all devices finds one, and programs are few: eight devices compile for several
    times as long."""
    from support.lean import settings

    with pytest.MonkeyPatch.context() as patch:
        for where, name, value in settings():
            change = patch.setitem if isinstance(where, dict) else patch.setattr
            change(where, name, value)
        for name in ("devices", "local_devices"):
            first = getattr(jax, name)()[:1]
            patch.setattr(jax, name, lambda *_, first=first: first)
            patch.setattr(jax, name.removesuffix("s") + "_count", lambda *_: 1)
        yield
