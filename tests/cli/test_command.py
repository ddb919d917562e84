"""What a command makes of what its body raises."""

import jax
import pytest

from lfpc_jax.cli import command


def raises(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 349. GiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 23040524288 B"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_one_line(error, capsys):
    """`ask --image-tokens 90000000` and `synthesize --size 1000000x1000000` were tracebacks."""
    assert command.run(raises(error)) == 1
    assert capsys.readouterr().err == f"error: out of memory: {error}\n"


def test_a_name_that_is_too_long_is_not_told_whole(tmp_path, capsys):
    path = tmp_path / ("[" * 100_000)
    assert command.run(path.read_text) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: '{str(tmp_path)[:40]}")
    assert f"has {len(str(path))} characters" in line
    assert len(line) < 200


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(jax.errors.JaxRuntimeError):
        command.run(raises(jax.errors.JaxRuntimeError("INTERNAL: it broke")))
