"""What a crop network imitates: the label of a record, in the form of its own boxes."""

import numpy as np

from lfpc_jax.cropvlm.proposing import write_box
from lfpc_jax.processing.geometry import Box, hull
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Record


def labelled_box(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    """One turn with the record's label: the smallest box of its target, of several the smallest box
    around all, since a target model sees one crop."""
    if view is None or not record.targets:
        what = "no picture" if view is None else "no box"
        raise ValueError(
            f"record {record.id!r}: has {what}, so there is no label to imitate; label the set "
            "with lfpc label, or leave the record out"
        )
    label = hull(Box(*nest[0]) for nest in record.targets)
    return (write_box(label, view.frame),)
