"""A model to evaluate that a server has. Its folder says how it is asked; no weights are read."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lfpc_jax.checkpoint import assets
from lfpc_jax.evaluation.endpoint import AskedEndpoint, Endpoint
from lfpc_jax.evaluation.journal import ENDPOINT
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.remote.client import Patience
from lfpc_jax.remote.request import check_url
from lfpc_jax.rollout import asking
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.dialogues import dialogue_as
from lfpc_jax.run.models import asking_of, assets_of
from lfpc_jax.trajectory import Record

_WEEK = 7 * 86400.0
"""Seconds for one benchmark under one condition."""


@dataclass(frozen=True, eq=False)
class EndpointEngines:
    """As `Engines`, for a model on a server."""

    args: argparse.Namespace
    assets: Path
    endpoint: Endpoint

    @classmethod
    def load(cls, args: argparse.Namespace) -> "EndpointEngines":
        check_url(args.endpoint, "--endpoint")
        patience = Patience(
            concurrent=args.slots, reply_seconds=args.endpoint_seconds, batch_seconds=_WEEK
        )
        patience.check("--slots and --endpoint-seconds")
        to = Endpoint(args.endpoint, args.endpoint_model, args.endpoint_key_variable, patience)
        return cls(args, assets_of(args.model), to)

    @property
    def asked(self) -> dict[str, Any]:
        """What identifies the model for an evaluation: its name, wherever the server is. Whether
        that still has the same weights under this name, nobody here can know."""
        return {
            "image_token": Tokenizer.from_folder(self.assets).image_pad,
            ENDPOINT: {"url": self.endpoint.url, "model": self.endpoint.model},
        }

    def keep_assets(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        assets.copy(self.assets, folder)
        if asked := asking_of(self.args.model):
            (folder / asking.FILE).write_text(asked.text, encoding="utf-8")

    def engine(self, tokens: int, records: Sequence[Record]) -> AskedEndpoint:
        args = self.args
        asked = {field.name: getattr(args, field.name) for field in fields(Asking)}
        dialogue = dialogue_as(Asking(**asked | {"image_tokens": tokens}), self.assets)
        sampling = Sampling(temperature=args.temperature)
        rules = Rules(args.max_turns, args.turn_tokens, args.episode_tokens, sampling)
        return AskedEndpoint(self.endpoint, dialogue, rules)
