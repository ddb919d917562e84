"""Which questions a process asks, out of a list that all processes have in the same order.

Answers depend on neither the process nor the order, and an evaluation that is resumed counts the
answers of every process. So questions may be dealt anew at any time, by any number of processes.
"""

from collections import defaultdict
from collections.abc import Sequence

import jax

from lfpc_jax.trajectory import Picture, Record

_TOGETHER = 4
"""As many questions as an HR-Bench sample has. With more, shares of a small set would be uneven."""


def own_questions(records: Sequence[Record]) -> list[Record]:
    """This process's share."""
    return dealt(records, jax.process_count())[jax.process_index()]


def dealt(records: Sequence[Record], processes: int) -> list[list[Record]]:
    """The shares of so many processes. Up to four questions about one picture are dealt together,
    to the process that has the fewest, and asked one after another. So an engine that keeps as many
    beginnings of prompts as it computes at a time computes theirs once."""
    by_picture: defaultdict[Picture | str, list[Record]] = defaultdict(list)
    for record in records:
        alone = record.picture == Picture()
        by_picture[record.id if alone else record.picture].append(record)
    shares: list[list[Record]] = [[] for _ in range(processes)]
    for of_picture in by_picture.values():
        for first in range(0, len(of_picture), _TOGETHER):
            min(shares, key=len).extend(of_picture[first : first + _TOGETHER])
    return shares
