"""The recorded episodes of a training run, replayed with the weights that sampled them.

A run writes its episodes by parts. `step-000040` was rolled out before the update of step 40, so it
was sampled by the weights after step 39; `validation-000040` was sampled by the weights after step
40. Those of step 1 were sampled by the model that the run began with. A run keeps few checkpoints,
so for many parts the weights are gone: then all but the log-probabilities can be compared.
Demonstrations (`stage="sft"`) were not sampled, so their steps need no weights.

All settings are those of the run's config.json. What cannot be computed again there counts as
unchanged: rewards that are the user's own functions, which are recorded by name only, and the
verdict of a judge that its cache does not hold; nobody is asked.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.model import config as model_config
from lfpc_jax.model.spec import spec_tree
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rewards.judge import Claim, Judges, Remembered
from lfpc_jax.rewards.total import EpisodeReward, compute_rewards
from lfpc_jax.rewards.verdict import Fault, Verdict
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.dialogue import Opening
from lfpc_jax.rollout.replay import CLASSES, Replayed, Replayer
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.building import dialogue_of
from lfpc_jax.run.folder import RunFolder, computing_params
from lfpc_jax.run.models import load_model, located
from lfpc_jax.run.recorded import own_rewards, recorded_config
from lfpc_jax.trajectory import Group, Record, Trajectory

TOLERANCE = {"float32": 1e-3, "bfloat16": 1.0}
"""By dtype, how far one token's log-probabilities may lie apart before that counts as a difference.
The mean over all tokens, which training limits, is far smaller (`ROUNDING` in `run/config.py`)."""

_NAME = re.compile(r"(step|validation)-([0-9]+)")

Rewards = dict[str, float | None]


@dataclass(frozen=True)
class EpisodesPart:
    """A part of a run's archive: the episodes of a training step, or of the validation after
    one."""

    name: str
    validation: bool
    step: int

    @property
    def updated(self) -> int:
        """The training step after which the weights were those that sampled the part; 0 for the
        model that the run began with."""
        return self.step if self.validation else self.step - 1


@dataclass(frozen=True)
class Weights:
    """Weights that a part can be replayed with: a checkpoint of the run, or any model's folder."""

    name: str
    folder: Path
    saved: training.Saved | None = None

    @property
    def version(self) -> int | None:
        """How many updates a checkpoint's weights have had; None where it does not say."""
        return None if self.saved is None else self.saved.facts.get("updates")


@dataclass
class PartReplay:
    """The result of replaying a part. `lines` name every difference by record and rollout.
    `unreadable` names the records whose prompt can no longer be made. `damaged` counts lines of the
    archive that hold no group, `unjudged` the answers that were not graded again, and `mixed` the
    episodes that other weights drew in part, of which no log-probabilities are compared. `sampler`
    and `policy` are the largest differences of log-probabilities by class of token; NaN where none
    were compared."""

    name: str
    records: int = 0
    episodes: int = 0
    differing: int = 0
    damaged: int = 0
    unjudged: int = 0
    mixed: int = 0
    lines: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    sampler: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, math.nan))
    policy: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CLASSES, math.nan))

    def add(self, replayed: Replayed, tolerance: float) -> None:
        lines = list(replayed.differences)
        for name in CLASSES:
            sampler, policy = replayed.sampler[name], replayed.policy[name]
            self.sampler[name] = float(np.fmax(self.sampler[name], sampler))
            self.policy[name] = float(np.fmax(self.policy[name], policy))
            if max(sampler, policy) > tolerance:
                lines.append(
                    f"log-probabilities of {name} differ by {sampler:.3g} (sampler) and "
                    f"{policy:.3g} (policy)"
                )
        where = f"{self.name}, record {replayed.record}, rollout {replayed.rollout}"
        self.lines += [f"{where}: {line}" for line in lines]
        self.episodes += 1
        self.differing += bool(lines)


