"""How a command begins: its flags are read before JAX and the program are imported."""

from importlib import import_module


def start(name: str) -> int:
    """Runs the command `name` and returns its exit code. `--help` and wrong flags end it here, in a
    fraction of a second; the program reads the same flags again."""
    import_module(f"lfpc_jax.cli.parsers.{name}").parser().parse_known_args()
    return import_module(f"lfpc_jax.cli.{name}").main()
