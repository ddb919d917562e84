"""The target model of a run on a slice: its weights, its engine's programs and its scoring program.

Its weights are on the rollouts' mesh, like those of the crop network's engine, and stay there
through every phase of a step. Like rollouts, its programs are compiled for all hosts side by side,
although each host asks its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.local import GREEDY, Needs
from lfpc_jax.cropvlm.settings import Presentation, TargetSettings
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Uncompiled, bytes_per_chip
from lfpc_jax.plan.rollout import all_hosts, rollout_programs
from lfpc_jax.plan.work import Load, PlannedEpisode, rollout_loads
from lfpc_jax.rollout.sizing import text_buckets
from lfpc_jax.shapes import RolloutShapes

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
        answers: bool,
        likelihoods: bool,
    ) -> "PlannedTarget":
        """`question` is the most text tokens of a question."""
        left, following = _TEXT[settings.presentation]
        zoomed = settings.presentation == "zoom"
        needs = Needs(text_buckets([left + question * zoomed]), following + question * (not zoomed))
        host = needs.shapes(settings, cfg.vision.window, max(1, mesh.shape["data"] // hosts))
        shapes = all_hosts(host, hosts)
        return cls(cfg, mesh, shapes, settings.answer_tokens, answers, likelihoods)

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

    def loads(self, *, prompts: int, boxes: int, hosts: int) -> dict[str, Load]:
        """The work of the programs in a step whose prompts have so many different boxes each."""
        copies = self.mesh.shape
        episode = PlannedEpisode(
            sampled=min(_ANSWER, self.answer_tokens),
            crops=1,
            prompt_text=self.shapes.prompt_text.sizes[-1],
        )
        answering = rollout_loads(
            self.cfg,
            self.shapes,
            episode,
            prompts=prompts,
            episodes=prompts * boxes,
            groups=copies["data"],
            tensor=copies["tensor"],
        )
        if not self.answers:
            answering = {name: replace(load, calls=0.0) for name, load in answering.items()}
        return {f"target {name}": load for name, load in answering.items()}
