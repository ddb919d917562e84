"""How a set was selected, for whoever trains on it.

A gap is relative to what a budget of visual tokens shows. At another budget the chosen size may be
all that is shown anyway. A gap is also that of the model that was asked.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lfpc_jax.data import layout, pictures, sources
from lfpc_jax.jsonfile import Checked, brief
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Record

FROM, SELECTION = "selected from", "selection"
"""In a set's meta file under `about`: what it was selected from, and all that depended on."""


def selection_of(source: str) -> Mapping[str, Any] | None:
    """Everything that the choices of a set in our layout depended on, or None if no selection made
    it. It is empty for a set of an earlier version, which did not record it."""
    folder = sources.own_folder(source)
    if folder is None or not (folder / "meta.json").is_file():
        return None
    about = layout.read_meta(folder).get("about", {})
    if FROM not in about:
        return None
    file = Checked(folder / "meta.json")
    return file.mapping(f"about.{SELECTION}", about.get(SELECTION, {}))


def check_budget(named: Iterable[str], image_tokens: int) -> None:
    """Raises ValueError for a set whose gaps were chosen at another budget."""
    for source in named:
        selection = selection_of(source) or {}
        before = brief(selection.get("image_tokens", image_tokens))
        if before != str(image_tokens) and selection.get("strategy") != "none":
            raise ValueError(
                f"{source}: was selected at an image budget of {before} tokens, and "
                f"rollout.image_tokens is {image_tokens}: what is a gap at one may be none at the "
                f"other; set --rollout.image_tokens {before}, select again with --image-tokens "
                f"{image_tokens}, or train on it all the same with --other-budget"
            )


def doubts(
    source: str,
    records: Sequence[Record],
    processor: ImageProcessor,
    weights: Callable[[], str],
) -> Iterator[str]:
    """A line for each way in which a set's gaps may not hold for a model of these weights at the
    processor's budget."""
    selection = selection_of(source) or {}
    if "weights" in selection and selection["weights"] != weights():
        yield (
            "was selected by another model than the one that is trained, whose answers may be lost "
            "sooner or later; to have its own gaps select again"
        )
    none = sum(record.longest_side is not None and not _has_gap(record, processor)
               for record in records)  # fmt: skip
    if none:
        yield (
            f"{none} of {len(records)} records have no gap, since their longest_side is not under "
            "what rollout.image_tokens shows; select them at this budget"
        )


def _has_gap(record: Record, processor: ImageProcessor) -> bool:
    whole = pictures.size(record.picture)
    seen = pictures.shrunk(whole, record.longest_side)
    resized, all_of_it = (processor.resized_size(*size) for size in (seen, whole))
    return math.prod(resized) < math.prod(all_of_it)
