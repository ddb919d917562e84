"""What training runs have left in their folders, and how near two of them are."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from lfpc_jax.checkpoint import training
from lfpc_jax.run.folder import RunFolder


def arrays(run: Path, items: Sequence[str] = ("trained", "optimizer")) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint's items, read by TensorStore's own tree."""
    saved = training.latest(RunFolder(run).checkpoints)
    assert saved is not None
    found = {}
    for item in items:
        reader = ocp.PyTreeCheckpointer()
        stored = reader.metadata(saved.path / item).item_metadata.tree
        plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        tree = reader.restore(saved.path / item, restore_args=plain)
        flat = {"": tree}
        while nested := [name for name, value in flat.items() if isinstance(value, dict | list)]:
            for name in nested:
                value = flat.pop(name)
                pairs = value.items() if isinstance(value, dict) else enumerate(value)
                flat |= {f"{name}/{key}": inner for key, inner in pairs}
        found |= {f"{item}{name}": np.asarray(x) for name, x in flat.items() if x is not None}
    return found


def facts(run: Path) -> dict:
    saved = training.latest(RunFolder(run).checkpoints)
    assert saved is not None
    return {"step": saved.step, **saved.facts}


def same(run: Path, other: Path) -> None:
    ours, theirs = arrays(run), arrays(other)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 60
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name
    assert facts(run) == facts(other)


def near(run: Path, other: Path) -> None:
    """The same parameters but for the rounding of sums in another order. Adam's first steps divide
    by gradients, so rounding shows most in biases that begin at 0: 1.2e-5 was seen."""
    ours, theirs = arrays(run), arrays(other)
    for name, array in ours.items():
        if name.startswith("trained"):
            error = np.linalg.norm(array - theirs[name]) / (np.linalg.norm(theirs[name]) or 1)
            assert error <= 2e-5, (name, error)


def metrics(run: Path) -> dict[tuple[str, int], dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(line["kind"], line["step"]): line for line in lines}
