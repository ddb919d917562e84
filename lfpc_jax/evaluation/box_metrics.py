"""How well the boxes that a target model was shown fit the true ones: one number a question, and
means with 95% intervals over samples.

    iou           IoU of the shown box and the true one
    recall        area(shown and true) / area(true): the share of the true box that is covered
    full_recall   whether the true box is covered whole
    size          area of the shown box / area of the image
    invalid       episodes without a box that could be cut

Of a record's several true boxes, `iou` and `recall` are means over them, and `full_recall` needs
all of them whole. Of nested boxes `recall` and `full_recall` take the smallest and `iou` the best.
A box that could not be cut counts as 0 in the first three and is left out of `size`. `iou_valid`
and `recall_valid` leave it out as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.intervals import mean
from lfpc_jax.evaluation.measures import Measures
from lfpc_jax.evaluation.scoring import over_samples

BOX_METRICS: dict[str, Callable[[Measures], float | None]] = {
    "iou": lambda episode: episode.iou,
    "recall": lambda episode: episode.overlap,
    "full_recall": lambda episode: episode.full,
    "size": lambda episode: fmean(episode.areas) if episode.areas else None,
    "invalid": lambda episode: float(not episode.areas),
    "iou_valid": lambda episode: episode.iou if episode.areas else None,
    "recall_valid": lambda episode: episode.overlap if episode.areas else None,
}


def box_metrics(answered: Sequence[Answered]) -> dict[str, Any]:
    """The estimate of each metric, None for one that no question has."""
    estimates = {}
    for name, value_of in BOX_METRICS.items():
        of_questions = [
            (question.outcome.sample, fmean(values))
            for question in answered
            if (values := [v for e in question.episodes if (v := value_of(e)) is not None])
        ]
        estimate = mean(over_samples(of_questions))
        estimates[name] = None if estimate is None else asdict(estimate)
    return estimates
