"""How a command begins: its flags are read before JAX and the program are imported."""

from importlib import import_module

from lfpc_jax.cli.command import launched


def start(name: str) -> int:
    """Runs the command `name` and returns its exit code. `--help` and wrong flags end it here, in a
    fraction of a second; the program reads the same flags again."""

    def read_flags() -> None:
        import_module(f"lfpc_jax.cli.parsers.{name}").parser().parse_known_args()

    return launched(f"lfpc_jax.cli.{name}", before=read_flags)
