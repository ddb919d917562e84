"""The updates of one step, from groups with advantages to new parameters and metrics.

    for every mini-batch                    compute the log-probabilities of the policy that sampled
    for every epoch, for every mini-batch   update

The first pass is left out if there is one mini-batch and one epoch: then the update computes these
log-probabilities itself. With LoRA's dropout the pass is there in any case, since what an update
computes with dropout cannot be compared with the sampler. A mini-batch is packed when it is needed,
while the device still works on the one before. Keeping all of them packed would fill the host's
memory with pictures.

The paper computes log-probabilities in micro-batches of 4. Here they are computed in the update's
micro-batches of `rows` rows, which differs by rounding only.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

import numpy as np

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.exchange import largest, total
from lfpc_jax.grpo.advantage import Deviation, is_flat
from lfpc_jax.grpo.items import Aggregate, counts_by, items_of
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.objective import FROM_DRAWN, Objective
from lfpc_jax.grpo.packing import Item, pack
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Batch, Group

_Pending = tuple[Batch, Mapping[str, Any], Mapping[str, Any], float]
"""An update that was dispatched: its batch, the log-probabilities that were computed before it, its
metrics, and the limit on how far its tokens may lie from their sampler."""

REFUSALS = 3
"""So many updates in a row that are not finite stop the run."""


@dataclass(frozen=True)
class UpdateSettings:
    """How a step's episodes are trained on.

    An optimizer step takes `mini_batch` prompts. Each shard of a micro-batch has `rows` rows of
    `row_tokens` tokens (0: the rollout's capacity) and `windows` windows of pictures (0: an image
    and a crop for every row). `old` says which log-probabilities the ratio compares with: the
    trainer's, recomputed before the first update, or the sampler's. `deviation` is the standard
    deviation of a group's rewards (see `advantage`). With `micro_batch_mean` the mean over tokens
    is taken over so many rollouts of a group and then over these means; with 0 it is taken over the
    whole mini-batch (see `items`). `constant_length` tokens divide every episode's loss if
    `aggregate` is constant, which with the deviation none is Dr. GRPO. `drop_flat` leaves groups
    without variance out of the mean. `share_prompts` computes a group's prompt once in every row.
    """

    mini_batch: int = 32
    epochs: int = 1
    rows: int = 1
    row_tokens: int = 0
    windows: int = 0
    aggregate: Aggregate = "token"
    constant_length: int = 0
    micro_batch_mean: int = 0
    deviation: Deviation = "population"
    old: Literal["trainer", "sampler"] = "trainer"
    drop_flat: bool = False
    share_prompts: bool = True
    objective: Objective = field(default_factory=Objective)


class NotFinite(Exception):
    """Too many updates in a row were not finite; `batch` belongs to the last of them."""

    def __init__(self, batch: Batch, metrics: Mapping[str, float]) -> None:
        super().__init__(
            f"{REFUSALS} updates in a row had a loss or gradient that is not finite (the last: "
            f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}); lower the "
            "learning rate, or look into the saved batch"
        )
        self.batch = batch


class Apart(Exception):
    """The trainer's log-probabilities of a step's tokens lie further from the sampler's than
    rounding explains. Nothing was trained on; `state` is the state before the step."""

    def __init__(self, mean: float, state: TrainState) -> None:
        super().__init__(
            f"the trainer's and the sampler's log-probabilities of the tokens just sampled lie "
            f"{mean:.3g} apart in the mean"
        )
        self.mean, self.state = mean, state


@dataclass(frozen=True, eq=False)
class Updater:
    """Runs the updates of a step.

    `reference` holds the parameters that a KL term measures from. `most_apart` bounds how far the
    trainer's log-probabilities may lie from the sampler's, in the mean over all mini-batches if
    they are computed before the first update, else over the first mini-batch.
    """

    learner: Learner
    settings: UpdateSettings
    shapes: TrainShapes
    processor: ImageProcessor
    reference: Tree | None = None
    most_apart: float = math.inf

    def __call__(
        self, state: TrainState, mini_batches: Sequence[Sequence[Group]]
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the updates, and their metrics. `mini_batches` holds the groups of each
        mini-batch. Metrics are means over the updates. A mini-batch with nothing to learn from has
        no update; `empty` is the share of these."""
        settings = self.settings
        before, apart = self._before(state, mini_batches)
        most = math.inf if apart else self.most_apart
        seen: dict[str, list[float]] = defaultdict(list)
        pending: _Pending | None = None
        updated: set[int] = set()
        for _ in range(settings.epochs):
            for number, batch, real in self._packed(mini_batches):
                updated.add(number)
                placed = self.learner.place(batch)
                known = before.get(number, {})
                if settings.old == "sampler":
                    known = known | {"old": placed.sampler}
                self._note(pending, seen, state)
                if pending is None:
                    self._check_apart(apart, state)
                else:
                    most = math.inf  # the sampler's policy is no longer this one
                batch_with = replace(placed, **known)
                state, metrics = self.learner.update(state, batch_with, real, most_apart=most)
                pending = batch, known, metrics, most
        self._note(pending, seen, state)
        seen["empty"].append(1 - len(updated) / len(mini_batches))
        return state, {name: fmean(values) for name, values in seen.items()}

    def _before(
        self, state: TrainState, mini_batches: Sequence[Sequence[Group]]
    ) -> tuple[dict[int, dict[str, Any]], list[tuple[Any, Any]]]:
        """The log-probabilities that have to be computed before the first update, by mini-batch,
        and how far they lie from the sampler's (see `Learner.apart`). If none have to be, nothing
        is packed."""
        known: dict[int, dict[str, Any]] = {}
        apart: list[tuple[Any, Any]] = []
        recompute = recomputes_logprobs(self.settings, len(mini_batches))
        compares = self.learner.dropout > 0 and math.isfinite(self.most_apart)
        if not recompute and not compares and self.reference is None:
            return known, apart
        current = self.learner.computing(state) if recompute or compares else None
        for number, batch, real in self._packed(mini_batches):
            placed = self.learner.place(batch)
            known[number] = {}
            if current is not None:
                logprobs, _ = self.learner.logprobs(current, placed, real)
                apart.append(self.learner.apart(logprobs, placed))
                if recompute:
                    known[number]["old"] = logprobs
            if self.reference is not None:
                known[number]["reference"], _ = self.learner.logprobs(self.reference, placed, real)
        return known, apart

    def _check_apart(self, apart: Sequence[tuple[Any, Any]], state: TrainState) -> None:
        """Raises `Apart` for log-probabilities that lie too far from the sampler's. Waits for them
        to be computed. If all of them are NaN there is nothing to compare, and the updates will be
        refused as not finite."""
        distance, weight = (sum(map(float, column)) for column in zip(*apart)) if apart else (0, 0)
        if weight and (mean := distance / weight) > self.most_apart:
            raise Apart(mean, state)

    def _packed(
        self, mini_batches: Sequence[Sequence[Group]]
    ) -> Iterator[tuple[int, Batch, np.ndarray]]:
        """The mini-batches in which any process has something to learn from, with their numbers."""
        for number, groups in enumerate(mini_batches):
            items = weighed(groups, self.settings)
            if not total([len(items)])[0]:
                continue
            batch, real = pack(
                items,
                self.shapes,
                self.processor,
                shards=self.learner.shards,
                image_token=self.learner.cfg.image_token,
                agree=largest,
            )
            yield number, batch, real

    def _note(
        self, pending: _Pending | None, seen: dict[str, list[float]], state: TrainState
    ) -> None:
        """Waits for an update and adds its metrics to `seen`; `state` is the state after it."""
        if pending is None:
            return
        batch, known, metrics, most = pending
        values = {name: float(value) for name, value in metrics.items()}
        if (mean := values.pop(FROM_DRAWN, 0.0)) > most:
            raise Apart(mean, state)
        if values["refused"] >= REFUSALS:
            local: dict[str, Any] = {name: self.learner.local_rows(x) for name, x in known.items()}
            raise NotFinite(replace(batch, **local), values)
        refused = values.pop("refused") > 0
        seen["refused"].append(float(refused))
        for name, value in values.items():
            if not refused:
                seen[name].append(value)


def recomputes_logprobs(settings: UpdateSettings, mini_batches: int) -> bool:
    """Whether the ratio needs the trainer's log-probabilities from before a step's updates.
    Imitation has no ratio."""
    imitates = settings.objective.kind == "sft"
    return not imitates and settings.old == "trainer" and mini_batches * settings.epochs > 1


def weighed(groups: Sequence[Group], settings: UpdateSettings) -> list[Item]:
    """This process's episodes of a mini-batch. Their tokens' weights are those among the episodes
    of all processes."""
    kept = [group for group in groups if not (settings.drop_flat and is_flat(group))]
    size, objective = settings.micro_batch_mean, settings.objective
    runs = [run for group in kept for run in counts_by(group, size or len(group.trajectories))]
    episodes, tokens, holding = total(
        [sum(n for n, _ in runs), sum(n for _, n in runs), sum(n > 0 for _, n in runs)]
    )
    return items_of(
        kept,
        aggregate=settings.aggregate,
        episodes=episodes,
        tokens=tokens,
        micro_batch=size,
        micro_batches=holding if size else 1,
        constant_length=settings.constant_length,
        all_of_them=bool(objective.kl or objective.entropy),
    )
