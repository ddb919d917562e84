"""What a selection came to, in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lfpc_jax.data.losses import Loss
from lfpc_jax.infogap.selection import Selected


@dataclass(frozen=True)
class Summary:
    """`levels` counts the chosen ones by how many steps they are under the original, `sides` by the
    longest side shown; `asked` counts questions, `scan` those that a scan would have asked."""

    records: int
    lost: dict[str, int]
    levels: dict[int, int]
    sides: dict[int, int]
    never_diverged: float
    asked: int
    scan: int


def summarise(selected: Sequence[Selected | Loss]) -> Summary:
    chosen = [one for one in selected if isinstance(one, Selected)]
    asked = [one for one in chosen if one.answers]
    never = sum(not one.diverged for one in asked)
    return Summary(
        records=len(chosen),
        lost=dict(Counter(one.reason for one in selected if isinstance(one, Loss))),
        levels=dict(sorted(Counter(one.level for one in chosen).items())),
        sides=dict(sorted(Counter(one.sides[one.level] for one in chosen).items())),
        never_diverged=never / len(asked) if asked else 0.0,
        asked=sum(len(one.answers) for one in asked),
        scan=sum(len(one.sides) for one in asked),
    )
