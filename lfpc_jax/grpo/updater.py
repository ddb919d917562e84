"""The updates of one step, from groups with advantages to new parameters and metrics.

    for every mini-batch but the first      compute the log-probabilities of the policy that sampled
    for every epoch, for every mini-batch   update

The first update of a step computes these log-probabilities itself, and further epochs take them
from it. With LoRA's dropout all are computed before, since what an update computes with dropout
cannot be compared with the sampler. Every mini-batch is packed once, and its rows stay on the
device. Its pictures are laid out when they are encoded, since those of all mini-batches would fill
the host's memory. A tower that is not trained encodes a mini-batch's pictures once for all
log-probabilities before the updates, and once in each update.

The paper computes log-probabilities in micro-batches of 4. Here they are computed in the update's
micro-batches of `rows` rows, which differs by rounding only.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from statistics import fmean
from typing import Any, Literal

import numpy as np

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.exchange import largest, total
from lfpc_jax.grpo.advantage import Deviation, is_flat
from lfpc_jax.grpo.items import Aggregate, counts_by, items_of
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.objective import FROM_DRAWN, Objective
from lfpc_jax.grpo.packing import Item, MiniBatch, pack
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import Group

_Pending = tuple[MiniBatch, Mapping[str, Any], float]
"""An update that was dispatched: its mini-batch, its metrics, and the limit on how far its tokens
may lie from their sampler."""

REFUSALS = 3
"""So many updates in a row that are not finite stop the run."""


@dataclass(frozen=True)
class UpdateSettings:
    """How a step's episodes are trained on.

    An optimizer step takes `mini_batch` prompts. On each shard, a micro-batch of rows has `rows`
    rows of `row_tokens` tokens (0: the rollout's capacity) with `places` places for tokens that
    count (0: a quarter; more where they are needed), and one of pictures has `windows` windows (0:
    an image and a crop). `old` says which log-probabilities the ratio compares with: the
    trainer's, from before the step's first update, or the sampler's. `deviation` is the standard
    deviation of a group's rewards (see `advantage`). With `micro_batch_mean` the mean over tokens
    is taken over so many rollouts of a group and then over these means; with 0 it is taken over the
    whole mini-batch (see `items`). `constant_length` tokens divide every episode's loss if
    `aggregate` is constant, which with the deviation none is Dr. GRPO. `drop_flat` leaves groups
    without variance out of the mean. `share_prompts` computes a group's prompt once in every row.
    Episodes with a token that was drawn more than `most_stale` updates before the step are left
    out, which happens with `rollout.ahead` only; None leaves none out.
    """

    mini_batch: int = 32
    epochs: int = 1
    rows: int = 1
    row_tokens: int = 0
    windows: int = 0
    places: int = 0
    aggregate: Aggregate = "token"
    constant_length: int = 0
    micro_batch_mean: int = 0
    deviation: Deviation = "population"
    old: Literal["trainer", "sampler"] = "trainer"
    drop_flat: bool = False
    share_prompts: bool = True
    most_stale: int | None = None
    objective: Objective = field(default_factory=Objective)


class NotFinite(Exception):
    """Too many updates in a row were not finite; `mini_batch` belongs to the last of them."""

    def __init__(self, mini_batch: MiniBatch, metrics: Mapping[str, float]) -> None:
        super().__init__(
            f"{REFUSALS} updates in a row had a loss or gradient that is not finite (the last: "
            f"loss {metrics['loss']}, gradient norm {metrics['gradient_norm']}); lower the "
            "learning rate, or look into the saved batch"
        )
        self.mini_batch = mini_batch


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
    trainer's log-probabilities may lie from the sampler's: in the mean over the mini-batches whose
    log-probabilities are computed before the first update, and over the first mini-batch.
    """

    learner: Learner
    settings: UpdateSettings
    shapes: TrainShapes
    processor: ImageProcessor
    reference: Tree | None = None
    most_apart: float = math.inf

    def __call__(
        self,
        state: TrainState,
        mini_batches: Sequence[Sequence[Group]],
        *,
        version: int | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """The state after the updates, and their metrics. `mini_batches` holds the groups of each
        mini-batch. Metrics are means over the updates. A mini-batch with nothing to learn from has
        no update; `empty` is the share of these. Where earlier policies may have drawn some of the
        tokens, `version` is the state's. Only episodes that it drew alone are then compared with
        their sampler for `most_apart`."""
        packed = [*self._packed(mini_batches, version)]
        first = None if self.learner.dropout else 0
        recomputes = recomputes_logprobs(self.settings, len(packed))
        packed, apart = self._with_logprobs(state, packed, recomputes=recomputes, but=first)
        seen: dict[str, list[float]] = defaultdict(list)
        pending: _Pending | None = None
        most = math.inf if self.learner.dropout else self.most_apart
        for _ in range(self.settings.epochs):
            for number, mini_batch in enumerate(packed):
                self._note(pending, seen, state)
                if pending is None:
                    self._check_apart(apart, state)
                else:
                    most = math.inf  # the sampler's policy is no longer this one
                state, metrics, old = self.learner.update(state, mini_batch, most_apart=most)
                pending = mini_batch, metrics, most
                if recomputes and mini_batch.rows[0].old is None:
                    packed[number] = mini_batch.having("old", old)
        self._note(pending, seen, state)
        seen["empty"].append(1 - len(packed) / len(mini_batches))
        return state, {name: fmean(values) for name, values in seen.items()} | _fillings(packed)

    def _packed(
        self, mini_batches: Sequence[Sequence[Group]], version: int | None = None
    ) -> Iterator[MiniBatch]:
        """The mini-batches in which any process has something to learn from, with their rows on
        the devices."""
        for groups in mini_batches:
            items = weighed(groups, self.settings)
            if not total([len(items)])[0]:
                continue
            mini_batch = pack(
                items,
                self.shapes,
                self.processor,
                shards=self.learner.shards,
                image_token=self.learner.cfg.image_token,
                agree=largest,
                version=version,
            )
            placed = self.learner.place(mini_batch)
            if self.settings.old == "sampler":
                placed = placed.having("old", [rows.sampler for rows in placed.rows])
            yield placed

    def _with_logprobs(
        self,
        state: TrainState,
        packed: Sequence[MiniBatch],
        *,
        recomputes: bool,
        but: int | None,
    ) -> tuple[list[MiniBatch], list[Any]]:
        """The mini-batches with the log-probabilities that have to be computed before the first
        update, and how far those of the policy lie from the sampler's (see `Learner.apart`). The
        policy's are not computed for mini-batch `but`."""
        learner = self.learner
        compares = learner.dropout > 0 and math.isfinite(self.most_apart)
        of_policy = [
            number for number in range(len(packed)) if (recomputes or compares) and number != but
        ]
        current, reference = None, self.reference
        if of_policy:
            current = learner.laid_out(learner.computing(state))
        if reference is not None:
            reference = learner.laid_out(reference)
        known, apart = [], []
        for number, mini_batch in enumerate(packed):
            embeddings = None
            if current is not None and number in of_policy:
                embeddings = learner.embeddings(current, mini_batch)
                logprobs = learner.logprobs(current, mini_batch, embeddings)
                apart.append(learner.apart(logprobs, mini_batch))
                if recomputes:
                    mini_batch = mini_batch.having("old", logprobs)
            if reference is not None:
                if embeddings is None or learner.trains_tower:
                    embeddings = learner.embeddings(reference, mini_batch)
                logprobs = learner.logprobs(reference, mini_batch, embeddings)
                mini_batch = mini_batch.having("reference", logprobs)
            known.append(mini_batch)
        return known, apart

    def _check_apart(self, apart: Sequence[Any], state: TrainState) -> None:
        """Raises `Apart` for log-probabilities that lie too far from the sampler's. Waits for them
        to be computed. If all of them are NaN there is nothing to compare, and the updates will be
        refused as not finite."""
        distance, weight = np.sum([*map(np.asarray, apart)], axis=0) if apart else (0.0, 0.0)
        if weight and (mean := float(distance / weight)) > self.most_apart:
            raise Apart(mean, state)

    def _note(
        self, pending: _Pending | None, seen: dict[str, list[float]], state: TrainState
    ) -> None:
        """Waits for an update and adds its metrics to `seen`; `state` is the state after it."""
        if pending is None:
            return
        mini_batch, metrics, most = pending
        values = {name: float(value) for name, value in metrics.items()}
        if (mean := values.pop(FROM_DRAWN, 0.0)) > most:
            raise Apart(mean, state)
        if values["refused"] >= REFUSALS:
            raise NotFinite(self.learner.local(mini_batch), values)
        refused = values.pop("refused") > 0
        seen["refused"].append(float(refused))
        for name, value in values.items():
            if not refused:
                seen[name].append(value)


def _fillings(packed: Sequence[MiniBatch]) -> dict[str, float]:
    """How full the rows and the micro-batches of pictures of all processes are."""
    if not packed:
        return {}
    sums = total(np.sum([astuple(each.filling) for each in packed], axis=0).tolist())
    names = ("fill", sums[:2]), ("windows_fill", sums[2:])
    return {name: filled / computed for name, (filled, computed) in names if computed}


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
