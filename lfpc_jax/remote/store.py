"""What a server said, kept beyond a run: a folder of append-only files, one a writer.

No two writers ever share a file, so nothing needs a lock, on network file systems too. A store
reads all files when it is opened, and again when it is asked to (`refresh`). From then on it knows
what it has read and what it has added. Where two writers asked the same, the one that started first
is believed. A line that a crash cut short is skipped: that is asked again.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

from lfpc_jax.jsonfile import OTHER_SHAPE

Value = TypeVar("Value", bool, str)


class Store(Generic[Value]):
    """Values of type `kind` by key; a line of a file holds the value under `name`."""

    def __init__(self, folder: str | Path, name: str, kind: type[Value]) -> None:
        self._folder, self._name = Path(folder), name
        self._kind: type[Value] = kind
        self._file = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, Value] = {}
        self._sizes: dict[str, int] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def get(self, key: str) -> Value | None:
        return self._known.get(key)

    def add(self, key: str, value: Value, more: Mapping[str, str]) -> None:
        """Keeps a value, at once and on disk; `more` is there for whoever reads the file."""
        line = json.dumps({"key": key, self._name: value, **more}) + "\n"
        with self._lock:
            self._known.setdefault(key, value)
            with self._file.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def refresh(self) -> None:
        """Reads what other writers have added since. A line that is not finished is left for the
        next time."""
        with self._lock:
            for path in sorted(self._folder.glob("*.jsonl")):
                start = self._sizes.get(path.name, 0)
                if path == self._file or path.stat().st_size == start:
                    continue
                with path.open("rb") as file:
                    file.seek(start)
                    text = file.read()
                self._sizes[path.name] = start + text.rfind(b"\n") + 1
                for line in text.splitlines():
                    self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, value = entry["key"], entry[self._name]
        except OTHER_SHAPE:
            return
        if isinstance(key, str) and isinstance(value, self._kind):
            self._known.setdefault(key, value)
