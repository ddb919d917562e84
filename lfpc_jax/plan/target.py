"""The target model of a run on a slice: its weights, its engine's programs and its scoring program.

Its weights are on the rollouts' mesh, like those of the crop network's engine, and stay there
through every phase of a step. Like rollouts, its programs are compiled for all hosts side by side,
although each host asks its own.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.likelihood import MICRO_BATCH, keys_of
from lfpc_jax.cropvlm.local import GREEDY, Needs
from lfpc_jax.cropvlm.settings import Presentation, TargetSettings
from lfpc_jax.grpo.packing import empty_batch
from lfpc_jax.grpo.scorer import Scorer
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan import counts
from lfpc_jax.plan.programs import Uncompiled, bytes_per_chip, placed
from lfpc_jax.plan.rollout import all_hosts, rollout_programs
from lfpc_jax.plan.work import Load, PlannedEpisode, rollout_loads
from lfpc_jax.rollout.sizing import text_buckets
from lfpc_jax.shapes import (
    Buckets,
    RolloutShapes,
    TrainShapes,
    common_windows,
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
        return cls(cfg, mesh, shapes, settings.answer_tokens, boxes, answers, likelihoods)

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
            yield self._scoring()

    def _scoring(self) -> Uncompiled:
        """The scoring program for one question with all its boxes, on every shard."""
        scorer = Scorer(self.cfg, allowed=np.ones(self.cfg.text.vocab, bool), mesh=self.mesh)
        rows, windows, in_a_row = self._packed
        places = 2 ** math.ceil(math.log2(in_a_row * self.answer_tokens))
        batch = jax.eval_shape(
            partial(
                empty_batch,
                rows,
                self.cfg.vision.processor,
                shards=self._shards,
                micro_batches=1,
                windows=windows,
                xp=jnp,
            )
        )
        batch = placed(batch, scorer.batch_shardings(batch))
        lower = partial(scorer.lowered_logprobs_at, self.params, batch, places)
        return Uncompiled("target score", lower, {"parameters": self.params, "inputs": batch})

    @property
    def _shards(self) -> int:
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def _packed(self) -> tuple[TrainShapes, int, int]:
        """The rows of a question with all its boxes at their longest, the windows of its pictures,
        and how many boxes a row has; see `cropvlm/likelihood.py`."""
        shapes = self.shapes
        left = shapes.image_tokens + shapes.prompt_text.sizes[-1]
        images = [common_windows(shapes.image_tokens, shapes.window)]
        crops = [common_windows(shapes.crop_tokens, shapes.window)] * self.boxes
        rows = scoring_shapes(
            [(left, shapes.capacity)] * self.boxes,
            [*images, *crops],
            tokens=MICRO_BATCH,
            keys=keys_of(self.cfg.text),
            shared=True,
        )
        in_a_row = max(1, (rows.row_tokens - left) // (shapes.capacity - left))
        pictures = 1 + min(self.boxes, rows.rows * in_a_row)
        windows = rows.span * spans_for(pictures)
        return replace(rows, windows=Buckets((windows,))), windows, in_a_row

    def loads(self, *, prompts: int, hosts: int) -> dict[str, Load]:
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
            loads["score"] = self._scoring_load(prompts, hosts)
        return {f"target {name}": load for name, load in loads.items()}

    def _scoring_load(self, prompts: int, hosts: int) -> Load:
        """A host scores one question at a time. Its rows go to as many of the host's copies of the
        model as they fill."""
        rows, windows, in_a_row = self._packed
        tokens, tensor = rows.rows * rows.row_tokens, self.mesh.shape["tensor"]
        text = counts.text_forward(
            self.cfg, tokens, rows.row_tokens / 2, logits=rows.rows * in_a_row * self.answer_tokens
        )
        seen = counts.vision_forward(self.cfg, windows, rows.span)
        weights = counts.text_bytes(self.cfg) + counts.vision_bytes(self.cfg)
        bins = math.ceil(self.boxes / (rows.rows * in_a_row))
        calls = prompts / hosts * math.ceil(bins * hosts / self._shards)
        return Load((text + seen) / tensor, weights / tensor, calls)
