"""The flags of commands that may run in several processes, and how these start."""

import argparse

from lfpc_jax.distributed.launched import ProcessSettings


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", default="", metavar="DIR", help="folder that keeps compiled programs"
    )
    many = parser.add_argument_group(
        "processes", "found by torchrun's variables, SLURM or a TPU's metadata, or given here:"
    )
    many.add_argument("--coordinator", default="", metavar="HOST:PORT", help="address of process 0")
    many.add_argument("--processes", type=int, default=0, metavar="N", help="how many")
    many.add_argument("--process", type=int, default=-1, metavar="I", help="number of this one")


def start(args: argparse.Namespace) -> None:
    from lfpc_jax.distributed import processes  # imports JAX, which --help does not need

    given = (args.coordinator, args.processes, args.process)
    processes.start(ProcessSettings(*given, cache=args.cache))
