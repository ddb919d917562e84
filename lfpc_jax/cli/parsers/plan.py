"""The flags of `lfpc plan`."""

import argparse
from pathlib import Path

SAMPLED, CROPS = 400, 1
"""Tokens and crops of an episode, as planning assumes them."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "What a training run needs on TPUs or GPUs, according to their "
            "compiler. None is needed."
        ),
        epilog="With --config, further flags override its settings, as --rollout.slots 32.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="of a training run, or a name in "
                        "configs/; a size may follow, as in stage1.py:3b")  # fmt: skip
    parser.add_argument("--topology", nargs="+", required=True, help="as v5e:2x4, 2xv5e:4x4 "
                        "(two slices), h100:8, h100:2x8 (two hosts), cpu:8 or gpu")  # fmt: skip
    parser.add_argument("--search", action="store_true", help="propose mesh, remat, "
                        "rows, their size and slots")  # fmt: skip
    parser.add_argument("--program", nargs="+", metavar="NAME", help="only these: of a config "
                        "encode to optimizer; else forward, gradient or rollout")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="end when memory is assigned: all but "
                        "the compiler's own FLOPs, in a fraction of the time")  # fmt: skip
    parser.add_argument("--dump", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    episode = parser.add_argument_group("an episode, assumed for the seconds of a step")
    episode.add_argument("--sampled", type=int, metavar="TOKENS", help="over all turns; default: "
                         f"{SAMPLED}, or all that the config's limits allow")  # fmt: skip
    episode.add_argument("--crops", type=int, metavar="N", help=f"default: {CROPS}, or none "
                         "where there is one turn")  # fmt: skip
    episode.add_argument("--lengths", type=Path, metavar="RUN", help="in place of these: episodes "
                         "that a run kept")  # fmt: skip
    alone = parser.add_argument_group("without a config")
    alone.add_argument("--model", nargs="+", help="3b, 7b, 32b, 72b")
    alone.add_argument("--tensor", type=int, default=1, help="tensor-parallel ways; fsdp the rest")
    alone.add_argument("--length", type=int, default=4096, help="tokens of each fsdp group's row")
    alone.add_argument("--windows", type=int, default=66, help="of each row's one image")
    alone.add_argument("--slots", type=int, default=128, help="of the rollout engine")
    alone.add_argument("--capacity", type=int, default=8192, help="ids of an episode")
    return parser
