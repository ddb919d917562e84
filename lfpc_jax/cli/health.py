"""The watch over crops: whether a policy has stopped to look, or looks for show."""

import logging
from collections.abc import Mapping

from lfpc_jax.config import Health

log = logging.getLogger(__name__)


class Watch:
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
