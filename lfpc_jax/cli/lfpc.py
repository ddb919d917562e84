"""One command with all others in it: `lfpc train ...` is `python launch/train.py ...`.

    lfpc COMMAND ...            lfpc COMMAND --help
    lfpc --version              versions of this package and of what it stands on, and the devices
    lfpc completion bash        a script that completes commands and flags in bash, zsh or fish

A command is a module of `cli/` whose flags are in a module of the same name in `cli/parsers/`; no
list names them. Flags are read before JAX is imported.
"""

import argparse
import ast
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module, metadata
from pathlib import Path

from lfpc_jax.cli import command
from lfpc_jax.cli.start import start
from lfpc_jax.run.commands import typed_name

_CLI = Path(__file__).parent
_SHELLS = ("bash", "zsh", "fish")
_BESIDE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "huggingface_hub",
           "tokenizers", "numpy", "pillow")  # fmt: skip
_NAME = "lfpc_jax"


def main(argv: Sequence[str] | None = None) -> int:
    words = [*(sys.argv[1:] if argv is None else argv)]
    commands = modules()
    if "_ARGCOMPLETE" in os.environ:
        _complete(commands)
    name = typed_name(words[0]) if words else ""
    if name in commands:
        sys.argv = [f"lfpc {name}", *words[1:]]  # from which the command reads its flags
        return start(commands[name])
    parser = _flags(commands)
    args = parser.parse_args(words)
    if args.version:
        return command.run(print_version)
    if args.command == "completion":
        return command.run(partial(print_completion, args.shell))
    parser.print_help()
    return 0


def modules() -> Mapping[str, str]:
    """The modules of the commands by the names that a user types."""
    found = sorted(path.stem for path in (_CLI / "parsers").glob("[!_]*.py"))
    return {typed_name(name): name for name in found if (_CLI / f"{name}.py").is_file()}


def _flags(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """What `lfpc` itself understands. A command's help is the first line of its module."""
    parser = argparse.ArgumentParser(
        prog="lfpc",
        description="LFPC: vision-language models that look before they answer.",
        epilog="`lfpc COMMAND --help` has a command's flags. Exit codes: 0 finished, 1 an error, 2 "
        "wrong flags.",
    )
    parser.add_argument("--version", action="store_true", help="also of packages, and the devices")
    added = parser.add_subparsers(metavar="COMMAND", dest="command")
    for name, module in commands.items():
        added.add_parser(name, help=_first_line(_CLI / f"{module}.py"))
    text = "Prints a script that completes commands and flags in a shell."
    added.add_parser("completion", help=text).add_argument("shell", choices=_SHELLS)
    return parser


def _first_line(file: Path) -> str:
    """The first line of a module's docstring, without importing the module."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("%", "%%")


def print_version() -> None:
    """One line for each package, and then one for the devices that JAX finds, which takes seconds
    and may fail where a driver does; then the reason stands in their place."""
    print(f"{_NAME} {metadata.version(_NAME)} ({Path(__file__).parents[1]})")
    print(f"Python {platform.python_version()} on {platform.platform()}")
    for name in _BESIDE:
        print(f"{name} {metadata.version(name)}")
    sys.stdout.flush()
    import jax

    try:
        kinds = [device.device_kind for device in jax.devices()]
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"no devices: {reason}; JAX_PLATFORMS=cpu uses the CPU") from error
    counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    print(f"devices: {counts} ({jax.default_backend()})")


def print_completion(shell: str) -> None:
    """A script to be evaluated by the shell; argcomplete writes it."""
    import argcomplete

    print(argcomplete.shellcode(["lfpc"], shell=shell))


def _complete(commands: Mapping[str, str]) -> None:
    """Answers a shell that asks how its line goes on, and ends the process. Only the flags of the
    command that the line has are read."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    module = commands.get(words[1]) if len(words) > 1 else None
    parser = argparse.ArgumentParser(prog="lfpc")
    parser.add_argument("--version", action="store_true")
    added = parser.add_subparsers()
    for name in commands:
        of_command = [] if commands[name] != module else [_parser_of(module)]
        added.add_parser(name, parents=of_command, add_help=not of_command)
    added.add_parser("completion").add_argument("shell", choices=_SHELLS)
    argcomplete.autocomplete(parser)


def _parser_of(module: str) -> argparse.ArgumentParser:
    return import_module(f"lfpc_jax.cli.parsers.{module}").parser()


if __name__ == "__main__":
    sys.exit(main())
