"""A run's checkpoints: saved while the run continues, and used only if they are complete.

    RUN/checkpoints/00000040/{trained,frozen,...}/   trees of arrays, as Orbax items
                             facts.json              what else is needed to resume, as JSON
                             manifest.json           size and checksum of every file above,
                                                     written last

Orbax writes in the background under another name. A folder without a manifest was not finished, and
one that differs from its manifest is damaged. Both are skipped with a warning, do not count as
kept, and are removed, with Orbax's unfinished folders, after the next complete save.
"""

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import faults, manifest, staging
from lfpc_jax.checkpoint.manifest import Manifest
from lfpc_jax.distributed.exchange import everyones
from lfpc_jax.jsonfile import read_object

log = logging.getLogger(__name__)

MODEL_ITEMS = ("trained", "frozen")
"""The items of a checkpoint that are the model; the others are needed only to resume training."""

_FACTS, _MANIFEST = "facts.json", "manifest.json"


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint."""

    path: Path
    step: int
    facts: Mapping[str, Any]


class Checkpoints:
    """Saves checkpoints and removes old ones. Of the complete ones it keeps the `keep` newest and
    the `keep_best` whose facts have the highest "accuracy"."""

    def __init__(self, folder: Path, *, keep: int = 2, keep_best: int = 0) -> None:
        self.folder, self.keep, self.keep_best = folder.absolute(), keep, keep_best
        faults.hush()
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._whole: set[Path] = set()  # known to be complete, so not verified again
        self.newest: int | None = None
        self._finishing: threading.Thread | None = None
        self._fault: Exception | None = None

    def save(self, step: int, items: Mapping[str, Tree], facts: Mapping[str, Any]) -> None:
        """Copies the arrays to the host, then returns, while they are written. Every process must
        call it. Empty trees are left out."""
        self.wait()
        self.newest = step
        path = self.folder / f"{step:08d}"
        self._whole.discard(path)
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(path, ignore_errors=True)  # left by an attempt that was interrupted
        full = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in full.items()}
        everyones(None)  # nobody writes before the old one is gone
        self._checkpointer.save(path, args=ocp.args.Composite(**saves))
        self._finishing = threading.Thread(target=self._finish, args=(path, dict(facts)))
        self._finishing.start()

    def wait(self) -> None:
        """Waits until the last save is complete; raises its error if it failed."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def close(self) -> None:
        self.wait()
        self._checkpointer.close()

    def _finish(self, path: Path, facts: Mapping[str, Any]) -> None:
        try:
            self._checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                (path / _FACTS).write_text(json.dumps(facts) + "\n")
                staging.write_text(path / _MANIFEST, json.dumps(manifest.describe(path)) + "\n")
                self._whole.add(path)
                self._forget()
        except Exception as error:
            self._fault = faults.of_writing(path, error)

    def _forget(self) -> None:
        """Removes checkpoints that need not be kept, and the rest of interrupted saves. No save is
        under way when this runs."""
        steps = _steps(self.folder)
        whole = [path for path in steps if path in self._whole or _is_whole(path)]
        self._whole = {*whole[-self.keep :], *_by_accuracy(whole)[: self.keep_best]}
        unfinished = self.folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*")
        for path in {*steps, *unfinished} - self._whole:
            shutil.rmtree(path)


def latest(folder: Path) -> Saved | None:
    """The newest complete checkpoint."""
    return _first_whole(folder, _steps(folder)[::-1])


def best(folder: Path) -> Saved | None:
    """The complete checkpoint with the highest accuracy; of equal ones the newest."""
    return _first_whole(folder, _by_accuracy(_steps(folder)))


def of_step(folder: Path, step: int) -> Saved | None:
    return _first_whole(folder, [path for path in _steps(folder) if int(path.name) == step])


def whole_steps_of(folder: Path) -> list[int]:
    """The steps whose checkpoints have a manifest, oldest first; the files are not verified."""
    return [int(path.name) for path in _steps(folder) if is_checkpoint(path)]


def restore(saved: Saved, name: str, like: Tree) -> Tree:
    """One item, shaped and sharded as `like`."""
    if not jax.tree.leaves(like):
        return like
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(saved.path / name, args=ocp.args.StandardRestore(like))
        except ValueError as error:
            raise ValueError(
                f"{saved.path / name}: does not fit this run ({str(error).splitlines()[0]}); "
                "check whether the model, or which of its parameters are trained, was changed"
            ) from error


def is_checkpoint(path: Path) -> bool:
    """Whether it is the folder of a checkpoint that has a manifest; files are not verified."""
    return (path / _MANIFEST).is_file()


def listed(path: Path) -> Manifest:
    """The manifest of the files that hold a checkpoint's model, as it was written."""
    written = read_object(path / _MANIFEST)
    return {name: entry for name, entry in written.items() if _of_model(name)}


def _of_model(name: str) -> bool:
    """Whether a file of a checkpoint holds parameters."""
    return name.split("/")[0] in MODEL_ITEMS


def _first_whole(folder: Path, candidates: Sequence[Path]) -> Saved | None:
    """The first complete one of `candidates`; the first process decides for all."""
    name = None
    if jax.process_index() == 0:
        name = next((path.name for path in candidates if _is_whole(path)), None)
    [name, *_] = everyones(name)
    if name is None:
        return None
    path = folder.absolute() / name
    return Saved(path, int(name), read_object(path / _FACTS))


def _is_whole(path: Path, names: Sequence[str] | None = None) -> bool:
    """Whether all files, or only those called `names`, match the manifest."""
    file = path / _MANIFEST
    if not file.is_file():
        log.warning("%s: was not finished and is skipped", path)
        return False
    try:
        written = read_object(file)
        missing = {*(names or ()), _FACTS} - written.keys()
        if missing or not any(_of_model(name) for name in written):
            raise ValueError(f"{file} does not list {', '.join(missing) or 'the weights'}")
        wanted = written if names is None else {name: written[name] for name in names}
        manifest.verify(path, wanted)
        read_object(path / _FACTS)
    except ValueError as error:
        log.warning("%s: is damaged (%s) and is skipped", path, error)
        return False
    return True


def _by_accuracy(paths: Iterable[Path]) -> list[Path]:
    """The checkpoints whose facts have an accuracy, the highest first; of equal ones the newest
    first."""
    accuracies = {}
    for path in paths:
        if _is_whole(path, [_FACTS]):
            facts = read_object(path / _FACTS)
            # Until November 2026 the fact was called "score".
            accuracy = facts.get("accuracy", facts.get("score"))
            if isinstance(accuracy, int | float):
                accuracies[path] = accuracy
    return sorted(accuracies, key=lambda path: (accuracies[path], path), reverse=True)


def _steps(folder: Path) -> list[Path]:
    """The folders of checkpoints, oldest first; Orbax's unfinished folders have longer names."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())
