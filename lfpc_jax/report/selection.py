"""The chosen sizes of a resolution selection as a picture."""

from pathlib import Path
from typing import Any

from lfpc_jax.infogap.summary import Summary

_ANSWERS = {"same": "#3cb44b", "different": "#e6194b", "undecided": "#f5c542",
            "unanswered": "#a9a9a9"}  # fmt: skip


def plot(summary: Summary, file: Path) -> None:
    """How many records are shown at which longest side; and, where a model was asked, how its
    answers at each level compare with the original's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if summary.answers else 1
    figure = Figure(figsize=(7, 3.6 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, squeeze=False)[:, 0]
    names = [f"{level}" for level in summary.levels]
    axes[0].bar(names, list(summary.levels.values()), color="#4363d8")
    axes[0].set_xlabel("steps of 1/sqrt(2) under the original")
    axes[0].set_ylabel("records")
    asked = f", {summary.asked:,} questions asked of {summary.scan:,}" if summary.asked else ""
    none = f", {summary.unanswered:,} unanswered" if summary.unanswered else ""
    axes[0].set_title(
        f"{summary.records:,} records, {summary.never_diverged:.1%} never diverged{none}{asked}",
        fontsize=10,
    )
    for panel in axes[1:]:
        _plot_answers(summary, panel)
    figure.savefig(file, dpi=120)


def _plot_answers(summary: Summary, panel: Any) -> None:
    names = [f"{level}" for level in summary.answers]
    height = [0] * len(names)
    for kind, colour in _ANSWERS.items():
        counts = [getattr(level, kind) for level in summary.answers.values()]
        panel.bar(names, counts, bottom=height, color=colour, label=kind)
        height = [under + count for under, count in zip(height, counts)]
    panel.set_xlabel("level asked")
    panel.set_ylabel("answers")
    panel.set_title("What they say beside the original's", fontsize=10)
    panel.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
