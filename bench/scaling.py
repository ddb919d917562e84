"""The tables and the plot of docs/scaling.md, from the files that `launch/plan.py --json` wrote.

    python bench/scaling.py PLAN.json ... [--before PLAN.json ...]
                                          [--weak PLAN.json ... --plot docs/scaling.png]
    python bench/scaling.py --rollouts PLAN.json ... --before PLAN.json ...
    python bench/scaling.py --moved PLAN.json ...

The plans after `--before` are of earlier code, named as those that they are compared with. Those
after `--weak` are of one update on more and more chips, with equal work for each chip. Those after
`--rollouts` need only `extend` and `decode`, and those after `--moved` a GPU's update.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

GIB = 2**30
_SMALL = ("encode", "prefill", "begin", "update pictures")
_SMALLER = ("score pictures", "score, ", "update pictures,")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", nargs="*", type=Path)
    parser.add_argument("--before", nargs="*", type=Path, default=[])
    parser.add_argument("--weak", nargs="*", type=Path, default=[])
    parser.add_argument("--rollouts", nargs="*", type=Path, default=[])
    parser.add_argument("--moved", nargs="*", type=Path, default=[])
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    if args.rollouts:
        for line in rollouts(args.before, args.rollouts):
            print(line)
        return
    if args.moved:
        for line in moved(args.moved):
            print(line)
        return
    for line in memory(args.plans):
        print(line)
    print()
    for line in work(args.plans):
        print(line)
    print()
    for line in layouts(args.plans):
        print(line)
    if args.before:
        print()
        for line in before_and_after(args.before, args.plans):
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
    kinds_of = ("parameters", "moments", "gradients", "prompts", "own", "inputs", "activations")
    names = (*kinds_of, "others", "all", "of")
    yield "| run | program | " + " | ".join(names) + " |"
    yield "|---|---|" + "---:|" * len(names)
    for path in paths:
        for row in json.loads(path.read_text())["programs"]:
            name = row["program"]
            if name in _SMALL or name.startswith(_SMALLER):
                continue
            kinds = [row["kinds"].get(kind) for kind in kinds_of]
            sizes = [*kinds, row["beside"], row["bytes_per_chip"], row["hbm_bytes"]]
            cells = (f"{size / GIB:.2f}" if size else "" for size in sizes)
            yield f"| {path.stem} | {row['program']} | " + " | ".join(cells) + " |"


def work(paths: Sequence[Path]) -> Iterator[str]:
    """An update on a chip, and a step. `between` is what of it goes between slices or hosts."""
    names = ("chips", "TFLOP an update", "GB moved", "GB sent", "between", "bound", "rollout s",
             "update s", "chip-hours", "compiled in")  # fmt: skip
    yield "| run | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for path in paths:
        plan = json.loads(path.read_text())
        [run] = plan["runs"]
        update = run["update"]
        learn = next(row for row in plan["programs"] if row["program"] == "update")
        cells = (
            run["chips"],
            f"{update['flops'] / 1e12:,.0f}",
            f"{update['bytes'] / 1e9:,.0f}",
            f"{sum(update['sent'].values()) / 1e9:,.0f}",
            f"{between / 1e9:,.1f}" if (between := sum(update["between"].values())) else "",
            learn["estimate"]["bound"],
            f"{run['seconds_a_step']['rollout']:,.0f}",
            f"{run['seconds_a_step']['update']:,.0f}",
            f"{run['chip_hours']:,.0f}",
            f"{run['compile_seconds']:,.0f} s",
        )
        yield f"| {path.stem} | " + " | ".join(map(str, cells)) + " |"


def layouts(paths: Sequence[Path]) -> Iterator[str]:
    """How a shard's rows and pictures are filled, and what is saved for the backward pass."""
    names = ("rows", "tokens a row", "fill", "pictures", "windows_fill", "prompts computed",
             "keys a token", "saved, text and tower")  # fmt: skip
    yield "| run | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * (len(names) - 1) + "---|"
    for path in paths:
        [run] = json.loads(path.read_text())["runs"]
        layout = run["layout"]
        cells = (
            layout["rows"],
            f"{layout['row_tokens']:,}",
            f"{layout['fill']:.2f}",
            layout["pictures"],
            f"{layout['windows_fill']:.2f}",
            f"{layout['prompts_computed']:.1f}",
            f"{layout['keys']:,.0f}",
            f"{run['remat']['text']}, {run['remat']['tower']}",
        )
        yield f"| {path.stem} | " + " | ".join(map(str, cells)) + " |"


