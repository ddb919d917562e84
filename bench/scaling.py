"""The tables and the plot of docs/scaling.md, from the files that `launch/plan.py --json` wrote.

    python bench/scaling.py PLAN.json ... [--weak PLAN.json ... --plot docs/scaling.png]

The plans after `--weak` are of one update on more and more chips, with equal work for each chip.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="*", type=Path)
    parser.add_argument("--weak", nargs="*", type=Path, default=[])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    for line in memory(args.plans):
        print(line)
    print()
    for line in work(args.plans):
        print(line)
    if args.weak:
        print()
        points = [weak(path) for path in args.weak]
        for line in weak_table(points):
            print(line)
        if args.plot:
            draw(points, args.plot)


def memory(paths: Sequence[Path]) -> Iterator[str]:
    """A row a program that takes the most of its phase: GiB a chip by kind."""
    names = ("parameters", "moments", "cache", "inputs", "activations", "others", "all", "of")
    yield "| run | program | " + " | ".join(names) + " |"
    yield "|---|---|" + "---:|" * 8
    for path in paths:
        for row in json.loads(path.read_text())["programs"]:
            if row["program"] in ("encode", "prefill", "place", "score"):
                continue
            kinds = [row["kinds"].get(kind) for kind in names[:5]]
            sizes = [*kinds, row["beside"], row["bytes_per_chip"], row["hbm_bytes"]]
            cells = (f"{size / GIB:.2f}" if size else "" for size in sizes)
            yield f"| {path.stem} | {row['program']} | " + " | ".join(cells) + " |"


def work(paths: Sequence[Path]) -> Iterator[str]:
    """An update's call on a chip, and a step."""
    names = ("chips", "TFLOP an update", "GB moved", "GB sent", "bound", "rollout s", "update s",
             "chip-hours", "compiled in")  # fmt: skip
    yield "| run | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for path in paths:
        plan = json.loads(path.read_text())
        (run,), update = plan["runs"], _update(plan)
        cells = (
            run["chips"],
            f"{update['load']['flops'] / 1e12:,.0f}",
            f"{update['load']['bytes'] / 1e9:,.0f}",
            f"{sum(update['compiled']['sent'].values()) / 1e9:,.0f}",
            update["estimate"]["bound"],
            f"{run['seconds_a_step']['rollout']:,.0f}",
            f"{run['seconds_a_step']['update']:,.0f}",
            f"{run['chip_hours']:,.0f}",
            f"{run['compile_seconds']:,.0f} s",
        )
        yield f"| {path.stem} | " + " | ".join(map(str, cells)) + " |"


def weak(path: Path) -> dict[str, Any]:
    """Seconds of one update on a chip, by what they go to."""
    from lfpc_jax.plan.slices import TPUS

    plan = json.loads(path.read_text())
    (run,), update = plan["runs"], _update(plan)
    chip = TPUS[run["topology"].split(":")[0]]
    sent = update["compiled"]["sent"]
    return {
        "topology": run["topology"],
        "chips": run["chips"],
        "GB": {kind: size / 1e9 for kind, size in sent.items()},
        "wire": sum(sent.values()) / chip.wire,
        "compute": update["load"]["flops"] / chip.flops,
        "memory": update["load"]["bytes"] / chip.hbm,
    }


def weak_table(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    kinds = sorted({kind for point in points for kind in point["GB"]})
    names = ("chips", *kinds, "GB sent", "s of network", "s of compute", "s of memory")
    yield "| slice | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for point in points:
        sizes = [point["GB"].get(kind, 0.0) for kind in kinds]
        seconds = [point[name] for name in ("wire", "compute", "memory")]
        cells = [f"{x:,.1f}" for x in (*sizes, sum(sizes), *seconds)]
        yield f"| {point['topology']} | {point['chips']} | " + " | ".join(cells) + " |"


def draw(points: Sequence[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chips = [point["chips"] for point in points]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(chips, [sum(point["GB"].values()) for point in points], "o-")
    left.set(title="sent by a chip in an update", ylabel="GB", ylim=(0, None))
    for name in ("compute", "memory", "wire"):
        right.plot(chips, [point[name] for point in points], "o-", label=name)
    right.set(title="least seconds of an update", yscale="log")
    right.legend(loc="center", bbox_to_anchor=(0.5, 0.75), ncols=3)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="chips, as much work on each", xticks=chips, xticklabels=chips)
        axes.margins(y=0.1)
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def _update(plan: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in plan["programs"] if row["program"] == "update")


if __name__ == "__main__":
    main()
