"""The set that a selection chose, written in our layout."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lfpc_jax.data import layout
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap.selection import Selected
from lfpc_jax.infogap.summary import Summary
from lfpc_jax.trajectory import Record

Choice = Selected | Rejected


def write_choices(
    out: Path,
    records: Sequence[Record],
    choices: Sequence[Choice],
    summary: Summary,
    origin: Mapping[str, Any],
) -> int:
    """Writes levels.jsonl (a line for each choice), report.json (the summary), and the set of the
    records that have a choice; `origin` goes into its meta file. Returns how many there are."""
    chosen = [
        (record, choice)
        for record, choice in zip(records, choices, strict=True)
        if isinstance(choice, Selected)
    ]
    with (out / "levels.jsonl").open("w") as file:
        for _, choice in chosen:
            file.write(json.dumps(asdict(choice)) + "\n")
    (out / "report.json").write_text(json.dumps(asdict(summary), indent=2) + "\n")
    sized = (replace(record, longest_side=choice.longest_side) for record, choice in chosen)
    count, _ = layout.write(out, sized, copy_files=False, about=dict(origin))
    return count
