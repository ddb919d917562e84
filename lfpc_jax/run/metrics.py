"""Rewards of the episodes of a step or a validation, and the metrics of all processes' episodes."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import jax

from lfpc_jax.cropvlm.pair import TargetStats
from lfpc_jax.distributed.exchange import everyones, total
from lfpc_jax.evaluation.measures import Measures, gather, measure
from lfpc_jax.grpo.advantage import is_flat, with_advantages
from lfpc_jax.rewards.judge import Judge
from lfpc_jax.rewards.total import EpisodeReward, Rewards, compute_rewards
from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.rollout import engine
from lfpc_jax.trajectory import Group

log = logging.getLogger(__name__)


def reward(
    groups: Sequence[Group], settings: Rewards, judge: Judge | None, *, proposals: bool = False
) -> tuple[list[Group], list[EpisodeReward]]:
    """The groups with their rewards, and the reward of every episode with its faults. All episodes
    are rewarded in one call, so that a judge is asked concurrently. With `proposals` they are a
    crop network's."""
    records = {group.record.id: group.record for group in groups}
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = compute_rewards(trajectories, records, settings, judge, proposals=proposals)
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
            known = {"undecided": episode.undecided, "asked": episode.asked}
            rows.append(row | known | {"failed": failed})
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


def rollout_metrics(now: object, before: object) -> dict[str, float]:
    """Where this process's rollouts between two states of an engine's stats spent their seconds,
    and the shares of row-steps that sampled a token, or did not, and why. Empty if there were
    none."""
    if not (isinstance(now, engine.Stats) and isinstance(before, engine.Stats)):
        return {}
    steps = now.steps - before.steps
    if not steps:
        return {}
    names = ("encode", "prefill", "extend", "decode", "waiting")
    known = {name: now.parts[name] - before.parts[name] for name in names}
    host = now.seconds - before.seconds - sum(known.values())
    times = {f"rollout/{name}": seconds for name, seconds in (known | {"host": host}).items()}
    shares = {"occupancy": now.sampled - before.sampled}
    shares |= {f"idle_{why}": now.idle[why] - before.idle[why] for why in ("ended", "replies")}
    shares["idle_free"] = now.slots * steps - sum(shares.values())
    return times | {f"rollout/{name}": of / (now.slots * steps) for name, of in shares.items()}


def target_metrics(now: object, before: object) -> dict[str, float]:
    """What the targets of all processes were asked between two states of a pair's stats, and the
    seconds of this process. Empty for an engine without a target, and if nothing was asked."""
    if not (isinstance(now, TargetStats) and isinstance(before, TargetStats)):
        return {}
    counts = ("questions", "episodes", "boxes", "cached")
    questions, episodes, boxes, cached = total(
        [getattr(now, name) - getattr(before, name) for name in counts]
    )
    if not questions:
        return {}
    return {
        "time/proposer": now.proposer_seconds - before.proposer_seconds,
        "time/target": now.target_seconds - before.target_seconds,
        "target/questions": float(questions),
        "target/distinct": boxes / episodes,
        "target/cached": cached / boxes,
    }


def _means(rows: Sequence[dict[str, Any]], flat: Sequence[float]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row["parts"])
    values: dict[str, float] = {}
    for name in names:
        known = [row["parts"][name] for row in rows if row["parts"].get(name) is not None]
        if known:
            values[f"reward/{name}"] = fmean(known)
    if rows:
        values["reward/masked"] = fmean(row["parts"]["total"] is None for row in rows)
        if answered := [row for row in rows if row["asked"]]:
            unknown = fmean(row["parts"]["accuracy"] is None for row in answered)
            values["reward/unjudged"] = unknown
            values["reward/undecided"] = fmean(row["undecided"] for row in answered)
        for part in sorted({part for row in rows for part in row["failed"]}):
            values[f"masked/{part}"] = fmean(part in row["failed"] for row in rows)
        values["reward/flat"] = fmean(flat)
    return values | gather(Measures(**row["measures"]) for row in rows)
