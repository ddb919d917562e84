"""`lfpc` finds every command, reads its flags as launch/ does, and completes them in a shell."""

import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import lfpc_jax
from lfpc_jax.cli import lfpc
from lfpc_jax.run import commands, steps

ROOT = Path(lfpc_jax.__file__).parents[1]
PROMISED = {"train", "evaluate", "ask", "select", "convert", "plan", "report", "label",
            "synthesize", "replay", "compare", "demo", "serve"}  # fmt: skip


def typed(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lfpc_jax", *words], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def completed(line: str) -> set[str]:
    """What a shell offers at the end of a line; argcomplete writes it to the eighth stream."""
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m lfpc_jax 8>&1 9>/dev/null >/dev/null"],
        capture_output=True, text=True,
        env=os.environ | {
            "PYTHONPATH": str(ROOT), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9",
        },
    )  # fmt: skip
    return {word.strip() for word in done.stdout.splitlines()}


def test_there_is_a_command_for_every_program_of_launch():
    programs = {path.stem for path in (ROOT / "launch").glob("*.py")}
    assert set(lfpc.modules().values()) == programs
    assert set(lfpc.modules()) >= PROMISED


def test_its_help_lists_the_commands_and_knows_no_other(capsys):
    assert lfpc.main([]) == 0
    printed = capsys.readouterr().out
    for name, module in lfpc.modules().items():
        assert f"    {name}" in printed
        assert " ".join(lfpc._first_line(ROOT / f"lfpc_jax/cli/{module}.py").split()[:2]) in printed
    with pytest.raises(SystemExit, match="2"):
        lfpc.main(["trian"])
    assert "invalid choice: 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["select", "select-resolution", "select_resolution"])
def test_a_command_is_known_by_its_short_and_its_whole_name(name):
    done = typed(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: lfpc select ")


def test_wrong_flags_end_with_2_and_name_the_command():
    done = typed("ask", "--model")
    assert done.returncode == 2
    assert "lfpc ask: error: argument --model: expected one argument" in done.stderr


@pytest.mark.seconds
def test_its_version_names_packages_and_devices():
    done = typed("--version", JAX_PLATFORMS="cpu")
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert lines["lfpc_jax"].startswith(metadata.version("lfpc_jax"))
    assert lines["jax"] == metadata.version("jax")
    assert lines["transformers"] == metadata.version("transformers")
    assert lines["devices:"].endswith("(cpu)")
    broken = typed("--version", JAX_PLATFORMS="none_such")
    assert broken.returncode == 1
    assert "jax " in broken.stdout
    assert "JAX_PLATFORMS=cpu uses the CPU" in broken.stderr
    assert len(broken.stderr.splitlines()) == 1


def test_a_shell_completes_commands_and_their_flags():
    assert completed("lfpc re") == {"replay", "report"}
    assert completed("lfpc label --gr") == {"--grid"}
    assert completed("lfpc select --strategy ha") == {"hard"}
    assert "to-hf" in completed("lfpc convert to")
    script = typed("completion", "bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    assert "lfpc" in script


def test_every_command_answers_as_a_module_too():
    """`python -m lfpc_jax.cli.ask` did nothing and exited with 0."""
    for module in lfpc.modules().values():
        last = ast.parse((ROOT / f"lfpc_jax/cli/{module}.py").read_text()).body[-1]
        assert ast.unparse(last) == "if __name__ == '__main__':\n    sys.exit(main())", module


def test_a_step_is_typed_as_it_is_run():
    assert commands.typed(("label_boxes.py", "a b", "out")) == "lfpc label 'a b' out"
    assert steps.program("label_boxes.py")[1:] == ("-m", "lfpc_jax", "label_boxes")
