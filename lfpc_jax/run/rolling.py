"""A step's episodes: sampled by the engine, or demonstrated; and what they are worth."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import jax
import numpy as np

from lfpc_jax.data.pipeline import share
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.distributed.exchange import everyones, total
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.evaluation.measures import Measures, gather, measure
from lfpc_jax.grpo.advantage import is_flat, with_advantages
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.rewards.judge import Judge
from lfpc_jax.rewards.total import EpisodeReward, compute_rewards
from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.rollout.demonstration import demonstrated
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import Engine, OnEpisode, own_share
from lfpc_jax.rollout.episode import rollout_key
from lfpc_jax.rollout.protocol import CALL
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.progress import Steps
from lfpc_jax.trajectory import Group, Record

log = logging.getLogger(__name__)


def opener(dialogue: Dialogue) -> Callable[[Record], Opening]:
    """For the stream's threads: everything a prompt needs, while the device still updates."""

    def open_(record: Record) -> Opening:
        try:
            return dialogue.open(record)
        except ValueError as error:
            raise Unusable("cannot be asked", str(error)) from error

    return open_


def told_apart(openings: Sequence[Opening]) -> list[Opening]:
    """A record that a batch holds twice, in any process, would roll out twice alike."""
    names = everyones([opening.record.id for opening in openings])
    ahead = sum(len(theirs) for theirs in names[: jax.process_index()])
    renamed = numbered([name for theirs in names for name in theirs])[ahead:]
    return [
        replace(opening, record=replace(opening.record, id=name))
        for opening, name in zip(openings, renamed)
    ]


def numbered(names: Sequence[str]) -> list[str]:
    """Each its own: the second of a name is `name#2`, unless that is another's."""
    counts: Counter[str] = Counter()
    taken, made = set(names), []
    for name in names:
        counts[name] += 1
        new = name
        while counts[name] > 1 and new in taken:
            new = f"{name}#{counts[name]}"
            counts[name] += new in taken
        taken.add(new)
        made.append(new)
    return made


