"""The reward of an episode and its parts.

    Stage I:  0.8 acc + 0.2 format + 1.2 tool [acc > 0]
    Stage II: the same + g r_geo
    CropVLM:  a acc + l likelihood + v valid

Stage I is `Rewards()`, Stage II `Rewards(grounding=1.0)`. In CropVLM, `acc` and `likelihood` are a
target model's with a crop network's box, and `valid` is 1 for a box that could be cut. Records
without targets have no r_geo, so both kinds may be mixed. An episode of which any part is unknown
is masked: its total is None, never a number, and its faults say why. That includes a user's own
reward that raises, or returns None or a value that is not a finite number, and a target that could
not be asked. A target that nobody asked for an answer leaves the accuracy unknown, which masks an
episode only if its total needs it.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.format import format_reward, tool_reward
from lfpc_jax.rewards.grounding import Grounded, Grounding, ground
from lfpc_jax.rewards.judge import Judges
from lfpc_jax.rewards.verdict import Fault, Verdict
from lfpc_jax.trajectory import Record, Trajectory


@dataclass(frozen=True)
class OwnReward:
    """A user's own reward: any function of an episode and its record, and its weight. The function
    returns None if it cannot tell."""

    name: str
    weight: float
    function: Callable[[Trajectory, Record], float | None]


_TAKEN = {"judge", "record", "total", "masked", "unjudged", "undecided", "flat"} | {
    part.name for part in fields(Grounded)
}
"""Names of metrics and parts that a user's own reward may not have, beside those with a weight."""


@dataclass(frozen=True)
class Rewards:
    """The weights of the parts, and how boxes are compared.

    `grounding` is g. `grounding_needs_answer` gives r_geo to right answers only. `likelihood` and
    `valid` are for a crop network's boxes alone, `format` and `tool` for all other episodes.
    """

    accuracy: float = 0.8
    format: float = 0.2
    tool: float = 1.2
    grounding: float = 0.0
    likelihood: float = 0.0
    valid: float = 0.0
    boxes: Grounding = field(default_factory=Grounding)
    grounding_needs_answer: bool = False
    own: tuple[OwnReward, ...] = ()

    def __post_init__(self) -> None:
        weighted = ("accuracy", "format", "tool", "grounding", "likelihood", "valid")
        weights = {name: getattr(self, name) for name in weighted}
        names = [reward.name for reward in self.own]
        for name in names:
            if not name or name in weights or name in _TAKEN or names.count(name) > 1:
                raise ValueError(f"rewards: a reward named {name!r} is taken or empty; rename it")
        weights |= {reward.name: reward.weight for reward in self.own}
        for name, weight in weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"rewards: the weight of {name} is {weight}; give a finite number")


@dataclass(frozen=True)
class EpisodeReward:
    """The parts of one episode's reward, unweighted, and their weighted total.

    A part is None if a fault kept it from being known. `boxes` is also None without targets. A crop
    network's episode has no `format` and `tool`; it has `proposed`, which are `likelihood` and
    `valid` if they have a weight. `asked` is false if its target was not asked for an answer; then
    the accuracy is None without a fault. `judged` says that a judge was asked, `undecided` that
    only a judge could tell and none was there.
    """

    record: str
    rollout: int
    total: float | None
    accuracy: float | None
    format: float | None
    tool: float | None
    boxes: Grounded | None
    own: dict[str, float | None]
    judged: bool
    undecided: bool
    faults: tuple[Fault, ...]
    proposed: dict[str, float | None] = field(default_factory=dict)
    asked: bool = True

    @property
    def masked(self) -> bool:
        return self.total is None

    @property
    def parts(self) -> dict[str, float | None]:
        """Every part by its name, for metrics and archives."""
        boxes = {} if self.boxes is None else asdict(self.boxes)
        plain = {name: getattr(self, name) for name in ("total", "accuracy", "format", "tool")}
        if self.format is self.tool is None:
            plain = {"total": self.total, "accuracy": self.accuracy} | self.proposed
        return plain | boxes | self.own


def compute_rewards(
    trajectories: Sequence[Trajectory],
    records: Mapping[str, Record],
    settings: Rewards,
    judge: Judges | None = None,
    *,
    proposals: bool = False,
) -> list[EpisodeReward]:
    """The reward of each trajectory, in order. `records` maps the ids of their records to these.
    With `proposals` the episodes are a crop network's, and one without an answer was not asked for
    one."""
    for trajectory in trajectories:
        if trajectory.record not in records:
            raise ValueError(
                f"trajectory of record {trajectory.record!r}, rollout {trajectory.rollout}: that "
                f"record is not among the {len(records)} given; pass the record of every trajectory"
            )
    asked = [
        not trajectory.unanswered and not (proposals and trajectory.answer is None)
        for trajectory in trajectories
    ]
    pairs = [
        (trajectory.answer, records[trajectory.record])
        for trajectory in itertools.compress(trajectories, asked)
    ]
    verdicts = iter(grade(pairs, judge))
    return [
        _compute(
            trajectory,
            records[trajectory.record],
            next(verdicts) if graded else None,
            settings,
            proposals=proposals,
        )
        for trajectory, graded in zip(trajectories, asked, strict=True)
    ]


