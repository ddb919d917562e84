"""Which metrics are drawn together, on the page and in the plots.

The first two figures are the paper's Figures 5 and 6. Metrics that no figure names are drawn in the
figure of their group or, without one, under "Other". A metric that never changes is not drawn: a
line of its figure gives its value. `words` has titles and units.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lfpc_jax.report import words
from lfpc_jax.report.metrics import Curve


@dataclass(frozen=True)
class Panel:
    """One plot of one metric: its title in words, the label of its vertical axis, and its meaning
    as docs/metrics.md has it."""

    name: str
    title: str
    unit: str
    meaning: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Figure:
    """`key` names the figure's file. `lines` say what is not drawn, and why."""

    key: str
    title: str
    note: str
    panels: tuple[Panel, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """The metrics of a figure in their order. Metrics of `groups` that no figure names follow."""

    key: str
    title: str
    note: str
    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


FIGURES = (
    Chosen(
        "rewards",
        "Rewards and tool use",
        "as in the paper's Figure 5",
        (
            "reward/total",
            "reward/accuracy",
            "reward/format",
            "reward/tool",
            "reward/r_geo",
            "reward/r_iou",
            "reward/r_l1",
            "crop/count",
            "crop/rate",
            "crop/iou",
            "crop/overlap",
            "reward/flat",
            "reward/undecided",
            "reward/masked",
        ),
        ("reward", "masked"),
    ),
    Chosen(
        "crops",
        "How the crops fit",
        "as in the paper's Figure 6",
        (
            "crop/iou",
            "crop/overlap",
            "crop/iou_cropped",
            "crop/overlap_cropped",
            "crop/area_ratio",
            "crop/tokens",
            "crop/invalid",
        ),
        ("crop",),
    ),
    Chosen(
        "validation",
        "Validation",
        "on records that are never trained on",
        (
            "validation/accuracy",
            "validation/blank_accuracy",
            "validation/gap",
            "validation/rate",
            "validation/iou",
            "validation/overlap",
            "validation/iou_cropped",
            "validation/overlap_cropped",
            "validation/area_ratio",
        ),
        ("validation",),
    ),
    Chosen(
        "episodes",
        "Episodes",
        "how long they are, how they end, and why calls were refused",
        ("episode/turns", "episode/tokens", "end/answered"),
        ("episode", "end", "fault"),
    ),
    Chosen("target", "Target model", "what was asked of it", (), ("target",)),
    Chosen(
        "update",
        "Updates",
        "of the policy, and whether sampler and trainer agree",
        (
            "update/loss",
            "update/gradient_norm",
            "update/clipped_low",
            "update/clipped_high",
            "update/clipped_dual",
            "update/change_kl",
            "update/sampler_apart",
            "update/sampler_kl",
            "update/staleness",
            "update/reference_kl",
            "update/entropy",
            "update/refused",
            "update/empty",
            "update/fill",
            "update/windows_fill",
            "update/learning_rate",
        ),
        ("update",),
    ),
    Chosen(
        "rollouts",
        "Where rollouts spend their time",
        "in the first process",
        (
            "rollout/decode",
            "rollout/encode",
            "rollout/prefill",
            "rollout/extend",
            "rollout/waiting",
            "rollout/host",
            "rollout/occupancy",
            "rollout/idle_ended",
            "rollout/idle_replies",
            "rollout/idle_free",
        ),
        ("rollout",),
    ),
    Chosen("time", "Data, time and speed", "", (), ("data", "time", "speed")),
)
OTHER = Chosen("other", "Other", "metrics of other names")
_TWINS = {"reward/tool": "crop/rate", "reward/iou": "crop/iou", "reward/overlap": "crop/overlap"}
"""Metrics that are drawn once where they have the same values."""


_Points = dict[str, dict[tuple[int, str], Curve]]
"""By metric: its curves by run and kind."""


def arrange(runs: Iterable[Sequence[Curve]]) -> list[Figure]:
    """The figures with the metrics that some of the runs has, given each run's curves. Figures
    without any are left out."""
    points: _Points = {}
    for number, curves in enumerate(runs):
        for curve in curves:
            points.setdefault(curve.name, {})[number, curve.kind] = curve
    listed = {name for chosen in FIGURES for name in chosen.names}
    placed: set[str] = set()
    figures = []
    for chosen in FIGURES:
        more = (
            name
            for name in sorted(points)
            if name not in listed and "/" in name and name.partition("/")[0] in chosen.groups
        )
        names = [*(name for name in chosen.names if name in points), *more]
        placed |= {*names}
        if names:
            figures.append(_figure(chosen, names, points))
    others = [name for name in sorted(points) if name not in placed]
    return [*figures, _figure(OTHER, others, points)] if others else figures


def _figure(chosen: Chosen, names: Sequence[str], points: _Points) -> Figure:
    steady = {name: _steady(points[name].values()) for name in names}
    twins = {
        name: twin
        for name, twin in _TWINS.items()
        if name in names and twin in names and steady[name] is None and _equal(points, name, twin)
    }
    drawn = [name for name in names if steady[name] is None and name not in twins]
    panels = tuple(
        Panel(name, words.title(name), words.unit(name), words.meaning(name)) for name in drawn
    )
    return Figure(
        chosen.key, chosen.title, chosen.note, panels, tuple(_lines(names, steady, twins))
    )


def _lines(
    names: Sequence[str], steady: dict[str, float | None], twins: dict[str, str]
) -> Iterator[str]:
    zeros = [words.title(name) for name in names if steady[name] == 0]
    others = [f"{words.title(name)} ({steady[name]:.4g})" for name in names if steady[name]]
    same = [f"{words.title(name)} ({words.title(twin)})" for name, twin in twins.items()]
    for said, titles in (
        ("Zero at every step", zeros),
        ("The same at every step", others),
        ("The same curve as another", same),
    ):
        if titles:
            yield f"{said}: {'; '.join(titles)}."


def _steady(curves: Iterable[Curve]) -> float | None:
    """The value of a metric that never changes in any run; None if it does. A single value is
    drawn, unless it is 0."""
    curves = list(curves)
    values = {value for curve in curves for value in curve.values}
    if len(values) > 1 or (values != {0.0} and all(len(curve.steps) < 2 for curve in curves)):
        return None
    [value] = values
    return value


def _equal(points: _Points, name: str, other: str) -> bool:
    return {key: (curve.steps, curve.values) for key, curve in points[name].items()} == {
        key: (curve.steps, curve.values) for key, curve in points[other].items()
    }