def before_and_after(before: Sequence[Path], after: Sequence[Path]) -> Iterator[str]:
    """An update on a chip by two versions of the code. In plans of before 2026-11-30 an update is
    one program."""
    yield "| run | TFLOP before | now | of it | GB sent before | now |"
    yield "|---|" + "---:|" * 5
    now = {path.stem: json.loads(path.read_text()) for path in after}
    for path in before:
        row = next(row for row in json.loads(path.read_text())["programs"]
                   if row["program"] == "update")  # fmt: skip
        update = now[path.stem]["runs"][0]["update"]
        flops, sent = row["load"]["flops"], sum(row["compiled"]["sent"].values())
        cells = (
            f"{flops / 1e12:,.0f}",
            f"{update['flops'] / 1e12:,.0f}",
            f"{update['flops'] / flops:.2f}",
            f"{sent / 1e9:,.0f}",
            f"{sum(update['sent'].values()) / 1e9:,.0f}",
        )
        yield f"| {path.stem} | " + " | ".join(cells) + " |"


def rollouts(before: Sequence[Path], after: Sequence[Path]) -> Iterator[str]:
    """What a decode step reads, what `extend` sends and what rollouts hold on a chip, by two
    versions of the code; and how many slots a chip has room for."""
    names = ("weights, GB", "cache before", "now", "extend sends, GB before", "now",
             "cache, GiB before", "prompts", "own", "all before", "now", "of",
             "slots before", "now")  # fmt: skip
    yield "| run | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    earlier = {path.stem: _rollout(path) for path in before}
    for path in after:
        then, now = earlier[path.stem], _rollout(path)
        decode = now["decode"]
        weights = _weights(path.stem, decode["mesh"][-1])
        slots = json.loads(path.read_text())["runs"][0]["cache"]["slots_a_chip"]
        cells = [weights / 1e9]
        cells += [(each["decode"]["load"]["bytes"] - weights) / 1e9 for each in (then, now)]
        cells += [sum(each["extend"]["compiled"]["sent"].values()) / 1e9 for each in (then, now)]
        cells += [_cache(then["decode"]) / GIB]
        cells += [decode["kinds"][kind] / GIB for kind in ("prompts", "own")]
        cells += [max(row["bytes_per_chip"] for row in each.values()) / GIB for each in (then, now)]
        cells += [decode["hbm_bytes"] / GIB]
        fit = [min(_slots_that_fit(row, slots) for row in each.values()) for each in (then, now)]
        words = [f"{cell:.2f}" for cell in cells] + [str(number) for number in fit]
        yield f"| {path.stem} | " + " | ".join(words) + " |"


def _rollout(path: Path) -> dict[str, Any]:
    rows = json.loads(path.read_text())["programs"]
    return {row["program"]: row for row in rows if row["program"] in ("extend", "decode")}


def _weights(run: str, tensor: int) -> float:
    """The bytes of weights that a step reads on a chip. A run's name begins with its model."""
    from lfpc_jax.model.config import published
    from lfpc_jax.plan.counts import text_bytes

    return text_bytes(published(run.split()[0].lower())) / tensor


def _cache(row: dict[str, Any]) -> int:
    """Before 2026-11-30 it had one part."""
    return sum(row["kinds"].get(kind, 0) for kind in ("cache", "prompts", "own"))


def _slots_that_fit(row: dict[str, Any], slots: float) -> int:
    """If the cache grows with the slots and all else stays as it is with `slots` of them."""
    else_ = row["bytes_per_chip"] - _cache(row)
    return int((row["hbm_bytes"] - else_) / (_cache(row) / slots))


