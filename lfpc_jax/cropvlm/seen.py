"""What an evaluation's target was shown, made again for a report, since only boxes are on disk."""

from dataclasses import dataclass, replace
from typing import Any

from lfpc_jax.cropvlm.pair import shown_box
from lfpc_jax.cropvlm.remote import showing_without_text
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Pixels, Showing
from lfpc_jax.evaluation.journal import ASSETS_OF_TARGET, TARGET, Journal, Trial
from lfpc_jax.evaluation.seen import alter_of
from lfpc_jax.trajectory import Record, Trajectory


@dataclass(frozen=True)
class TargetView:
    """The pictures of an episode as its target saw them, each with what it is."""

    showing: Showing

    def __call__(self, record: Record, trajectory: Trajectory) -> list[tuple[str, Pixels]]:
        pictures = self.showing.pictures(record, shown_box(trajectory))
        names = ("full image", "crop")
        return [(name, seen) for name, seen in zip(names, pictures) if seen is not None]


def target_view(journal: Journal, part: Trial) -> TargetView | None:
    """The view of the episodes of a part; None for an evaluation without a target."""
    target: dict[str, Any] | None = journal.settings()["asked"].get(TARGET)
    if target is None:
        return None
    names = ("presentation", "image_tokens", "crop_tokens")
    settings = TargetSettings(**{name: target[name] for name in names})
    if target.get("url"):
        showing = showing_without_text(settings)
    else:
        showing = Showing.from_folder(journal.folder / "assets" / ASSETS_OF_TARGET, settings)
    return TargetView(replace(showing, alter=alter_of(journal, part)))
