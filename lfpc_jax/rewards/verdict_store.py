"""Verdicts that outlive a run: a folder of append-only files, one a writer.

No two writers ever share a file, so nothing needs a lock, on network file systems too. A store
reads all files when it is opened and from then on knows what it has read and what it has added.
Where two writers judged the same claim, the one that started first is believed. A line that a
crash cut short is skipped: that claim is judged again.
"""

import json
import os
import threading
import time
import uuid
from pathlib import Path


class VerdictStore:
    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._file = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex}.jsonl"
        self._lock = threading.Lock()
        self._known: dict[str, bool] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                self._read(line)

    def get(self, key: str) -> bool | None:
        return self._known.get(key)

    def add(self, key: str, right: bool, claim: dict[str, str]) -> None:
        """Keeps a verdict, at once and on disk; the claim is there for whoever reads the file."""
        line = json.dumps({"key": key, "right": right, **claim}) + "\n"
        with self._lock:
            self._known.setdefault(key, right)
            with self._file.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def _read(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, right = entry["key"], entry["right"]
        except (ValueError, TypeError, KeyError):
            return
        if isinstance(key, str) and isinstance(right, bool):
            self._known.setdefault(key, right)