def _compute(
    trajectory: Trajectory,
    record: Record,
    verdict: Verdict | None,
    settings: Rewards,
    *,
    proposals: bool,
) -> EpisodeReward:
    accuracy, faults = _accuracy(trajectory, verdict, settings)
    boxes = None
    try:
        boxes = ground(trajectory, record, settings.boxes)
    except ValueError as error:
        faults.append(Fault("record", str(error)))
    called = {reward.name: _call(reward, trajectory, record) for reward in settings.own}
    known = {name: value for name, value in called.items() if not isinstance(value, Fault)}
    faults += [value for value in called.values() if isinstance(value, Fault)]
    form = tool = None
    proposed: dict[str, float | None] = {}
    if proposals:
        proposed = _proposed(trajectory, settings, faults)
    else:
        form, tool = format_reward(trajectory), tool_reward(trajectory)
    total = None
    if not faults:
        right = accuracy or 0.0
        total = settings.accuracy * right + settings.format * (form or 0.0)
        total += settings.tool * (tool or 0.0) * (right > 0)
        total += sum(getattr(settings, name) * (value or 0.0) for name, value in proposed.items())
        if boxes and (right > 0 or not settings.grounding_needs_answer):
            total += settings.grounding * boxes.r_geo
        total += sum(reward.weight * known[reward.name] for reward in settings.own)
        if not math.isfinite(total):
            faults.append(_fault(trajectory, "total", f"the weighted sum is {total}", "not finite"))
            total = None
    return EpisodeReward(
        record=record.id,
        rollout=trajectory.rollout,
        total=total,
        accuracy=accuracy,
        format=form,
        tool=tool,
        boxes=boxes,
        own={name: known.get(name) for name in called},
        judged=verdict is not None and verdict.judged,
        undecided=verdict is not None and verdict.undecided,
        faults=tuple(faults),
        proposed=proposed,
        asked=verdict is not None or bool(trajectory.unanswered),
    )


def _accuracy(
    trajectory: Trajectory, verdict: Verdict | None, settings: Rewards
) -> tuple[float | None, list[Fault]]:
    """The accuracy, and why it is not known. There is no verdict on an episode whose target could
    not be asked, or was not."""
    if verdict is not None:
        return verdict.accuracy, [verdict.fault] if verdict.fault else []
    if trajectory.unanswered:
        cause, _, _ = trajectory.unanswered.partition(":")
        return None, [_fault(trajectory, "target", trajectory.unanswered, cause)]
    if settings.accuracy or settings.grounding_needs_answer:
        return None, [_fault(trajectory, "target", "it was not asked for an answer", "not asked")]
    return None, []


def _proposed(
    trajectory: Trajectory, settings: Rewards, faults: list[Fault]
) -> dict[str, float | None]:
    """The weighted parts that only a crop network's episode has; adds to `faults`."""
    parts: dict[str, float | None] = {}
    if settings.likelihood:
        value = trajectory.likelihood
        if value is None and not trajectory.unanswered:
            faults.append(_fault(trajectory, "likelihood", "it was not computed", "missing"))
        elif value is not None and not math.isfinite(value):
            faults.append(_fault(trajectory, "likelihood", f"it is {value}", "not finite"))
            value = None
        parts["likelihood"] = value
    if settings.valid:
        parts["valid"] = tool_reward(trajectory)  # 1 for a crop
    return parts


def _fault(trajectory: Trajectory, part: str, reason: str, cause: str = "") -> Fault:
    where = f"record {trajectory.record!r}, rollout {trajectory.rollout}"
    return Fault(part, f"{where}: {reason}", cause)


def _call(reward: OwnReward, trajectory: Trajectory, record: Record) -> float | Fault:
    """The value of a user's function, or the fault that it raised or returned."""
    where = f"record {record.id!r}, rollout {trajectory.rollout}"
    try:
        returned = reward.function(trajectory, record)
        if returned is None:
            return Fault(reward.name, f"{where}: returned None: it cannot tell", "returned None")
        value = float(returned)
    except Exception as error:
        cause = type(error).__name__
        return Fault(reward.name, f"{where}: {cause}: {error}", cause)
    if not math.isfinite(value):
        why = f"{where}: returned {value}, which is not a finite number"
        return Fault(reward.name, why, "not finite")
    return value
