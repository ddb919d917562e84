"""Log-probabilities of drawn tokens that are no numbers stop a run."""

import numpy as np

from lfpc_jax.rollout.episode import Episode


class LogitsNotFinite(ValueError):
    """The model's own probability of a token that it drew is NaN or infinite. A weight, a key in
    the cache or an activation is not finite, and whatever the model writes is noise."""


def check_logprobs(policy: np.ndarray, episode: Episode) -> None:
    """Raises where a row's log-probabilities of the tokens that it drew are not finite, which they
    are if a logit of any allowed token is NaN or plus infinity."""
    sound = np.isfinite(policy)
    if not sound.all():
        drawn = sum(episode.sampled) + int(np.argmin(sound)) + 1
        raise LogitsNotFinite(
            f"record {episode.opening.record.id!r}, rollout {episode.rollout}, sampled token "
            f"{drawn}: the model's logits are not finite, so what it says is noise; go back to an "
            "earlier checkpoint with a lower learning rate, or compute in float32 (its own weights "
            "were finite when they were loaded)"
        )
