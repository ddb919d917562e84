"""Verdicts that outlive a run; see `remote/store.py`."""

from pathlib import Path

from lfpc_jax.remote.store import Store


class VerdictStore(Store[bool]):
    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, "right", bool)
