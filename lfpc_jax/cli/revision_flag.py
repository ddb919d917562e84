"""The flag --revision, of commands whose model may be one on the Hub."""

import argparse
from pathlib import Path

from lfpc_jax.remote.hub import HubName


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--revision", default="", metavar="REV",
        help="branch, tag or commit of a model on the Hub; the same as NAME@REV",
    )  # fmt: skip


def named(model: Path | None, revision: str) -> Path | None:
    """The model with its revision. Raises ValueError for a revision of what is not on the Hub."""
    if not revision:
        return model
    name = None if model is None else HubName.parse(model)
    if name is None or name.revision:
        raise ValueError(
            f"--revision {revision}: is for a model that is named as on the Hub, OWNER/NAME; this "
            f"one is {model}"
        )
    return Path(f"{name.repo}@{revision}")
