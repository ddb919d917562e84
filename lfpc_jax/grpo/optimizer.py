"""AdamW behind clipping by global norm, and its schedule."""

import math
from dataclasses import dataclass
from typing import Literal

import optax


@dataclass(frozen=True)
class OptimizerSettings:
    """The learning rate rises over `warmup` updates. Then it stays constant, or falls linearly or
    as a cosine to `final` times its value at the end of the run. `weight_decay` is AdamW's, on all
    trained parameters. At a rate of 1e-6, verl's 0.01 shrinks a weight by 6e-6 of its value in 640
    updates, which bfloat16 cannot show. `moments` says whose memory Adam's two moments are in
    between the optimizer's steps, a device's or its host's."""

    learning_rate: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    final: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    moments: Literal["device", "host"] = "device"

    def __post_init__(self) -> None:
        rates = 0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf
        sound = rates and self.clip_norm > 0 and self.eps > 0
        if not sound or not 0 <= self.final <= 1 or self.warmup < 0:
            raise ValueError(
                f"{self}: learning_rate, clip_norm and eps must be positive, weight_decay and "
                "warmup not negative, final within 0..1; a rate is finite"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ValueError(
                f"{self}: b1 and b2 are shares of Adam's old moments; both must be at least 0 and "
                "below 1"
            )


def schedule(settings: OptimizerSettings, updates: int) -> optax.Schedule:
    """The learning rate of each of a run's `updates`."""
    top, last = settings.learning_rate, settings.final * settings.learning_rate
    rest = updates - settings.warmup
    if settings.schedule == "constant":
        after = optax.constant_schedule(top)
    elif settings.schedule == "linear":
        after = optax.linear_schedule(top, last, rest)
    else:
        after = optax.cosine_decay_schedule(top, rest, settings.final)
    if not settings.warmup:
        return after
    rise = optax.linear_schedule(top / settings.warmup, top, settings.warmup - 1)
    return optax.join_schedules([rise, after], [settings.warmup])


def make_optimizer(settings: OptimizerSettings, updates: int) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            schedule(settings, updates),
            settings.b1,
            settings.b2,
            settings.eps,
            weight_decay=settings.weight_decay,
        ),
    )