class RunReplay:
    """Replays the parts of one run. `dtype` is what log-probabilities are computed in. Without it,
    it is the dtype of the run's settings, or for "auto" the one that this machine trains in."""

    def __init__(self, run: RunFolder, mesh: Mesh, *, dtype: str | None = None) -> None:
        self.run, self.mesh = run, mesh
        self.config = recorded_config(run.settings)
        self.own = own_rewards(run.settings)
        self.archive = Archive(run.trajectories)
        model = self.config.model
        self.dtype = dtype or (tuning().dtype if model.dtype == "auto" else model.dtype)
        self.cfg = replace(
            model_config.from_folder(run.assets, dtype=self.dtype),
            remat="none",
            kernel=model.kernel,
        )
        self.dialogue = dialogue_of(self.config, run.assets)
        judge = self.config.judge
        self.judge: Judges | None = None
        if judge is not None:
            cache = Path(judge.cache)
            kept = cache.is_dir()
            self.judge = Remembered(cache, judge.model, judge.server) if kept else NoVerdicts()
        self._replayers: dict[Sampling, Replayer] = {}

    def parts(self) -> list[EpisodesPart]:
        """All parts, by name. Other files in the archive are ignored."""
        names = self.archive.parts() if self.archive.folder.is_dir() else []
        matches = filter(None, map(_NAME.fullmatch, names))
        return [EpisodesPart(m[0], m[1] == "validation", int(m[2])) for m in matches]

    def plan(
        self, names: Sequence[str] = (), model: Path | None = None
    ) -> tuple[list[tuple[EpisodesPart, Weights | None]], list[str]]:
        """The parts to replay, each with its weights, and the names of those that are left out.

        `model` names weights for all of the parts. Without it, and without `names`, the parts whose
        weights are not kept are left out. Raises ValueError for a name that is no part."""
        parts = {part.name: part for part in self.parts()}
        if unknown := [name for name in names if name not in parts]:
            raise ValueError(
                f"{self.archive.folder}: has no part {unknown[0]!r} of a step or a validation; it "
                f"has {', '.join(parts) or 'none'}"
            )
        planned: list[tuple[EpisodesPart, Weights | None]] = []
        left_out = []
        for part in [parts[name] for name in names] or parts.values():
            weights = None
            if not self.demonstrated(part):
                weights = Weights(str(model), model) if model else self.weights_of(part)
                if weights is None and not names:
                    left_out.append(part.name)
                    continue
            planned.append((part, weights))
        if not planned:
            raise ValueError(
                f"{self.archive.folder}: the weights that sampled its parts "
                f"({', '.join(parts) or 'it has none'}) are not kept; name parts with --part to "
                "compare all but log-probabilities, or weights with --model"
            )
        return sorted(planned, key=lambda pair: str(pair[1])), left_out

    def demonstrated(self, part: EpisodesPart) -> bool:
        """Whether the episodes were demonstrated rather than sampled."""
        return self.config.stage == "sft" and not part.validation

    def weights_of(self, part: EpisodesPart) -> Weights | None:
        """The weights that sampled a part; None if they are not kept."""
        if part.updated == 0:
            first = located(self.run.first_model(Path(self.config.model.path)))
            return Weights("first model", first) if first.is_dir() else None
        saved = training.of_step(self.run.checkpoints, part.updated)
        return None if saved is None else Weights(f"step {saved.step}", saved.path, saved)

    def load(self, weights: Weights) -> Tree:
        """The parameters as rollouts had them: LoRA's factors stay beside their weights."""
        if weights.saved is None:
            base = self.config.model.base
            model = load_model(weights.folder, dtype=self.dtype, mesh=self.mesh, base=base)
            cfg = replace(model.cfg, remat=self.cfg.remat, kernel=self.cfg.kernel)
            if cfg != self.cfg:
                raise ValueError(
                    f"{weights.folder}: is a model of another architecture than {self.run.path} "
                    "trains; give the weights that sampled its episodes"
                )
            return model.params
        params = computing_params(weights.saved, self.run, self.cfg, self.mesh)
        if self.config.model.lora is None:
            check_finite(params, spec_tree(self.cfg), where=weights.saved.path)
        return params

    def replay(
        self,
        part: EpisodesPart,
        params: Tree | None,
        *,
        tolerance: float,
        limit: int | None = None,
        advance: Callable[[int], None] = lambda more: None,
        version: int | None = None,
    ) -> PartReplay:
        """Replays the first `limit` records of a part, or all. Without `params` no
        log-probabilities are compared. `version` is that of `params`, if it is known."""
        result = PartReplay(part.name)
        replayer = self._replayer(part)
        with jax.set_mesh(self.mesh):
            for group in itertools.islice(self.archive.read(part.name), limit):
                self._replay_group(group, replayer, params, result, tolerance, version)
                advance(1)
        if limit is None:
            result.damaged = self.archive.count(part.name) - result.records
        return result

    def _replayer(self, part: EpisodesPart) -> Replayer:
        rules = self.config.rules
        if part.validation:
            rules = replace(rules, sampling=self.config.validation_sampling)
        if rules.sampling not in self._replayers:
            shapes = self.config.rollout_shapes(self.cfg.vision.window)
            self._replayers[rules.sampling] = Replayer(self.cfg, self.dialogue, shapes, rules)
        return self._replayers[rules.sampling]

    def _replay_group(
        self,
        group: Group,
        replayer: Replayer,
        params: Tree | None,
        result: PartReplay,
        tolerance: float,
        version: int | None,
    ) -> None:
        result.records += 1
        try:
            opening = self._open(group)
        except (Unusable, ValueError, OSError) as error:
            result.unreadable.append(f"{result.name}, record {group.record.id}: {error}")
            return
        compute = partial(self._rewards, group.rewards, result)
        replays = replayer.replay(
            params, opening, group.trajectories, group.rewards, compute, version=version
        )
        if version is not None and params is not None:
            versions = [t for t in group.trajectories if t.versions]
            result.mixed += sum(not t.drawn_by(version) for t in versions)
        for replayed in replays:
            result.add(replayed, tolerance)

    def _open(self, group: Group) -> Opening:
        """The record's prompt. Some demonstrations have the prompt without the tool."""
        opening = self.dialogue.open(group.record)
        if self.config.stage == "sft" and self.config.without_tool and group.trajectories:
            plain = without_tool(self.dialogue).open(group.record)
            recorded = np.asarray(group.trajectories[0].ids)[: len(plain.ids)]
            if np.array_equal(recorded, plain.ids):
                return plain
        return opening

    def _rewards(
        self,
        before: Sequence[Rewards],
        result: PartReplay,
        trajectories: Sequence[Trajectory],
        record: Record,
    ) -> list[Rewards]:
        """The rewards by name. Those that cannot be computed again keep their recorded value."""
        settings = self.config.rewards
        records, proposals = {record.id: record}, self.config.proposals
        now = compute_rewards(trajectories, records, settings, self.judge, proposals=proposals)
        comparable = []
        for old, new in zip(before, now, strict=True):
            unjudged = _unjudged(old, new) if self.judge else False
            result.unjudged += unjudged
            unknown = [*self.own, *(["accuracy"] if unjudged else [])]
            kept = {name: old[name] for name in [*unknown, "total"] if unknown and name in old}
            comparable.append(new.parts | kept)
        return comparable


class NoVerdicts:
    """Stands for a judge whose cache is gone."""

    def verdicts(self, claims: Sequence[Claim]) -> list[Verdict]:
        fault = Fault("judge", "the cache of its verdicts is not here", "no verdict")
        return [Verdict(None, fault, judged=True) for _ in claims]


def _unjudged(old: Rewards, new: EpisodeReward) -> bool:
    """Whether a judge that was asked had no verdict, then or now."""
    return new.asked and (old.get("accuracy") is None or new.accuracy is None)
