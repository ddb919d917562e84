"""A target model to evaluate, and the crop network whose boxes it is shown."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from lfpc_jax.checkpoint import assets
from lfpc_jax.cropvlm.asked import AskedTarget
from lfpc_jax.cropvlm.local import LocalTarget, Needs
from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.cropvlm.vicrop import RelativeAttention, relative_attention_boxes
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.evaluation.conditions import Runs
from lfpc_jax.evaluation.journal import ASSETS_OF_TARGET, TARGET
from lfpc_jax.run import progress
from lfpc_jax.run.building import open_target
from lfpc_jax.run.engines import Engines
from lfpc_jax.run.models import assets_of
from lfpc_jax.trajectory import Box4, Record


@dataclass(frozen=True, eq=False)
class TargetEngines:
    """As `Engines`, for a target: what is asked under each condition. `network` is the crop
    network, if boxes are to be predicted."""

    args: argparse.Namespace
    settings: TargetSettings
    target: Target
    network: Engines | None

    @classmethod
    def load(
        cls, args: argparse.Namespace, settings: TargetSettings, records: Sequence[Record]
    ) -> "TargetEngines":
        mesh = rollout_mesh(args.tensor, devices=jax.local_devices())
        with progress.waiting(f"measuring {len(records)} questions"):
            target = open_target(
                settings, mesh, lambda showing: Needs.of(showing, records), progress.bar
            )
        if isinstance(target, LocalTarget):
            for layer in args.layer:
                RelativeAttention(layer=layer).depth(target.cfg.text)  # refuses before any hour
            with progress.waiting("compiling the target"):
                target.warm_up()
        return cls(args, settings, target, None if args.model is None else Engines.load(args))

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What identifies both models for an evaluation."""
        network = {} if self.network is None else self.network.asked
        asked = {
            TARGET: self.target.identity,
            "likelihoods": self.args.likelihoods,
            "square": self.args.square,
        }
        return network | asked

    def keep_assets(self, folder: Path) -> None:
        if self.network is not None:
            self.network.keep_assets(folder)
        if self.settings.path:
            (folder / ASSETS_OF_TARGET).mkdir(parents=True, exist_ok=True)
            assets.copy(assets_of(Path(self.settings.path)), folder / ASSETS_OF_TARGET)

    def engine(self, tokens: int, records: Sequence[Record]) -> AskedTarget:
        """The target under every condition. The crop network's engine is compiled when it is first
        needed."""
        local = isinstance(self.target, LocalTarget)
        return AskedTarget(
            self.target,
            None if self.network is None else lambda: self._pair(records),
            self._attended if local else None,
            likelihoods=self.args.likelihoods,
        )

    def _pair(self, records: Sequence[Record]) -> Runs:
        assert self.network is not None
        [tokens] = self.args.image_tokens
        engine = self.network.engine(tokens, records)
        return Pair(engine, self.target, likelihoods=self.args.likelihoods)

    def _attended(self, layer: int | None, records: Sequence[Record]) -> Iterator[Box4 | None]:
        target = self.target
        assert isinstance(target, LocalTarget)
        settings = RelativeAttention(layer=layer, side=self.args.square)
        return relative_attention_boxes(
            target.params, target.cfg, target.dialogue, records, settings
        )
