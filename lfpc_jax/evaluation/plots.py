"""Results as one picture: accuracies with their intervals, and what altering the crops changes; and
several arms side by side."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfpc_jax.evaluation.arms import MEASURES, SeededEstimate
from lfpc_jax.evaluation.conditions import DIRECT, TOOL, factor_of, is_altered, ordered
from lfpc_jax.evaluation.published import COLUMNS, OVERALL
from lfpc_jax.evaluation.results import Results
from lfpc_jax.evaluation.sheet import each

_BLUE, _GREY, _RED, _GREEN = "#3a5fcd", "#9aa3ad", "#c8412f", "#2f8f4e"


def plot(results: Results, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [row for row in each(results) if not all(map(is_altered, row[3]["conditions"]))]
    changes = [
        (f"{name}, {tokens}: {diagnosis['test']}", diagnosis["found"]["change"])
        for name, tokens, _, budget in scored
        for diagnosis in budget["diagnostics"]
        if diagnosis["found"]
    ]
    bars = sum(sum(not is_altered(n) for n in budget["conditions"]) for *_, budget in scored)
    heights = [0.9 + 0.31 * max(2 * len(scored), bars, 2), 0.9 + 0.3 * len(changes)]
    rows = 2 if changes else 1
    figure = Figure(figsize=(8, sum(heights[:rows])), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False, height_ratios=heights[:rows])[:, 0]
    _accuracies(axes[0], scored)
    if changes:
        _changes(axes[1], changes)
    figure.savefig(file, dpi=140)


def plot_expansion(results: Results, file: Path) -> bool:
    """Draws the accuracy and the size of true boxes over the factor by which their area is scaled,
    with lines for no crop and for predicted boxes. Returns whether there was anything to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    studied = [row for row in each(results) if len(_factors(row[3])) > 1]
    if not studied:
        return False
    figure = Figure(figsize=(9, 0.3 + 3.2 * len(studied)), layout="constrained")
    FigureCanvasAgg(figure)
    for (left, right), (name, tokens, _, budget) in zip(
        figure.subplots(len(studied), 2, squeeze=False), studied
    ):
        accuracies = {
            condition: value["accuracy"].get("overall")
            for condition, value in budget["conditions"].items()
        }
        sizes = {condition: value["size"] for condition, value in budget["boxes"].items()}
        for axes, values, what in (
            (left, accuracies, "accuracy, %"),
            (right, sizes, "size of the box, % of the image"),
        ):
            _expanded(axes, _factors(budget), values)
            axes.set_ylabel(what)
            axes.set_title(f"{name}, {tokens} tokens", loc="left", fontsize=10)
    figure.savefig(file, dpi=140)
    return True


def _factors(budget: Mapping[str, Any]) -> dict[str, float]:
    factors = {name: factor_of(name) for name in ordered(budget["conditions"])}
    return {name: factor for name, factor in factors.items() if factor is not None}


def _expanded(
    axes: Any, factors: Mapping[str, float], values: Mapping[str, dict[str, float] | None]
) -> None:
    """A value with its interval over the factors, and lines where no factor applies."""
    known = [(factor, value) for name, factor in factors.items() if (value := values.get(name))]
    across = [factor for factor, _ in known]
    centre, low, high = (
        [100 * value[key] for _, value in known] for key in ("value", "low", "high")
    )
    axes.plot(across, centre, "o-", color=_BLUE, ms=4, label="true boxes")
    axes.fill_between(across, low, high, color=_BLUE, alpha=0.2, lw=0)
    for name, label, colour in ((TOOL, "predicted", _GREEN), (DIRECT, "no crop", _GREY)):
        if value := values.get(name):
            axes.axhline(100 * value["value"], color=colour, lw=1.5, label=label)
            axes.axhspan(100 * value["low"], 100 * value["high"], color=colour, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(across, [f"{factor:g}" for factor in across])
    axes.minorticks_off()
    axes.set_xlabel("area, times that of the true box")
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)


