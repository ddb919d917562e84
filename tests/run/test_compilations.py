"""What a run says of the programs that it compiles."""

import re

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.run import compilations

pytestmark = pytest.mark.compiles


def test_each_program_is_said_before_and_after_with_its_seconds(monkeypatch):
    lines = []
    compilations.announce(lines.append)

    def _learned(x):
        return jnp.sin(x) @ x

    def small(x):
        return x + 1

    update = jax.jit(_learned)
    for size in (3, 3, 4):
        update(jnp.ones((size, size)))
    jax.jit(small)(jnp.ones(2))
    assert [re.sub(r"[0-9.]+ s", "N s", line) for line in lines] == [
        "compiling the update: loss and gradients ...",
        "compiled in N s: the update: loss and gradients",
        "compiling the update: loss and gradients, for a further shape (2) ...",
        "compiled in N s: the update: loss and gradients, for a further shape (2)",
    ]


def test_long_compilations_of_other_functions_are_said_and_the_cache_is_named():
    lines = []
    heard = compilations.Compilations(lines.append)
    heard.on_duration(compilations._LOWERED, 0.1, fun_name="jit(other)")
    heard.on_event(compilations._FROM_CACHE)
    heard.on_duration(compilations._COMPILED, 2.0, fun_name="jit(other)")
    heard.on_duration(compilations._LOWERED, 0.1, fun_name="jit(decode)")
    heard.on_duration(compilations._COMPILED, 0.25, fun_name="jit(decode)")
    assert lines == [
        "read from the cache in 2.0 s: other",
        "compiling the rollout's sampling ...",
        "compiled in 0.2 s: the rollout's sampling",
    ]
