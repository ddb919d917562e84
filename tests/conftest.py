"""Eight virtual CPU devices, every annotation of the package checked at run time, and programs that
are compiled once a run, for all of its processes."""

import os

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
install_import_hook("lfpc_jax", "beartype.beartype")

jax.devices()  # all eight, before a plan for two of them could be the first to ask


def pytest_configure(config):
    if scratch.ROOT not in os.environ:  # as it is in the workers
        config.add_cleanup(scratch.begin())
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(scratch.folder("compiled-"))


@pytest.fixture(autouse=True)
def _not_told_to_stop():
    """Commands that run in this process hear signals from then on; the next test begins anew."""
    yield
    from lfpc_jax import stopping

    stopping.forget()
