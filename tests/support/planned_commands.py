"""The commands of a demo's plan, given to the programs that they name."""

from collections.abc import Sequence
from importlib import import_module

from lfpc_jax.cli import synthesize
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.run.steps import Step


def taken(every: Sequence[Step], monkeypatch) -> tuple[list, dict[str, TrainConfig]]:
    """Checks that every command is one that its program takes. Returns the arguments of all
    `synthesize.py`, and the config that each training would have."""
    drawn: list = []
    configs = {}
    monkeypatch.setattr(synthesize, "synthesize", drawn.append)
    assert len({step.name for step in every}) == len(every)
    for step in every:
        program = import_module(f"lfpc_jax.cli.{step.words[0].removesuffix('.py')}")
        if step.words[0] == "synthesize.py":
            program.main(step.words[1:])
        elif step.words[0] == "train.py":
            args, rest = program.parser().parse_known_args(step.words[1:])
            config = configs[step.name] = override(load_config(args.config, CONFIGS), rest)
            check(config)
            assert f"{config.seed}" == step.name[-1]
        else:
            program.parser().parse_args(step.words[1:])
    return drawn, configs
