"""The target model of a run on a slice: its weights, its engine's programs and those that score.

Its weights are on the rollouts' mesh, like those of the crop network's engine, and stay there
through every phase of a step. Like rollouts, its programs are compiled for all hosts side by side,
although each host asks its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.likelihood import MICRO_BATCH, keys_of
from lfpc_jax.cropvlm.local import GREEDY, Needs
from lfpc_jax.cropvlm.settings import Presentation, TargetSettings
from lfpc_jax.grpo.learner import text_of, tower_of
from lfpc_jax.grpo.scorer import Scorer
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan import counts
from lfpc_jax.plan.episodes import PlannedEpisode
from lfpc_jax.plan.programs import Uncompiled, bytes_per_chip
from lfpc_jax.plan.rollout import all_hosts, rollout_programs
from lfpc_jax.plan.work import Load, rollout_loads
from lfpc_jax.rollout.sizing import text_buckets
from lfpc_jax.shapes import (
    RolloutShapes,
    TrainShapes,
    common_windows,
    micro_batches_for,
    scoring_micro_batches,
    scoring_shapes,
    spans_for,
)

_TEXT: dict[Presentation, tuple[int, int]] = {
    "both": (16, 14),
    "crop": (14, 16),
    "image": (16, 12),
    "zoom": (400, 100),
}
"""Text tokens beside pictures and question, by the published template: of the part that all boxes
share, and of what follows."""
_ANSWER = 8
"""The tokens of a very brief answer, assumed for seconds."""


@dataclass(frozen=True)
class PlannedTarget:
    """A target on a slice. `answers` and `likelihoods` say what a step asks it for; validations ask
    for answers in any case."""

    cfg: ModelConfig
    mesh: Mesh
    shapes: RolloutShapes
    answer_tokens: int
    hosts: int
    boxes: int
    answers: bool
    likelihoods: bool

    @classmethod
    def of(
        cls,
        settings: TargetSettings,
        cfg: ModelConfig,
        mesh: Mesh,
        *,
        hosts: int,
        question: int,
        boxes: int,
        answers: bool,
        likelihoods: bool,
    ) -> "PlannedTarget":
        """`question` is the most text tokens of a question, which has `boxes` different boxes."""
        left, following = _TEXT[settings.presentation]
        zoomed = settings.presentation == "zoom"
        needs = Needs(text_buckets([left + question * zoomed]), following + question * (not zoomed))
        host = needs.shapes(settings, cfg.vision.window, max(1, mesh.shape["data"] // hosts))
        shapes = all_hosts(host, hosts)
        return cls(cfg, mesh, shapes, settings.answer_tokens, hosts, boxes, answers, likelihoods)

    @property
    def params(self) -> Tree:
        """The weights, as they are placed."""
        return parameters.whole(self.cfg, Trainable(), self.mesh)

    @property
    def held_bytes(self) -> int:
        """The bytes of the weights, which each chip holds at all times."""
        return bytes_per_chip(self.params)

    def programs(self) -> Iterator[Uncompiled]:
        """What a run runs; `extend` takes what follows the part that all boxes share."""
        for program in rollout_programs(self.cfg, self.mesh, self.shapes, GREEDY):
            yield replace(program, name=f"target {program.name}")
        if self.likelihoods:
            yield from self._scoring_programs()

    def _scoring_programs(self) -> Iterator[Uncompiled]:
        """The programs that score one question with all its boxes, on every shard."""
        scorer = Scorer(self.cfg, allowed=np.ones(self.cfg.text.vocab, bool), mesh=self.mesh)
        scored, params = self._scored, self.params
        images = scorer.abstract_pictures(scored.shapes, scored.shapes.span)
        rows = scorer.abstract_rows(scored.shapes, scored.shapes.places)
        seen = scorer.abstract_seen(scored.shapes)
        text, tower = text_of(params), tower_of(params)
        embeddings = scored.embeddings_bytes(self.cfg)
        yield Uncompiled(
            "target score pictures",
            partial(scorer.lowered_encode, params, images),
            {"parameters": tower, "inputs": images},
            bytes_per_chip(text) + embeddings,
        )
        yield Uncompiled(
            "target score",
            partial(scorer.lowered_score, text, rows, seen),
            {"parameters": text, "inputs": (rows, seen)},
            bytes_per_chip(tower) + embeddings,
        )

    @property
    def _scored(self) -> "_Scored":
        """A question with all its boxes at their longest, as `cropvlm/likelihood.py` packs it on
        the shards of a host."""
        shapes, shards = self.shapes, max(1, self._shards // self.hosts)
        left = shapes.image_tokens + shapes.prompt_text.sizes[-1]
        image = common_windows(shapes.image_tokens, shapes.window)
        crop = common_windows(shapes.crop_tokens, shapes.window)
        row = scoring_shapes(
            [(left, shapes.capacity)] * self.boxes,
            [image, crop],
            keys=keys_of(self.cfg.text),
            shared=True,
            shards=shards,
        )
        in_a_row = max(1, (row.row_tokens - left) // (shapes.capacity - left))
        rows = math.ceil(self.boxes / in_a_row)
        micro_batches = scoring_micro_batches(
            row,
            [image, *[crop] * self.boxes],
            rows=rows,
            counting=min(in_a_row, self.boxes) * self.answer_tokens,
            tokens=MICRO_BATCH,
            shards=shards,
        )
        on_shard = math.ceil(rows / shards)
        crops = min(self.boxes, on_shard * in_a_row)
        spans = spans_for([image, *[crop] * crops], row.span)
        return _Scored(
            micro_batches,
            rows=math.ceil(on_shard / micro_batches.rows),
            pictures=math.ceil(spans * row.span / micro_batches.windows),
        )

    @property
    def _shards(self) -> int:
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def loads(self, *, prompts: int) -> dict[str, Load]:
        """The work of the programs in a step."""
        copies = self.mesh.shape
        episode = PlannedEpisode(
            sampled=min(_ANSWER, self.answer_tokens),
            crops=1,
            prompt_text=self.shapes.prompt_text.sizes[-1],
        )
        loads = rollout_loads(
            self.cfg,
            self.shapes,
            episode,
            prompts=prompts,
            episodes=prompts * self.boxes,
            groups=copies["data"],
            tensor=copies["tensor"],
        )
        if not self.answers:
            loads = {name: replace(load, calls=0.0) for name, load in loads.items()}
        if self.likelihoods:
            loads |= self._scoring_loads(prompts)
        return {f"target {name}": load for name, load in loads.items()}

    def _scoring_loads(self, prompts: int) -> dict[str, Load]:
        """A host scores one question at a time, on its copies of the model."""
        scored, tensor = self._scored, self.mesh.shape["tensor"]
        shapes, questions = scored.shapes, prompts / self.hosts
        text = counts.text_forward(
            self.cfg,
            shapes.rows * shapes.row_tokens,
            shapes.row_tokens / 2,
            logits=shapes.rows * shapes.places,
        )
        seen = counts.vision_forward(self.cfg, shapes.windows, shapes.span)
        read = counts.text_bytes(self.cfg), counts.vision_bytes(self.cfg)
        return {
            "score pictures": Load(seen / tensor, read[1] / tensor, questions * scored.pictures),
            "score": Load(text / tensor, read[0] / tensor, questions * scored.rows),
        }


@dataclass(frozen=True)
class _Scored:
    """A question on a shard: so many micro-batches of rows, and of pictures."""

    shapes: TrainShapes
    rows: int
    pictures: int

    def embeddings_bytes(self, cfg: ModelConfig) -> int:
        """The bytes for the embeddings of all its pictures."""
        tokens = micro_batches_for(self.pictures) * self.shapes.windows * cfg.vision.window**2
        return tokens * cfg.text.width * jnp.dtype(cfg.dtype).itemsize
