"""Whether a run's folder holds anything new for a report, and whether anything will come."""

from pathlib import Path

from lfpc_jax.evaluation.compared import FILE
from lfpc_jax.jsonfile import read_object
from lfpc_jax.report import metrics

_READ = ("config.json", "metrics.jsonl", "evaluation.json", "results.json", "scores.jsonl", FILE)

Signature = dict[str, tuple[int, int]]
"""Size and time of files, by their names within the folder."""


def signature(folder: Path) -> Signature:
    """Of the files that a report reads. Two that are equal mean that nothing is new."""
    found: Signature = {}
    for file in (*(folder / name for name in _READ), *sorted((folder / "trajectories").glob("*"))):
        try:
            at = file.stat()
        except FileNotFoundError:
            continue
        found[file.name] = at.st_size, at.st_mtime_ns
    return found


def check_of_a_run(folder: Path) -> None:
    """Raises ValueError for a folder in which a report would find nothing."""
    if folder.is_dir() and not signature(folder):
        raise ValueError(
            f"{folder}: nothing of a run is here: none of {', '.join(_READ)}, and no trajectories; "
            "give a folder that lfpc train, lfpc evaluate or lfpc compare wrote"
        )


def is_finished(folder: Path) -> bool:
    """Whether no more is to come: a comparison, an evaluation with results, or a training run after
    its last step that no command holds any longer."""
    if (folder / FILE).is_file() or (folder / "results.json").is_file():
        return True
    if (folder / "lock").exists() or not (folder / "config.json").is_file():
        return False
    steps = read_object(folder / "config.json").get("steps")
    curves, _ = metrics.read(folder / "metrics.jsonl")
    last = max((step for curve in curves for step in curve.steps), default=0)
    return isinstance(steps, int) and last >= steps
