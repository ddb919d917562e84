"""Lets only one command at a time write into a folder. A second one raises an error that names the
first.

    FOLDER/lock/TOKEN.json     which command, where, since when, and a count that grows

A claim is a file that only its owner writes. So nothing depends on locks, on renames or on the
order of writes, and network and bucket file systems can be used. A command writes its claim and
then looks at the other claims in the folder:

- If a claim is of the same folder, host and boot, the process table tells whether its owner lives.
- Any other claim is watched by the reader's clock (clocks of hosts are never compared). If its
  count does not grow for `PATIENCE` seconds, the owner is dead and its claim is removed.

A command holds the folder once no other claim is left. Two that start at the same time see each
other, and the one whose token sorts first stays. An owner that was frozen or disconnected for so
long that it was taken for dead finds that its claim is gone before its next write, and stops.
"""

import json
import logging
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.run.folder import in_the_first_process

log = logging.getLogger(__name__)

BEAT = 10.0
PATIENCE = 75.0
"""Seconds. Some file systems show what another host wrote only after a minute."""
_POLL = 1.0
_TRIES = 100
_LONGEST_COMMAND = 500
_LENGTH = 2048
"""Bytes of a claim's file. It is overwritten in place, so that a beat never recreates a removed
claim."""


@contextmanager
def held(
    folder: Path, *, beat: float = BEAT, patience: float = PATIENCE
) -> Iterator["FolderClaim"]:
    """Claims the folder for this command within the context. With several processes the first one
    claims it for all. Raises ValueError in all of them if another command has it."""
    claim = FolderClaim(folder, beat, patience)
    in_the_first_process(claim.take)
    try:
        yield claim
    finally:
        claim.release()


@dataclass(frozen=True)
class Owner:
    """Who made a claim. `place` is where its process id is valid: a host since its boot, or a
    container on it. `started` distinguishes a process from an earlier one with the same id.
    `folder` distinguishes a claim from one that was copied here with another folder."""

    folder: str
    host: str
    place: str
    pid: int
    started: str
    since: str
    command: str
    holds: bool = False
    beat: int = 0

    @classmethod
    def this_process(cls, folder: Path) -> "Owner":
        program = Path(sys.argv[0]).name.split()  # `lfpc train`, or a file's name
        command = shlex.join([*program, *sys.argv[1:]])[:_LONGEST_COMMAND]
        since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        pid, where = os.getpid(), str(folder.resolve())
        return cls(where, socket.gethostname(), _place(), pid, _started(pid) or "", since, command)

    @classmethod
    def of(cls, text: str) -> "Owner | None":
        """The owner that a claim's text describes; None if it is half written."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None

    def lives(self, folder: Path) -> bool | None:
        """Whether its process lives; None if only the claim's count can tell."""
        if not self.place or self.place != _place() or self.folder != str(folder.resolve()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            pass
        started = _started(self.pid)
        return None if started is None or not self.started else started == self.started

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid} on {self.host}, since {self.since})"