def plot_arms(
    measured: Mapping[str, Mapping[str, Mapping[str, SeededEstimate | None]]], file: Path
) -> None:
    """Bars over all seeds with their intervals, a dot for each seed; `measured` is by title, arm
    and measure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.4 + 2.8 * len(measured)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, arms) in zip(
        figure.subplots(len(measured), 1, squeeze=False)[:, 0], measured.items()
    ):
        measures = [
            name for name in next(iter(arms.values())) if any(a[name] for a in arms.values())
        ]
        width = 0.8 / len(arms)
        for number, (arm, row) in enumerate(arms.items()):
            for place, measure in enumerate(measures):
                if (value := row[measure]) is not None:
                    x = place + (number - (len(arms) - 1) / 2) * width
                    _bar(axes, x, width, value, f"C{number}", _once(axes, arm))
        told = ["\n".join((name, *textwrap.wrap(MEASURES[name], 18))) for name in measures]
        axes.set_xticks(range(len(measures)), told, fontsize=8)
        axes.axhline(0, color="#20242a", lw=0.8)
        axes.set_ylabel("%")
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        _plain(axes)
    figure.savefig(file, dpi=140)


def _bar(
    axes: Any, x: float, width: float, measured: SeededEstimate, colour: str, label: str | None
) -> None:
    centre, low, high = (
        100 * value
        for value in (measured.estimate.value, measured.estimate.low, measured.estimate.high)
    )
    axes.bar(x, centre, 0.92 * width, color=colour, label=label)
    axes.errorbar(
        x, centre, yerr=[[centre - low], [high - centre]], color="#20242a", capsize=2, lw=1
    )
    if len(measured.seeds) > 1:
        axes.plot(
            [x] * len(measured.seeds), [100 * v for v in measured.seeds], "o", color="#20242a", ms=2
        )


def _accuracies(axes: Any, scored: list[Any]) -> None:
    asked = {name for *_, budget in scored for name in budget["conditions"]}
    modes = [name for name in ordered({TOOL, DIRECT, *asked}) if not is_altered(name)]
    height = 0.64 / len(modes)
    for place, (_, tokens, about, budget) in enumerate(scored):
        for number, mode in enumerate(modes):
            colour = {TOOL: _BLUE, DIRECT: _GREY}.get(mode, f"C{number}")
            condition = budget["conditions"].get(mode, {})
            value = condition.get("accuracy", {}).get("overall")
            if value is None:
                continue
            centre = 100 * value["value"]
            low, high = centre - 100 * value["low"], 100 * value["high"] - centre
            y = place + (number - (len(modes) - 1) / 2) * height
            axes.barh(y, centre, height=0.94 * height, color=colour, label=_once(axes, mode))
            axes.errorbar(centre, y, xerr=[[low], [high]], color="#20242a", capsize=3, lw=1)
        if about["column"]:
            rows = [figures for budget, figures in OVERALL.values() if str(budget) == tokens]
            if rows:
                best = rows[-1][COLUMNS.index(about["column"])]
                axes.plot(
                    [best, best], [place - 0.36, place + 0.36], color=_RED, lw=2,
                    label=_once(axes, "LFPC, paper"),
                )  # fmt: skip
    axes.set_yticks(range(len(scored)), [f"{name}, {tokens}" for name, tokens, _, _ in scored])
    axes.set_ylim(len(scored) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %")
    axes.set_title("Accuracy by benchmark and tokens of the shown image", loc="left", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    _plain(axes)


def _changes(axes: Any, changes: list[tuple[str, dict[str, float]]]) -> None:
    for place, (_, change) in enumerate(changes):
        centre = 100 * change["value"]
        low, high = 100 * change["low"], 100 * change["high"]
        colour = _GREY if low <= 0 <= high else _GREEN if centre > 0 else _RED
        axes.plot([low, high], [place, place], color=colour, lw=2)
        axes.plot([centre], [place], "o", color=colour, ms=5)
    axes.axvline(0, color="#20242a", lw=0.8)
    axes.set_yticks(range(len(changes)), [name for name, _ in changes], fontsize=8)
    axes.set_ylim(len(changes) - 0.4, -0.6)
    axes.set_xlabel("change of accuracy, points (95% interval)")
    axes.set_title("What the tool and altered crops change", loc="left", fontsize=10)
    _plain(axes)


def _once(axes: Any, label: str) -> str | None:
    return None if label in axes.get_legend_handles_labels()[1] else label


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
