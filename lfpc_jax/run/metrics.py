"""Rewards of the episodes of a step or a validation, and the metrics of all processes' episodes."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import jax

from lfpc_jax.distributed.exchange import everyones
from lfpc_jax.evaluation.measures import Measures, gather, measure
from lfpc_jax.grpo.advantage import is_flat, with_advantages
from lfpc_jax.rewards.judge import Judge
from lfpc_jax.rewards.total import EpisodeReward, Rewards, compute_rewards
from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.trajectory import Group

log = logging.getLogger(__name__)


def reward(
    groups: Sequence[Group], settings: Rewards, judge: Judge | None
) -> tuple[list[Group], list[EpisodeReward]]:
    """The groups with their rewards, and the reward of every episode with its faults. All episodes
    are rewarded in one call, so that a judge is asked concurrently."""
    records = {group.record.id: group.record for group in groups}
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = compute_rewards(trajectories, records, settings, judge)
    parts = iter(episode.parts for episode in rewards)
    rewarded = [
        replace(group, rewards=tuple(next(parts) for _ in group.trajectories)) for group in groups
    ]
    return rewarded, rewards


class EpisodeMetrics:
    """Metrics of all processes' episodes: rewards, crops, ends, and the faults that kept rewards
    unknown. Each kind of fault is logged once."""

    def __init__(self, image_token: int) -> None:
        self.image_token = image_token
        self._logged: set[str] = set()

    def __call__(
        self, groups: Sequence[Group], rewards: Sequence[EpisodeReward]
    ) -> tuple[dict[str, float], tuple[Fault, ...]]:
        """The metrics, and the first fault of each kind in any process."""
        rows = []
        episodes = [(group.record, t) for group in groups for t in group.trajectories]
        for (record, trajectory), episode in zip(episodes, rewards, strict=True):
            measures = measure(trajectory, record, episode, image_token=self.image_token)
            failed = sorted({fault.part for fault in episode.faults})
            row = {"measures": dataclasses.asdict(measures), "parts": episode.parts}
            rows.append(row | {"failed": failed, "undecided": episode.undecided})
        flat = [float(is_flat(with_advantages(group))) for group in groups]
        faults = [fault for episode in rewards for fault in episode.faults]
        counts = Counter(fault.kind for fault in faults)
        first = {fault.kind: dataclasses.asdict(fault) for fault in reversed(faults)}
        gathered = everyones({"rows": rows, "flat": flat, "counts": counts, "first": first})
        values = _means(
            [row for process in gathered for row in process["rows"]],
            [value for process in gathered for value in process["flat"]],
        )
        return values, self._log_faults(gathered)

    def _log_faults(self, gathered: Sequence[dict[str, Any]]) -> tuple[Fault, ...]:
        episodes = sum(len(process["rows"]) for process in gathered)
        first: dict[str, Fault] = {}
        for process in reversed(gathered):
            first |= {kind: Fault(**fault) for kind, fault in process["first"].items()}
        for kind in first.keys() - self._logged if jax.process_index() == 0 else ():
            count = sum(process["counts"].get(kind, 0) for process in gathered)
            log.warning(
                "%d of %d episodes could not be scored (%s; told once). The first: %s",
                count, episodes, kind, first[kind].reason,
            )  # fmt: skip
        self._logged |= first.keys()
        return tuple(first.values())


def _means(rows: Sequence[dict[str, Any]], flat: Sequence[float]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row["parts"])
    values: dict[str, float] = {}
    for name in names:
        known = [row["parts"][name] for row in rows if row["parts"].get(name) is not None]
        if known:
            values[f"reward/{name}"] = fmean(known)
    if rows:
        values["reward/masked"] = fmean(row["parts"]["total"] is None for row in rows)
        values["reward/unjudged"] = fmean(row["parts"]["accuracy"] is None for row in rows)
        values["reward/undecided"] = fmean(row["undecided"] for row in rows)
        for part in sorted({part for row in rows for part in row["failed"]}):
            values[f"masked/{part}"] = fmean(part in row["failed"] for row in rows)
        values["reward/flat"] = fmean(flat)
    return values | gather(Measures(**row["measures"]) for row in rows)
