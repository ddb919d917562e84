"""What `import lfpc_jax` offers: every name is there and documented, and importing it is cheap."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lfpc_jax

CHEAP = """
import sys, time
start = time.perf_counter()
import lfpc_jax
assert time.perf_counter() - start < 0.5, "the import itself takes long"
found = {name.split(".")[0] for name in sys.modules}
heavy = found & {"jax", "numpy", "transformers", "PIL", "flax"}
assert not heavy, heavy
assert "Session" in dir(lfpc_jax)
assert lfpc_jax.Record.__module__ == "lfpc_jax.trajectory"
assert "lfpc_jax.run" not in sys.modules
"""


@pytest.mark.parametrize("name", lfpc_jax.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name):
    value = getattr(lfpc_jax, name)
    assert value.__name__ == name
    assert inspect.getdoc(value), name


def test_type_checkers_see_the_same_names_in_the_same_modules():
    [block] = [
        node
        for node in ast.parse(Path(lfpc_jax.__file__).read_text()).body
        if isinstance(node, ast.If)
    ]
    seen = {
        alias.asname: node.module for node in block.body for alias in node.names
    }  # every one is imported as itself, which is what makes it public
    assert {name: f"lfpc_jax.{module}" for name, module in lfpc_jax._MODULES.items()} == seen


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="'lfpc_jax' has no attribute 'Sesion'"):
        lfpc_jax.Sesion  # noqa: B018


@pytest.mark.seconds
def test_the_import_costs_nothing():
    done = subprocess.run([sys.executable, "-c", CHEAP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
