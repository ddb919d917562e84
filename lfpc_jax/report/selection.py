"""The chosen sizes of a resolution selection as a picture."""

from pathlib import Path

from lfpc_jax.infogap.summary import Summary


def plot(summary: Summary, file: Path) -> None:
    """How many records are shown at which longest side; the share that never diverged beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [f"{level}" for level in summary.levels]
    axes.bar(names, list(summary.levels.values()), color="#4363d8")
    axes.set_xlabel("steps of 1/sqrt(2) under the original")
    axes.set_ylabel("records")
    asked = f", {summary.asked:,} questions asked of {summary.scan:,}" if summary.asked else ""
    axes.set_title(
        f"{summary.records:,} records, {summary.never_diverged:.1%} never diverged{asked}",
        fontsize=10,
    )
    figure.savefig(file, dpi=120)
