"""The reward of an episode and its parts.

    Stage I:  0.8 acc + 0.2 format + 1.2 tool [acc > 0]
    Stage II: the same + g r_geo
    CropVLM:  a acc + l likelihood + v valid

Stage I is `Rewards()`, Stage II `Rewards(grounding=1.0)`. In CropVLM, `acc` and `likelihood` are a
target model's with a crop network's box, and `valid` is 1 for a box that could be cut. Records
without targets have no r_geo, so both kinds may be mixed. An episode of which any part is unknown
is masked: its total is None, never a number, and its faults say why. That includes a user's own
reward that raises, or returns None or a value that is not a finite number.
"""

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
    `valid` are for boxes that a target model is shown.
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

    A part is None if a fault kept it from being known. `boxes` is also None without targets.
    `judged` says that a judge was asked, `undecided` that only a judge could tell and none was
    there.
    """

    record: str
    rollout: int
    total: float | None
    accuracy: float | None
    format: float
    tool: float
    boxes: Grounded | None
    own: dict[str, float | None]
    judged: bool
    undecided: bool
    faults: tuple[Fault, ...]

    @property
    def masked(self) -> bool:
        return self.total is None

    @property
    def parts(self) -> dict[str, float | None]:
        """Every part by its name, for metrics and archives."""
        boxes = {} if self.boxes is None else asdict(self.boxes)
        plain = {name: getattr(self, name) for name in ("total", "accuracy", "format", "tool")}
        return plain | boxes | self.own


def compute_rewards(
    trajectories: Sequence[Trajectory],
    records: Mapping[str, Record],
    settings: Rewards,
    judge: Judges | None = None,
) -> list[EpisodeReward]:
    """The reward of each trajectory, in order. `records` maps the ids of their records to these."""
    for trajectory in trajectories:
        if trajectory.record not in records:
            raise ValueError(
                f"trajectory of record {trajectory.record!r}, rollout {trajectory.rollout}: that "
                f"record is not among the {len(records)} given; pass the record of every trajectory"
            )
    paired = [(trajectory, records[trajectory.record]) for trajectory in trajectories]
    verdicts = grade([(trajectory.answer, record) for trajectory, record in paired], judge)
    return [
        _compute(trajectory, record, verdict, settings)
        for (trajectory, record), verdict in zip(paired, verdicts)
    ]


def _compute(
    trajectory: Trajectory, record: Record, verdict: Verdict, settings: Rewards
) -> EpisodeReward:
    faults = [verdict.fault] if verdict.fault else []
    boxes = None
    try:
        boxes = ground(trajectory, record, settings.boxes)
    except ValueError as error:
        faults.append(Fault("record", str(error)))
    called = {reward.name: _call(reward, trajectory, record) for reward in settings.own}
    known = {name: value for name, value in called.items() if not isinstance(value, Fault)}
    faults += [value for value in called.values() if isinstance(value, Fault)]
    accuracy = verdict.accuracy
    form, tool = format_reward(trajectory), tool_reward(trajectory)
    total = None
    if accuracy is not None and not faults:
        total = settings.accuracy * accuracy + settings.format * form
        total += settings.tool * tool * (accuracy > 0)
        if boxes and (accuracy > 0 or not settings.grounding_needs_answer):
            total += settings.grounding * boxes.r_geo
        total += sum(reward.weight * known[reward.name] for reward in settings.own)
        if not math.isfinite(total):
            where = f"record {record.id!r}, rollout {trajectory.rollout}"
            faults.append(Fault("total", f"{where}: the weighted sum is {total}", "not finite"))
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
        judged=verdict.judged,
        undecided=verdict.undecided,
        faults=tuple(faults),
    )


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
