"""A model to evaluate, loaded once, and an engine for each budget of the shown image."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax

from lfpc_jax.checkpoint import assets
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.evaluation.journal import IDENTITY
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout import asking
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.sizing import (
    CHUNK,
    beginnings,
    in_buckets,
    share_pictures,
    sizes,
    text_buckets,
    together,
)
from lfpc_jax.run import progress
from lfpc_jax.run.dialogues import after_prompt, dialogue_as, toolless
from lfpc_jax.run.models import LoadedModel, asking_of, load_model
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Record


@dataclass(frozen=True, eq=False)
class Engines:
    args: argparse.Namespace
    model: LoadedModel
    mesh: jax.sharding.Mesh

    @classmethod
    def load(cls, args: argparse.Namespace) -> "Engines":
        mesh = rollout_mesh(args.tensor, devices=jax.local_devices())
        return cls(args, load_model(args.model, dtype=args.dtype, mesh=mesh), mesh)

    @property
    def asked(self) -> dict[str, Any]:
        """What identifies the model for an evaluation: everything that decides its answers and how
        they are read. A training run that has advanced is another model, and so is a folder whose
        weights or tokenizer were replaced."""
        cfg = self.model.cfg
        return {
            "image_token": cfg.image_token,
            "dtype": cfg.dtype,
            "checkpoint": self.model.step,
            IDENTITY: self.model.identity,
        }

    @property
    def rules(self) -> Rules:
        args = self.args
        return Rules(
            args.max_turns,
            args.turn_tokens,
            args.episode_tokens,
            Sampling(temperature=args.temperature),
        )

    def keep_assets(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        assets.copy(self.model.assets, folder)
        if asked := asking_of(self.args.model):
            (folder / asking.FILE).write_text(asked.text, encoding="utf-8")

    def engine(self, tokens: int, records: Sequence[Record]) -> Engine:
        """An engine compiled for the records' prompts, with and without the tool. It keeps the
        beginnings of prompts if any two records are about the same picture."""
        asked = {field.name: getattr(self.args, field.name) for field in fields(Asking)}
        dialogue = dialogue_as(Asking(**asked | {"image_tokens": tokens}), self.model.assets)
        with progress.waiting(f"measuring {len(records)} prompts"):
            both = dialogue, without_tool(dialogue)
            seen = {size for each in both for size in sizes(each, records)}
            shapes = self.shapes(tokens, text_buckets([text for _, text in seen]))
            if share_pictures(records):
                shapes = replace(shapes, kept=shapes.prefill_rows)
                seen = {size for each in both for size in beginnings(each, records)}
        engine = Engine(self.model.cfg, dialogue, shapes, self.rules, mesh=self.mesh)
        engine.load(self.model.params)
        with progress.waiting(f"compiling for {tokens} tokens"):
            engine.warm_up(in_buckets(seen, shapes))
        return engine

    def shapes(self, tokens: int, texts: Buckets) -> RolloutShapes:
        """Shapes with room for every episode that the rules allow."""
        args = self.args
        groups = self.mesh.shape["data"]
        following = after_prompt(self.rules, args.crop_tokens)
        return RolloutShapes(
            slots=args.slots,
            chunk=CHUNK,
            image_tokens=tokens,
            crop_tokens=args.crop_tokens,
            prompt_text=texts,
            capacity=tokens + texts.sizes[-1] + following,
            own=following,
            members=args.rollouts,
            prefill_rows=together(args.slots, groups),
            extend_rows=together(args.slots, groups),
            window=self.model.cfg.vision.window,
        )


def direct_engine(
    model: LoadedModel,
    processor: ImageProcessor,
    records: Sequence[Record],
    *,
    mesh: jax.sharding.Mesh,
    slots: int,
    image_tokens: int,
    turn_tokens: int,
    temperature: float,
) -> Engine:
    """An engine without a tool that answers in one turn, compiled for the records' prompts."""
    dialogue = toolless(model.assets, processor)
    with progress.waiting(f"measuring {len(records)} questions"):
        text = text_buckets({text for _, text in sizes(dialogue, records)})
    shapes = RolloutShapes(
        slots=slots,
        image_tokens=image_tokens,
        prompt_text=text,
        capacity=image_tokens + text.sizes[-1] + turn_tokens,
        own=turn_tokens,
        prefill_rows=together(slots, groups=mesh.shape["data"]),
        window=processor.window,
    )
    rules = Rules(max_turns=1, turn_tokens=turn_tokens, sampling=Sampling(temperature=temperature))
    engine = Engine(model.cfg, dialogue, shapes, rules, mesh=mesh)
    engine.load(model.params)
    with progress.waiting("compiling"):
        engine.warm_up()
    return engine
