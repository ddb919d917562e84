"""The watch over crops: whether a policy has stopped to look, or looks for show. And over what
feeds the updates: whether most of a step's rewards are unknown, or its tokens another policy's.
"""

import logging
from collections.abc import Mapping, Sequence

from lfpc_jax.rewards.verdict import Fault
from lfpc_jax.run.config import Health

log = logging.getLogger(__name__)


class CropAlarm:
    """Called after every step. `count` is of steps in a row outside a limit."""

    def __init__(self, limits: Health) -> None:
        self.limits, self.count = limits, 0

    def __call__(self, step: int, values: Mapping[str, float]) -> str:
        """What is wrong, once it has been so for long enough; else nothing."""
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
    """Why not to train on this step, whose episodes mostly have no reward; else nothing. Those that
    have one are no fair sample: what a judge alone can tell is missing, so accuracy looks high."""
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
    """Why a step is not trained on whose tokens were drawn from another policy than the trainer's,
    as far as their log-probabilities tell."""
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
