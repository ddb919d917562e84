"""What is measured of an episode, and of many at once.

    crop/rate        share of episodes with a crop       crop/count    crops an episode
    crop/invalid     share of calls that were refused    crop/tokens   visual tokens a crop
    crop/area_ratio  area of a crop over its image's
    crop/iou, crop/overlap                    see below
    crop/full         of a crop network's boxes, the share that hold every target whole
    crop/iou_cropped, crop/overlap_cropped    the same of the episodes with a crop alone
    fault/<cause>    share of calls refused for it       end/<cause>   share of episodes
    episode/turns, episode/tokens                        turns and sampled tokens an episode

IoU and overlap are of the crop that holds most of a target, as `rewards.grounding` measures them,
whatever is rewarded: means over the episodes whose record has targets, 0 for one without a crop. A
mean over nothing is left out, so that no curve shows a number that nobody measured.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import get_args

import numpy as np

from lfpc_jax.processing.geometry import Box, area
from lfpc_jax.rewards.grounding import Grounded, Grounding, ground, holds_all
from lfpc_jax.rewards.total import EpisodeReward
from lfpc_jax.trajectory import End, Record, Trajectory

ENDS: tuple[End, ...] = get_args(End)


@dataclass(frozen=True)
class Measures:
    """One episode in numbers.

    `right` is None where that could not be found out; `iou` and `overlap` where there are no
    targets. `areas` and `crop_tokens` are by crop. `calls` counts turns that asked for a tool,
    `faults` those refused, by cause; a call may be neither refused nor carried out, if the episode
    ended before. `full` says whether each target lies whole in a crop.
    """

    record: str
    rollout: int
    right: float | None
    turns: int
    tokens: int
    calls: int
    areas: tuple[float, ...]
    crop_tokens: tuple[int, ...]
    faults: Mapping[str, int]
    end: End
    iou: float | None = None
    overlap: float | None = None
    full: float | None = None

    @property
    def crops(self) -> int:
        return len(self.areas)


def measure(
    trajectory: Trajectory,
    record: Record,
    scored: EpisodeReward | float | None,
    *,
    image_token: int,
) -> Measures:
    """The numbers of an episode. `scored` is its reward, or only its accuracy; in the latter case
    boxes are compared here.

    `image_token` is the model's placeholder: visual tokens are counted among the ids.
    """
    if isinstance(scored, EpisodeReward):
        right, boxes = scored.accuracy, scored.boxes
    else:
        right, boxes = scored, _ground(trajectory, record)
    cut = [turn.crop.box for turn in trajectory.turns if turn.crop is not None]
    whole = trajectory.original[0] * trajectory.original[1]
    return Measures(
        record=trajectory.record,
        rollout=trajectory.rollout,
        right=right,
        turns=len(trajectory.turns),
        tokens=int(np.asarray(trajectory.sampled).sum()),
        calls=sum(turn.call for turn in trajectory.turns),
        areas=tuple(area(Box(*box)) / whole for box in cut),
        crop_tokens=tuple(_crop_tokens(trajectory, image_token)),
        faults=dict(Counter(turn.fault for turn in trajectory.turns if turn.fault)),
        end=trajectory.end,
        iou=None if boxes is None else boxes.iou,
        overlap=None if boxes is None else boxes.overlap,
        full=None if boxes is None else float(holds_all(cut, record, trajectory.original)),
    )


def gather(episodes: Iterable[Measures]) -> dict[str, float]:
    """The means over many episodes, by the names at the top of this file, where it says what is
    left out."""
    measured = list(episodes)
    if not measured:
        return {}
    cropped = [episode for episode in measured if episode.crops]
    proposed = any(episode.end == "proposed" for episode in measured)
    calls = sum(episode.calls for episode in measured)
    faults: Counter[str] = Counter()
    for episode in measured:
        faults.update(episode.faults)
    means = {
        "crop/rate": _mean(float(episode.crops > 0) for episode in measured),
        "crop/count": _mean(episode.crops for episode in measured),
        "crop/iou": _mean(episode.iou for episode in measured),
        "crop/overlap": _mean(episode.overlap for episode in measured),
        "crop/iou_cropped": _mean(episode.iou for episode in cropped),
        "crop/overlap_cropped": _mean(episode.overlap for episode in cropped),
        "crop/full": _mean(episode.full for episode in measured) if proposed else None,
        "crop/area_ratio": _mean(ratio for episode in measured for ratio in episode.areas),
        "crop/tokens": _mean(tokens for episode in measured for tokens in episode.crop_tokens),
        "crop/invalid": sum(faults.values()) / calls if calls else None,
        "episode/turns": _mean(episode.turns for episode in measured),
        "episode/tokens": _mean(episode.tokens for episode in measured),
    }
    means |= {
        f"end/{end}": _mean(float(episode.end == end) for episode in measured)
        for end in ENDS
        if end != "proposed" or proposed
    }
    means |= {f"fault/{cause}": count / calls for cause, count in sorted(faults.items())}
    return {name: value for name, value in means.items() if value is not None}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _ground(trajectory: Trajectory, record: Record) -> Grounded | None:
    """None also for targets that make no sense; the audit of the set names those."""
    try:
        return ground(trajectory, record, Grounding())
    except ValueError:
        return None


def _crop_tokens(trajectory: Trajectory, image_token: int) -> Iterator[int]:
    """The number of placeholders in what came back after each turn with a crop. To a crop network
    nothing comes back."""
    if trajectory.end == "proposed":
        return
    ids = np.asarray(trajectory.ids)
    following = [turn.start for turn in trajectory.turns[1:]]
    for turn, begins in zip(trajectory.turns, [*following, len(ids)]):
        if turn.crop is not None:
            yield int((ids[turn.stop : begins] == image_token).sum())