class FolderClaim:
    """This command's claim on a folder; `held` takes and releases it."""

    def __init__(self, folder: Path, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self.folder, self.beat, self.patience = folder, beat, patience
        self.file = folder / "lock" / f"{secrets.token_hex(8)}.json"
        self._owner = Owner.this_process(folder)
        self._creates_folder = not folder.exists()
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self) -> None:
        """Raises ValueError if another command has the folder."""
        self._create()
        self._beating = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._beating.start()
        try:
            self._outlast_others()
        except BaseException:
            self.release()
            raise
        self._write(holds=True)

    def check(self) -> None:
        """Raises ValueError if another command has taken the folder over. Call before writing."""
        if self._beating is not None and self.file not in self._claims():
            others = [str(Owner.of(_read(path)) or path) for path in self._claims()]
            raise ValueError(
                f"{self.folder}: this process was silent for so long that its claim was removed, "
                f"and the folder now belongs to {' and '.join(others) or 'nobody'}; nothing more "
                "is written. To resume here, stop the other command and rerun this one"
            )

    def release(self) -> None:
        if self._beating is None:
            return
        self._over.set()
        self._beating.join()
        self._beating = None
        self.file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: there is another claim, or the command's results
            self.file.parent.rmdir()
            if self._creates_folder:
                self.folder.rmdir()

    # ------------------------------------------------------------------ this command's claim

    def _create(self) -> None:
        """Writes the claim. Tries again if another command removes the lock's folder meanwhile."""
        for tries_left in range(_TRIES, -1, -1):
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.file.write_bytes(self._text())
                return
            except (FileNotFoundError, FileExistsError):
                if not tries_left:
                    raise
            except NotADirectoryError as error:
                raise NotADirectoryError(
                    f"{self.folder}: it, or a folder above it, is a file; name another folder"
                ) from error

    def _text(self) -> bytes:
        return json.dumps(asdict(self._owner)).ljust(_LENGTH - 1).encode() + b"\n"

    def _write(self, **changes: Any) -> None:
        with self._writing:
            self._owner = replace(self._owner, beat=self._owner.beat + 1, **changes)
            with self.file.open("r+b") as file:
                file.write(self._text())

    def _beat(self) -> None:
        while not self._over.wait(self.beat):
            try:
                self._write()
            except FileNotFoundError:
                log.error("%s: another command removed this one's claim", self.folder)
                return
            except OSError as error:
                log.warning(
                    "%s: the claim on the folder could not be renewed: %s", self.file, error
                )

    # ------------------------------------------------------------------ other commands' claims

    def _claims(self) -> list[Path]:
        """All claims on the folder. The lock's folder is listed anew, since some file systems cache
        whether a single file exists."""
        return sorted(self.file.parent.glob("*.json"))

    def _outlast_others(self) -> None:
        watched: dict[Path, _Watched] = {}
        while others := [path for path in self._claims() if path != self.file]:
            for path in others:
                with suppress(FileNotFoundError):
                    self._look(path, watched)
            if len(self._claims()) > 1:
                time.sleep(_POLL)

    def _look(self, path: Path, watched: dict[Path, "_Watched"]) -> None:
        text = _read(path)
        owner = Owner.of(text)
        lives = None if owner is None else owner.lives(self.folder)
        who = f"the claim {path}" if owner is None else str(owner)
        if path not in watched and lives is None:
            _say(
                f"{self.folder}: was claimed by {who}; waiting up to {self.patience:g} s to see "
                "whether it still runs"
            )
        silent = watched.setdefault(path, _Watched(text)).silent(text)
        if lives is None and watched[path].changes:
            lives = True
        if lives is False or (lives is None and silent >= self.patience):
            _say(f"{self.folder}: {who} has died; its claim is removed")
            path.unlink(missing_ok=True)
            return
        if lives and owner is not None and (owner.holds or path < self.file):
            raise _refused(self.folder, who)
        if lives and watched[path].waited >= self.patience:  # it came later, but did not give way
            raise _refused(self.folder, who)


def _read(claim: Path) -> str:
    return regular.contents(claim).decode(errors="replace")


@dataclass
class _Watched:
    """A claim as it was read last. A long pause between two readings counts as a short one, since
    the file system may have been stuck for every command."""

    text: str
    changes: int = 0
    waited: float = 0.0
    _silent: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def silent(self, text: str) -> float:
        """Seconds for which the claim's text has not changed."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, 2 * _POLL), now
        self.waited += passed
        self._silent += passed
        if text != self.text:
            self.text, self._silent, self.changes = text, 0.0, self.changes + 1
        return self._silent


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _refused(folder: Path, who: str) -> ValueError:
    return ValueError(
        f"{folder}: is in use by {who}; wait for it, stop it, or choose another folder"
    )


def _place() -> str:
    """The host and boot, or the container, in which process ids are valid. Empty if that cannot be
    told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process started, in ticks since its host booted. Empty for a zombie; None if that
    cannot be told."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = after_name[0], after_name[19]
    return "" if state in "ZX" else started
