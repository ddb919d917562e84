"""The flags of `lfpc demo`."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from lfpc_jax.cli.flags import not_negative, positive


@dataclass(frozen=True)
class Usual:
    """A system's usual flags, the arms that it has, and what makes the models that it needs."""

    out: str
    arms: tuple[str, ...]
    warm: str
    known: tuple[str, ...]
    made_by: str


USUAL = {
    "lfpc": Usual(
        "runs/demo",
        ("baseline", "stage1", "stage2"),
        "configs/micro/warm",
        (
            "baseline",
            "stage1",
            "control",
            "stage2",
            "mixed",
            "hard",
            "random",
            "conditional_iou",
            "no_threshold",
            "ahead",
        ),
        "warmstart",
    ),
    "cropvlm": Usual(
        "runs/demo-cropvlm",
        ("tight", "outside_fitted", "sft", "by_accuracy", "by_likelihood"),
        "configs/micro/boxes",
        (
            "tight",
            "outside",
            "outside_fitted",
            "sft",
            "by_accuracy",
            "by_likelihood",
            "tight_by_accuracy",
            "tight_by_likelihood",
        ),
        "micro-target",
    ),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "The whole method in a small world, on two CPU cores: data, selection, "
            "both stages, "
            "evaluation."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--system", choices=tuple(USUAL), default="lfpc")
    parser.add_argument(
        "--out", type=Path, default=argparse.SUPPRESS, metavar="DIR",
        help=f"default: {', '.join(usual.out for usual in USUAL.values())}",
    )  # fmt: skip
    parser.add_argument(
        "--arms", nargs="+", default=argparse.SUPPRESS,
        choices=("all", *(arm for usual in USUAL.values() for arm in usual.known)), metavar="ARM",
        help="; ".join(f"of {name}: all, {', '.join(usual.known)} (default: "
                       f"{', '.join(usual.arms)})" for name, usual in USUAL.items()),
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=not_negative, default=[0])
    parser.add_argument(
        "--temperatures",
        nargs="+",
        type=not_negative,
        default=[0],
        help="of the evaluations; crop networks are evaluated greedily",
    )
    parser.add_argument(
        "--steps", type=positive, help="training steps of every arm; default: the configs'"
    )
    parser.add_argument("--scenes", type=positive, default=480, help="scenes to train on")
    parser.add_argument(
        "--questions", type=positive, default=200, help="held-out questions to evaluate on"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=2 if os.environ.get("JAX_PLATFORMS") == "cpu" else 1,
        help="commands to run at the same time; an accelerator has room for one",
    )
    parser.add_argument(
        "--warm",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="the model that every arm begins from; default: "
        + ", ".join(usual.warm for usual in USUAL.values()),
    )
    parser.add_argument(
        "--target", default="configs/micro/target", metavar="DIR", help="the target of cropvlm"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="also write results.md, results.json and pictures to DIR",
    )
    return parser
