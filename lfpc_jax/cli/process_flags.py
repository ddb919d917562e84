"""The flags of commands that may run in many processes, and their start."""

import argparse

from lfpc_jax.distributed import processes
from lfpc_jax.distributed.launched import ProcessSettings


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cache", default="", metavar="DIR", help="keep compiled programs there")
    many = parser.add_argument_group(
        "processes", "found out by torchrun's variables, SLURM or a TPU's metadata, or given:"
    )
    many.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0")
    many.add_argument("--processes", type=int, default=0, metavar="N")
    many.add_argument("--process", type=int, default=-1, metavar="I")


def start(args: argparse.Namespace) -> None:
    given = (args.coordinator, args.processes, args.process)
    processes.start(ProcessSettings(*given, cache=args.cache))
