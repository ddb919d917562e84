"""A set with labels in place of its target boxes, written in our layout; what the labels came to in
numbers; and what training compares with them."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from lfpc_jax.cropvlm.labels import Label
from lfpc_jax.data import layout, sources
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.jsonfile import Checked, brief
from lfpc_jax.processing.geometry import Box, area
from lfpc_jax.rewards.grounding import Grounding, ground_boxes, holds_all
from lfpc_jax.trajectory import Box4, Record

FROM, LABELS = "labelled from", "labels"
"""In a set's meta file under `about`: the set whose records were labelled, and all that the labels
depended on."""

MAP = 20
"""Rows and columns of the map of where labels lie."""
_TARGET = "target's "
_NO_MATTER = ("path", "answer_tokens", "slots", "temperature")
"""Of a target model: what its likelihoods do not depend on."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_GAINS = (-math.inf, -8, -4, -2, -1, -0.5, -0.1, 0.1, 0.5, 1, 2, 4, 8, math.inf)
"""Edges, in nats, by which gains are counted."""


def write_labelled(
    out: Path,
    records: Sequence[Record],
    labels: Sequence[Label | Rejected],
    unsound: Sequence[Rejected],
    origin: Mapping[str, Any],
    max_lost: float,
) -> int:
    """Writes labels.jsonl (a line for each label) and, at the end, the set of the records that have
    one, with the others and the unsound ones among its losses; `origin` goes into its meta file.
    Returns how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "labels.jsonl").open("w") as file:
        for label in labels:
            if isinstance(label, Label):
                file.write(json.dumps(asdict(label)) + "\n")
    entries = [
        label if isinstance(label, Rejected) else replace(record, targets=((label.box,),))
        for record, label in zip(records, labels, strict=True)
    ]
    count, _ = layout.write(
        out, [*entries, *unsound], copy_files=False, max_share=max_lost, about=dict(origin)
    )
    return count


def labelled_records(
    records: Sequence[Record], labels: Sequence[Label | Rejected]
) -> list[tuple[Record, Label]]:
    """The records that have a label, with it."""
    pairs = zip(records, labels, strict=True)
    return [(record, label) for record, label in pairs if isinstance(label, Label)]


# -------------------------------------------------------------------- in numbers


def report_of(
    records: Sequence[Record], labels: Sequence[Label | Rejected], unsound: Sequence[Rejected]
) -> dict[str, Any]:
    """What the labels came to, as JSON. `targets` are about the records' own
    target boxes, before they are replaced.
    Gains are differences of log-likelihoods in nats."""
    labelled = labelled_records(records, labels)
    kept = [label for _, label in labelled]
    lost = [entry for entry in (*labels, *unsound) if isinstance(entry, Rejected)]
    scored = [label for label in kept if label.likelihood is not None]
    truths = [(record, label) for record, label in labelled if record.targets]
    return {
        "records": len(kept),
        "lost": dict(Counter(entry.reason for entry in lost)),
        "size": {
            "best": _shares([_share(label.best, label) for label in kept]),
            "label": _shares([_share(label.box, label) for label in kept]),
        },
        "map": _map(kept),
        "likelihood": _mean([label.likelihood for label in scored]),
        "gain": {
            "whole": _gains([(label.likelihood, label.whole) for label in scored]),
            "without": _gains([(label.likelihood, label.without) for label in scored]),
        },
        "ties": {
            "records": sum(label.ties > 1 for label in scored),
            "boxes": {str(ties): n for ties, n in sorted(Counter(s.ties for s in scored).items())},
        },
        "targets": {
            "records": len(truths),
            "best": _covered([(record, label.best, label) for record, label in truths]),
            "label": _covered([(record, label.box, label) for record, label in truths]),
        },
    }


def _share(box: Box4, label: Label) -> float:
    return area(Box(*box)) / (label.size[0] * label.size[1])


def _shares(values: Sequence[float]) -> dict[str, Any] | None:
    """Of shares of the image's area."""
    if not values:
        return None
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    quantiles = np.quantile(values, _QUANTILES).tolist()
    return {
        "mean": fmean(values),
        "quantiles": {f"{share:g}": value for share, value in zip(_QUANTILES, quantiles)},
        "histogram": counts.tolist(),
    }


def _map(labels: Sequence[Label]) -> list[list[float]]:
    """The share of labels that cover the centre of each field of the image, row by row."""
    centres = (np.arange(MAP) + 0.5) / MAP
    covered = np.zeros((MAP, MAP))
    for label in labels:
        (x1, y1, x2, y2), (width, height) = label.box, label.size
        across = (x1 / width <= centres) & (centres <= x2 / width)
        down = (y1 / height <= centres) & (centres <= y2 / height)
        covered += down[:, None] & across
    return np.round(covered / max(len(labels), 1), 4).tolist()


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _gains(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any] | None:
    gains = [after - before for after, before in pairs if after is not None and before is not None]
    if not gains:
        return None
    counts, _ = np.histogram(gains, bins=_GAINS)
    return {
        "mean": fmean(gains),
        "median": float(np.median(gains)),
        "above_0": fmean(gain > 0 for gain in gains),
        "histogram": {"edges": list(_GAINS[1:-1]), "counts": counts.tolist()},
    }


def _covered(boxes: Sequence[tuple[Record, Box4, Label]]) -> dict[str, float] | None:
    if not boxes:
        return None
    grounded = [
        ground_boxes(
            [Box(*box)], [[Box(*b) for b in nest] for nest in record.targets], label.size,
            Grounding(),
        )
        for record, box, label in boxes
    ]  # fmt: skip
    return {
        "recall": fmean(fit.overlap for fit in grounded),
        "full_recall": fmean(holds_all([box], record, label.size) for record, box, label in boxes),
        "iou": fmean(fit.iou for fit in grounded),
    }


# -------------------------------------------------------------------- where labels come from


def about_target(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of a target's identity what its likelihoods depend on, each by a name that a message can
    give."""
    return {f"{_TARGET}{name}": value for name, value in identity.items() if name not in _NO_MATTER}


def target_in(about: Mapping[str, Any]) -> dict[str, Any]:
    """That part of an identity again, from all that likelihoods depend on."""
    return {name.removeprefix(_TARGET): value for name, value in about.items()
            if name.startswith(_TARGET)}  # fmt: skip


def labels_of(source: str) -> Mapping[str, Any] | None:
    """Everything that the labels of a set in our layout depended on, or None for other sets."""
    folder = sources.own_folder(source)
    if folder is None or not (folder / "meta.json").is_file():
        return None
    labels = layout.read_meta(folder).get("about", {}).get(LABELS)
    file = Checked(folder / "meta.json")
    return None if labels is None else file.mapping(f"about.{LABELS}", labels)


def doubts(source: str, *, proposes: bool, target: Mapping[str, Any] | None) -> Iterator[str]:
    """A line for each way in which a set's labels may not suit a run: one whose model `proposes`
    boxes or not, for the `target` of this identity, if it has one."""
    about = labels_of(source)
    if about is None:
        return
    boxes = about.get("boxes")
    if not proposes and boxes != "truth":
        yield (
            f"its target boxes are labels for a crop network ({brief(boxes)}), not what must be "
            "seen; train on it with --rollout.dialogue box"
        )
    before = about.get("target")
    if not isinstance(before, Mapping) or target is None:
        return
    changed = [name for name in before if name in target and before[name] != target[name]]
    if changed:
        told = ", ".join(f"{name} (was {before[name]}, now {target[name]})" for name in changed)
        yield (
            f"its boxes are the best for a target with another {told}; what helps that one may not "
            "help this one; label it again with this target"
        )
