"""Tells when a training run is in trouble.

The alarm over crops says that a policy no longer crops, or that its crops have become useless. Two
checks keep a step from being trained on: one if most of its rewards are unknown, one if its tokens
were sampled from another policy than the trainer's.
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
        """The alarm, if a limit was exceeded for `patience` steps in a row; otherwise an empty
        string."""
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
    """Why a step must not be trained on because too many of its episodes have no reward; empty if
    it may be. The episodes with a reward are not a fair sample: answers that only a judge can
    decide are missing, so accuracy looks high."""
    share = values.get("reward/masked", 0.0)
    if share <= limits.most_masked:
        return ""
    causes = []
    for part in dict.fromkeys(fault.part for fault in faults):
        reasons = "; ".join(fault.reason for fault in faults if fault.part == part)
        causes.append(f"{part} {values[f'masked/{part}']:.1%} ({reasons})")
    return (
        f"{share:.1%} of the episodes of step {step} have no reward, more than health.most_masked "
        f"{limits.most_masked}: {'; '.join(causes)}. The step is not trained on, and what the ones "
        "before it came to is saved: mend that and give the same command again, or raise "
        "health.most_masked"
    )


def too_far_apart(step: int, mean: float, limit: float, dtype: str) -> str:
    """Why a step must not be trained on because, by their log-probabilities, its tokens were
    sampled from another policy than the trainer's; empty if it may be."""
    return (
        f"the log-probabilities of step {step}'s tokens by sampler and by trainer lie {mean:.3g} "
        f"apart in the mean, more than health.most_apart {limit:g}, though both should have the "
        f"same weights and only {dtype}'s rounding should tell them apart. Either the weights that "
        "were sampled from are not the trainer's, or one of them computes something else: see "
        "whether it goes away with rollout.tensor 1 (the weights' way to the rollouts), with "
        "model.kernel xla (attention), or on another machine (memory), and report what helped. The "
        "step is not trained on, and what the ones before it came to is saved: the same command "
        "repeats it. If it is rounding, raise health.most_apart; inf never stops"
    )