def moved(paths: Sequence[Path]) -> Iterator[str]:
    """What a GPU reads and writes in an update's programs, attention's share of it, and the largest
    array among the temporaries. Seconds are those of the chip's peaks."""
    from lfpc_jax.plan.traffic import usual

    names = ("TFLOP", "GB moved", "attention's", "temporaries, GiB", "the largest", "s of compute",
             "s of memory")  # fmt: skip
    yield "| run | program | " + " | ".join(names) + " |"
    yield "|---|---|" + "---:|" * len(names)
    for path in paths:
        plan = json.loads(path.read_text())
        chip = _peaks(plan["runs"][0]["topology"])
        for row in plan["programs"]:
            flops, by_scope = row["load"]["flops"], usual(row["compiled"]["moved"])
            moved = sum(by_scope.values())
            of_it = sum(size for name, size in by_scope.items() if name.startswith("attention"))
            cells = (
                f"{flops / 1e12:,.1f}",
                f"{moved / 1e9:,.0f}",
                f"{of_it / moved:.0%}",
                f"{row['compiled']['temporary_bytes'] / GIB:.1f}",
                next(iter(row["compiled"]["largest"]), ""),
                f"{flops / chip.flops:.2f}",
                f"{moved / chip.hbm:.2f}",
            )
            yield f"| {path.stem} | {row['program']} | " + " | ".join(cells) + " |"


def _peaks(topology: str) -> Any:
    from lfpc_jax.plan.chips import GPUS, TPUS

    kind = re.sub(r"^\d+x", "", topology.partition(":")[0])
    return (TPUS | GPUS)[kind]


def weak(path: Path) -> dict[str, Any]:
    """Seconds of one update on a chip, by what they go to."""
    plan = json.loads(path.read_text())
    [run] = plan["runs"]
    update = run["update"]
    slices, chip = re.match(r"(?:(\d+)x)?", run["topology"])[1], _peaks(run["topology"])
    sent, between = (sum(update[name].values()) for name in ("sent", "between"))
    return {
        "topology": run["topology"],
        "chips": run["chips"],
        "slices": int(slices or 1),
        "inside": (sent - between) / 1e9,
        "between": between / 1e9,
        "wire": (sent - between) / chip.wire,
        "network": between / chip.network,
        "compute": update["flops"] / chip.flops,
        "memory": update["bytes"] / chip.hbm,
    }


def weak_table(points: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = ("chips", "GB inside", "GB between", "s of wire", "s of network", "s of compute",
             "s of memory")  # fmt: skip
    yield "| topology | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for point in points:
        columns = ("inside", "between", "wire", "network", "compute", "memory")
        cells = [f"{point[name]:,.1f}" for name in columns]
        yield f"| {point['topology']} | {point['chips']} | " + " | ".join(cells) + " |"


def draw(points: Sequence[dict[str, Any]], file: Path) -> None:
    """What a chip sends, and the seconds of an update, for one slice and for several."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    chips = sorted({point["chips"] for point in points})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    marks = {1: "o-", 2: "s--", 4: "^:"}
    for slices, mark in marks.items():
        those = sorted(
            (point for point in points if point["slices"] == slices), key=lambda p: p["chips"]
        )
        if not those:
            continue
        ticks, name = [point["chips"] for point in those], f"{slices} slice{'s' * (slices > 1)}"
        left.plot(ticks, [p["inside"] for p in those], mark, color="C0", label=f"inside, {name}")
        if slices > 1:
            left.plot(ticks, [p["between"] for p in those], mark, color="C3",
                      label=f"between, {name}")  # fmt: skip
            right.plot(ticks, [p["network"] for p in those], mark, color="C3",
                       label=f"network, {name}")  # fmt: skip
        right.plot(ticks, [p["wire"] for p in those], mark, color="C0", label=f"wire, {name}")
        right.plot(ticks, [p["compute"] for p in those], mark, color="C2", label=f"compute, {name}")
    left.set(title="sent by a chip in an update", ylabel="GB", yscale="log")
    right.set(title="least seconds of an update", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="chips, as much work on each", xticks=chips, xticklabels=chips)
        axes.margins(y=0.15)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, ncols=2)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
