"""What a labelled set has beside its labels: a sheet of some of them on their pictures, how long
they took, and the resolution selection that still holds."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import jax
import PIL.Image

from lfpc_jax import regular
from lfpc_jax.cropvlm import labelled
from lfpc_jax.cropvlm.labels import Label
from lfpc_jax.data import layout, pictures, sources
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap import provenance
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.processing.geometry import Box, hull
from lfpc_jax.report.labels import Labelled, sheet
from lfpc_jax.trajectory import Record

_ON_THE_SHEET = 12


def sheet_of(records: Sequence[Record], entries: Sequence[Label | Rejected]) -> PIL.Image.Image:
    """Some of the labels, evenly spread over the set."""
    pairs = labelled.labelled_records(records, entries)
    step = max(len(pairs) / _ON_THE_SHEET, 1.0)
    some = [pairs[int(place * step)] for place in range(min(len(pairs), _ON_THE_SHEET))]
    return sheet([_on_sheet(record, label) for record, label in some])


def _on_sheet(record: Record, label: Label) -> Labelled:
    boxes = {"label": Box(*label.box), "best": Box(*label.best)}
    if record.targets:
        boxes["target"] = hull(Box(*nest[0]) for nest in record.targets)
    text = f"{record.question} {' '.join(record.options)}\n{record.answer}"
    for name, before in (("whole image", label.whole), ("no crop", label.without)):
        if label.likelihood is not None and before is not None:
            text += f"\n{label.likelihood - before:+.2f} nats over {name}"
    return Labelled(pictures.original(record.picture), boxes, text)


def selected(source: str) -> dict[str, Any]:
    """What the set's meta file says of its resolution selection, which still holds: a record keeps
    its `longest_side`."""
    folder = sources.own_folder(source)
    if folder is None or provenance.selection_of(source) is None:
        return {}
    about = layout.read_meta(folder)["about"]
    return {name: about[name] for name in (provenance.FROM, provenance.SELECTION) if name in about}


def note_time(out: Path, records: int, seconds: float) -> None:
    """Adds a line about so many records to this process's file."""
    with (out / f"timing-{jax.process_index()}.jsonl").open("a") as file:
        file.write(json.dumps({"records": records, "seconds": seconds}) + "\n")


def write_timing(out: Path) -> float | None:
    """Writes timing.json, and returns the seconds of a record: the median over chunks, so that
    compiling hardly counts. Lines that an interruption cut short are left out."""
    chunks: list[tuple[int, float]] = []
    for file in sorted(out.glob("timing-*.jsonl")):
        for line in regular.lines(file):
            with suppress(*OTHER_SHAPE):
                entry = json.loads(line)
                records, seconds = int(entry["records"]), float(entry["seconds"])
                chunks += [(records, seconds)] if records > 0 else []
    if not chunks:
        return None
    a_record = median(seconds / count for count, seconds in chunks)
    timing = {
        "records": sum(count for count, _ in chunks),
        "seconds": sum(seconds for _, seconds in chunks),
        "a_record": a_record,
    }
    (out / "timing.json").write_text(json.dumps(timing, indent=2) + "\n")
    return a_record
