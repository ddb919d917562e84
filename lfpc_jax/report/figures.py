"""Which metrics are drawn together, and under which titles, on the page and in the plots.

The first two figures are the paper's Figures 5 and 6. Metrics that no panel names are drawn in the
figure of their group or, without one, under "Other". docs/metrics.md defines every metric.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One plot of one metric."""

    name: str
    title: str


@dataclass(frozen=True)
class Figure:
    """`key` names the figure's file. Metrics of `groups` that no panel names are drawn in it as
    well."""

    key: str
    title: str
    note: str
    panels: tuple[Panel, ...]
    groups: tuple[str, ...] = ()


_IOU = Panel("crop/iou", "Crop IoU")
_OVERLAP = Panel("crop/overlap", "Crop overlap with the target")

FIGURES = (
    Figure(
        "rewards",
        "Rewards and tool use",
        "as in the paper's Figure 5",
        (
            Panel("reward/total", "Reward"),
            Panel("reward/accuracy", "Accuracy"),
            Panel("reward/masked", "Episodes without a reward"),
            Panel("reward/format", "Format"),
            Panel("reward/tool", "Tool"),
            Panel("reward/r_geo", "Grounding"),
            Panel("reward/r_iou", "Grounding: conditional IoU"),
            Panel("reward/r_l1", "Grounding: corners"),
            Panel("crop/count", "Crops an episode"),
            Panel("crop/rate", "Episodes with a crop"),
            _IOU,
            _OVERLAP,
        ),
        ("reward", "masked"),
    ),
    Figure(
        "crops",
        "How the crops fit",
        "as in the paper's Figure 6",
        (
            _IOU,
            _OVERLAP,
            Panel("crop/iou_cropped", "Crop IoU, of episodes with a crop"),
            Panel("crop/overlap_cropped", "Crop overlap, of episodes with a crop"),
            Panel("crop/area_ratio", "Box area, share of the image"),
            Panel("crop/tokens", "Visual tokens of a crop"),
            Panel("crop/invalid", "Calls refused"),
        ),
        ("crop",),
    ),
    Figure(
        "validation",
        "Validation",
        "on records that are never trained on",
        (
            Panel("validation/accuracy", "Accuracy"),
            Panel("validation/blank_accuracy", "Accuracy with blank crops"),
            Panel("validation/masked", "Answers not judged"),
            Panel("validation/gap", "What the crops are worth"),
            Panel("validation/iou", "Crop IoU"),
            Panel("validation/overlap", "Crop overlap"),
            Panel("validation/iou_cropped", "Crop IoU, of episodes with a crop"),
            Panel("validation/overlap_cropped", "Crop overlap, of episodes with a crop"),
            Panel("validation/area_ratio", "Box area, share of the image"),
        ),
        ("validation",),
    ),
    Figure(
        "episodes",
        "Episodes",
        "how long they are, how they end, and why calls were refused",
        (
            Panel("episode/turns", "Turns"),
            Panel("episode/tokens", "Sampled tokens"),
        ),
        ("episode", "end", "fault"),
    ),
    Figure(
        "update",
        "Update",
        "",
        (
            Panel("update/loss", "Loss"),
            Panel("update/gradient_norm", "Gradient norm, before it is clipped"),
            Panel("update/clipped_low", "Tokens clipped from below"),
            Panel("update/clipped_high", "Tokens clipped from above"),
            Panel("update/clipped_dual", "Tokens at the bound of the ratio"),
            Panel("update/change_kl", "KL, of the policy before the step"),
            Panel("update/sampler_apart", "Sampler and trainer apart"),
            Panel("update/reference_kl", "KL, to the reference"),
            Panel("update/entropy", "Entropy"),
            Panel("update/refused", "Updates that were not finite"),
            Panel("update/empty", "Mini-batches with nothing to learn from"),
            Panel("update/fill", "Tokens that lie in rows, of those computed"),
            Panel("update/windows_fill", "Windows with pictures, of those computed"),
            Panel("update/learning_rate", "Learning rate"),
        ),
        ("update",),
    ),
    Figure(
        "rollouts",
        "Where rollouts spend their time",
        "seconds of a step's rollouts, in the first process",
        (
            Panel("rollout/decode", "Decoding"),
            Panel("rollout/encode", "Pictures and crops encoded"),
            Panel("rollout/prefill", "Prompts computed"),
            Panel("rollout/extend", "Crops and replies written"),
            Panel("rollout/waiting", "All rows wait for prompts or crops"),
            Panel("rollout/host", "The host: texts, boxes, bookkeeping"),
            Panel("rollout/occupancy", "Slots that sample, of all at every step"),
        ),
        ("rollout",),
    ),
    Figure("time", "Time", "seconds by phase", (), ("time", "speed")),
)
OTHER = Figure("other", "Other", "metrics of other names", ())


def arrange(names: Iterable[str]) -> list[Figure]:
    """The figures with the panels that some run has. Figures without panels are left out."""
    known = dict.fromkeys(names)
    placed: set[str] = set()
    figures = []
    for figure in FIGURES:
        panels = [panel for panel in figure.panels if panel.name in known]
        listed = {panel.name for other in FIGURES for panel in other.panels}
        for name in sorted(known):
            group, _, rest = name.partition("/")
            if name not in listed and rest and group in figure.groups:
                panels.append(Panel(name, _words(group, rest)))
        placed |= {panel.name for panel in panels}
        if panels:
            figures.append(Figure(figure.key, figure.title, figure.note, tuple(panels)))
    others = tuple(Panel(name, name) for name in sorted(known) if name not in placed)
    return [*figures, Figure(OTHER.key, OTHER.title, OTHER.note, others)] if others else figures


_PREFIXES = {"end": "Ended: ", "fault": "Refused: "}


def _words(group: str, name: str) -> str:
    text = name.replace("_", " ")
    return _PREFIXES[group] + text if group in _PREFIXES else text[:1].upper() + text[1:]
