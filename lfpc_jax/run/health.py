"""Checks that tell when a training run is in trouble.

The crop alarm goes off when a policy no longer crops, or when its crops have become useless. Two
other checks prevent training on a step: if most of its rewards are unknown, or if its tokens were
sampled from another policy than the trainer's.
"""

import logging
from collections.abc import Mapping, Sequence

from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.run.config import Health

log = logging.getLogger(__name__)


class CropAlarm:
    """Called after every step. `count` is how many steps in a row were outside a limit."""

    def __init__(self, limits: Health) -> None:
        self.limits, self.count = limits, 0

    def __call__(self, step: int, values: Mapping[str, float]) -> str:
        """What is wrong, if it has been wrong for `patience` steps; else an empty string."""
        limits = self.limits
        fault = ""
        if values.get("crop/rate", 1.0) < limits.least_tool_rate:
            fault = f"only {values['crop/rate']:.1%} of the episodes have a crop"
        elif values.get("crop/invalid", 0.0) > limits.most_invalid:
            fault = f"{values['crop/invalid']:.1%} of the calls are refused"
        elif values.get("crop/area_ratio", 0.0) > limits.most_area:
            fault = f"crops cover {values['crop/area_ratio']:.1%} of their images"
        self.count = self.count + 1 if fault and step >= limits.from_step else 0
        if self.count < limits.patience:
            return ""
        log.warning("ALARM after step %d: %s, for %d steps now", step, fault, self.count)
        return fault


def too_many_masked(
    step: int, values: Mapping[str, float], limits: Health, faults: Sequence[Fault]
) -> str:
    """Why a step must not be trained on, if too many of its episodes have no reward; else an empty
    string. The episodes that have one are a biased sample: answers that only a judge can decide
    are missing, so accuracy looks high."""
    share = values.get("reward/masked", 0.0)
    if share <= limits.most_masked:
        return ""
    causes = []
    for part in dict.fromkeys(fault.part for fault in faults):
        reasons = "; ".join(fault.reason for fault in faults if fault.part == part)
        causes.append(f"{part} {values[f'masked/{part}']:.1%} ({reasons})")
    return (
        f"{share:.1%} of the episodes of step {step} have no reward, more than health.most_masked "
        f"{limits.most_masked}: {'; '.join(causes)}. The step is not trained on, and the state "
        "before it is saved: remove the cause and rerun the same command to resume, or raise "
        "health.most_masked"
    )


def too_far_apart(step: int, mean: float, limit: float, dtype: str) -> str:
    """Why a step is not trained on whose log-probabilities differ too much between sampler and
    trainer: its tokens were sampled from another policy than the trainer's."""
    return (
        f"the log-probabilities that sampler and trainer give the tokens of step {step} differ by "
        f"{mean:.3g} in the mean, more than health.most_apart {limit:g}, though both should have "
        f"the same weights and differ only by the rounding of {dtype}. Either the sampler's "
        "weights are not the trainer's, or one of the two computes something else: try "
        "rollout.tensor 1 (how weights reach the rollouts), model.kernel xla (attention) and "
        "another machine (memory), and report what helped. The step is not trained on, and the "
        "state before it is saved: rerun the same command to repeat it. If it is rounding, raise "
        "health.most_apart; inf never stops"
    )