class Roller:
    """Episodes for a step or a validation, with the parameters as they are."""

    def __init__(
        self,
        config: TrainConfig,
        dialogue: Dialogue,
        engine: Engine,
        learner: Learner,
        publish: Publisher,
        validation: Sequence[Record],
        shown: Steps,
    ) -> None:
        self.config, self.dialogue, self.engine = config, dialogue, engine
        self.learner, self.publish, self.shown = learner, publish, shown
        names = numbered([record.id for record in validation])  # its sets may share some
        self.validation = [replace(one, id=name) for one, name in zip(validation, names)]
        bar = partial(shown.bar, every=10.0)
        self.judge = Judge(config.judge, bar) if config.judge is not None else None
        self.faults: tuple[Fault, ...] = ()
        """What kept the last episodes measured from being scored: in any process, one a kind."""
        self._told: set[str] = set()
        self._loaded: TrainState | None = None

    def rollouts(
        self, state: TrainState, openings: Sequence[Opening], step: int, on_episode: OnEpisode
    ) -> list[Group]:
        """In the order of their prompts, whatever order they ended in."""
        if self.config.stage == "sft":
            return [self._demonstrated(opening, step) for opening in openings]
        self._load(state)
        seed = (self.config.seed << 32) + step
        found = self._run(openings, self.config.rollout.rollouts, seed, on_episode)
        return [found[o.record.id] for o in openings if o.record.id in found]

    def judged(self, groups: Sequence[Group]) -> tuple[list[Group], list[EpisodeReward]]:
        """The groups with their rewards, and every episode's scores. All trajectories are scored at
        once, so that a judge is asked concurrently."""
        records = {group.record.id: group.record for group in groups}
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        scores = compute_rewards(trajectories, records, self.config.rewards, self.judge)
        parts = iter(one.parts for one in scores)
        rewarded = [
            replace(group, rewards=tuple(next(parts) for _ in group.trajectories))
            for group in groups
        ]
        return rewarded, scores

    def mini_batches(
        self, groups: Sequence[Group], openings: Sequence[Opening]
    ) -> list[list[Group]]:
        """Places of the step's batch dealt out in turn, so that every process brings as much to
        each, or nearly."""
        prompts = self.config.rollout.prompts
        count = prompts // self.config.update.mini_batch
        own = share(prompts, jax.process_index(), jax.process_count())
        places = {opening.record.id: place for place, opening in zip(own, openings, strict=True)}
        batches: list[list[Group]] = [[] for _ in range(count)]
        for group in groups:
            batches[places[group.record.id] % count].append(self._with_advantages(group))
        return batches

    def validate(self, state: TrainState) -> tuple[dict[str, float], list[Group]]:
        """Accuracy, and with blanked crops; what is lost is what they were worth: their gap, over
        the records that were judged both times, in all processes. Beside each accuracy the
        share of answers that could not be judged, which it leaves out, and of those that only a
        judge could tell, which it takes for wrong without one; and the share of records that could
        not be shown. And the episodes with crops as they are."""
        self._load(state)
        own = list(own_share(self.validation))
        values: dict[str, float] = {}
        seen: list[Group] = []
        known: list[dict[str, float]] = []
        for name, alter in (("", None), ("blank_", alteration("blank"))):
            with altered(self.engine, alter):
                found = self._run(own, 1, self.config.seed, None, self.config.validation_sampling)
            rated, scores = self.judged([found[one.id] for one in own if one.id in found])
            figures = self.figures(rated, scores)
            known.append(_accuracies(rated))
            names = {"accuracy": "accuracy", "masked": "unjudged", "undecided": "undecided"}
            for ours, theirs in names.items():
                if f"reward/{theirs}" in figures:
                    values[f"validation/{name}{ours}"] = figures[f"reward/{theirs}"]
            if not name:
                asked, answered = total([len(own), len(rated)])
                values["validation/skipped"] = 1 - answered / asked
                seen = rated
                values |= {
                    f"validation/{key.split('/')[1]}": value
                    for key, value in figures.items()
                    if key.startswith("crop/")
                }
        both = known[0].keys() & known[1].keys()
        rights = [round(sum(one[name] for name in both)) for one in known]
        count, whole, blank = total([len(both), *rights])
        if count:
            values["validation/gap"] = whole / count - blank / count
        return values, seen

    def figures(self, groups: Sequence[Group], scores: Sequence[EpisodeReward]) -> dict[str, float]:
        """What all processes' episodes came to: rewards by part, what kept them from being known,
        crops, ends. The first fault of each kind is logged."""
        rows = []
        faults = [fault for one in scores for fault in one.faults]
        episodes = [(group.record, t) for group in groups for t in group.trajectories]
        for (record, trajectory), one in zip(episodes, scores, strict=True):
            measures = measure(trajectory, record, one, image_token=self.learner.cfg.image_token)
            failed = sorted({fault.part for fault in one.faults})
            row = {"measures": dataclasses.asdict(measures), "parts": one.parts}
            rows.append(row | {"failed": failed, "undecided": one.undecided})
        flat = [float(is_flat(with_advantages(group))) for group in groups]
        counts = Counter(fault.kind for fault in faults)
        first = {fault.kind: dataclasses.asdict(fault) for fault in reversed(faults)}
        brought = {"rows": rows, "flat": flat, "counts": counts, "first": first}
        everything = everyones(brought)
        self._tell(everything)
        return _means(
            [row for theirs in everything for row in theirs["rows"]],
            [value for theirs in everything for value in theirs["flat"]],
        )

    def _tell(self, everything: Sequence[dict[str, Any]]) -> None:
        """Names what kept episodes from being scored, the first time that it did, wherever."""
        episodes = sum(len(theirs["rows"]) for theirs in everything)
        first: dict[str, Fault] = {}
        for theirs in reversed(everything):
            first |= {kind: Fault(**fault) for kind, fault in theirs["first"].items()}
        for kind in first.keys() - self._told if jax.process_index() == 0 else ():
            count = sum(theirs["counts"].get(kind, 0) for theirs in everything)
            log.warning(
                "%d of %d episodes could not be scored (%s; told once). The first: %s",
                count, episodes, kind, first[kind].reason,
            )  # fmt: skip
        self._told |= first.keys()
        self.faults = tuple(first.values())

    def sampled(self, groups: Sequence[Group]) -> int:
        """Tokens, in all processes."""
        own = [int(t.sampled.sum()) for group in groups for t in group.trajectories]
        return total([sum(own)])[0]

    def release(self) -> None:
        """Lets go of the parameters to sample from: an update needs their memory."""
        self.engine.unload()
        self._loaded = None

    def _load(self, state: TrainState) -> None:
        if state is not self._loaded:
            self.release()
            self.engine.load(self.publish(self.learner.computing(state)))
            self._loaded = state

    def _run(
        self,
        asked: Sequence[Record | Opening],
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None,
        sampling: Sampling | None = None,
    ) -> dict[str, Group]:
        found = {}
        with self.shown.bar("rollouts", len(asked), every=10.0) as advance:
            for group in self.engine.run(
                asked, rollouts=rollouts, seed=seed, on_episode=on_episode, sampling=sampling
            ):
                found[group.record.id] = group
                advance(1)
        return found

    def _demonstrated(self, opening: Opening, step: int) -> Group:
        config, record = self.config, opening.record
        assert config.demonstrate is not None
        rng = np.random.default_rng(rollout_key(config.seed, record.id, step))
        turns = config.demonstrate(record, opening.view, rng)
        dialogue = self.dialogue
        if not any(CALL in turn for turn in turns) and rng.random() < config.without_tool:
            dialogue = without_tool(dialogue)
            opening = dialogue.open(record)
        return demonstrated(opening, turns, dialogue, config.rules, config.rollout.capacity)

    def _with_advantages(self, group: Group) -> Group:
        if self.config.stage == "sft":
            return replace(group, advantages=np.ones(len(group.trajectories)))
        return with_advantages(group, self.config.update.deviation)


def _accuracies(groups: Sequence[Group]) -> dict[str, float]:
    """By record, of those that could be judged; each was rolled out once."""
    return {
        group.record.id: accuracy
        for group in groups
        for rewards in group.rewards
        if (accuracy := rewards["accuracy"]) is not None
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
        values["reward/unjudged"] = fmean(row["parts"]["accuracy"] is None for row in rows)
        values["reward/undecided"] = fmean(row["undecided"] for row in rows)
        for part in sorted({part for row in rows for part in row["failed"]}):
            values[f"masked/{part}"] = fmean(part in row["failed"] for row in rows)
        values["reward/flat"] = fmean(flat)
    return values | gather(Measures(**row["measures"]) for row in rows)
