"""A target that is a few lines of Python, which looks at the crop as a real one would see it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lfpc_jax.cropvlm.target import Likelihood, Question, Said
from lfpc_jax.processing.geometry import Box
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import Stats
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.protocol import Call
from lfpc_jax.rollout.tools import Ready, Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Box4, Picture, Record
from support import rigged, small

Says = Callable[[Record, np.ndarray | None], str | Said]
Likes = Callable[[Record, np.ndarray | None], float]


def names_the_crop(record: Record, crop: np.ndarray | None) -> str:
    """The letter of the colour in the crop's middle; without one, a guess."""
    colour = None if crop is None else rigged.named(crop)
    return "ABCD"[record.options.index(colour or rigged.guess(record))]


def likes_the_crop(record: Record, crop: np.ndarray | None) -> float:
    """-1 with the right colour in view, else -3."""
    return -1.0 if names_the_crop(record, crop) == record.answer and crop is not None else -3.0


@dataclass
class RiggedTarget:
    """`asked` lists the boxes of every question that was put to it, in order."""

    says: Says = names_the_crop
    likes: Likes = likes_the_crop
    dialogue: Dialogue = field(default_factory=small.dialogue)
    identity: dict[str, Any] = field(default_factory=lambda: {"weights": "rigged"})
    asked: list[tuple[str, str, tuple[Box4 | None, ...]]] = field(default_factory=list)

    def answers(
        self, questions: Sequence[Question], *, seed: int = 0
    ) -> Iterator[tuple[Said, ...]]:
        for question in questions:
            self.asked.append(("answers", question.record.id, question.boxes))
            said = [self.says(question.record, self.crop(question, box)) for box in question.boxes]
            yield tuple(each if isinstance(each, Said) else Said(each) for each in said)

    def likelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[Likelihood, ...]]:
        for question in questions:
            self.asked.append(("likelihoods", question.record.id, question.boxes))
            crops = [self.crop(question, box) for box in question.boxes]
            likes = [self.likes(question.record, crop) for crop in crops]
            yield tuple(x if isinstance(x, Likelihood) else Likelihood(x) for x in likes)

    def crop(self, question: Question, box: Box4 | None) -> np.ndarray | None:
        """What is shown for a box, altered if the dialogue says so."""
        if box is None or not self.dialogue.toolbox.tools:
            return None
        opening = self.dialogue.open(question.record)
        shown = opening.view.frame.to(Box(*box), "original", "shown")
        call = Call("image_zoom_in_tool", {"bbox_2d": list(shown)})
        request = self.dialogue.validate(call, opening)
        assert isinstance(request, Ready), request
        seen = request.execute(opening.view.original)
        if self.dialogue.alter is not None:
            seen = self.dialogue.alter(request, seen, opening, ())
        return seen.picture


class Outlines(Zoom):
    """The zoom tool, but its call ends the episode."""

    ends = True


def proposing() -> Dialogue:
    """A crop network's dialogue that anything can be asked in."""
    return small.dialogue(Toolbox((Outlines(small.CROPS, aspect_limit=8.0),)))


@dataclass
class RiggedProposer(rigged.RiggedEngine):
    """A crop network whose turns are settled, whatever is loaded. `running` is true while it
    runs."""

    dialogue: Dialogue = field(default_factory=proposing)
    rules: Rules = field(default_factory=lambda: Rules(max_turns=1))
    stats: Stats = field(default_factory=lambda: Stats(1))
    loaded: bool = True
    running: bool = False

    def load(self, params) -> None:
        self.loaded = True

    def unload(self) -> None:
        self.loaded = False

    def warm_up(self, prompts=None, *, also=()) -> int:
        return 0

    def run(self, records, *, rollouts, seed, on_episode=None, sampling=None):
        self.running = True
        try:
            for record in records:
                record = record.record if isinstance(record, Opening) else record
                if record.picture == Picture("gone"):
                    self.stats.skipped.append((record.id, "it is gone"))
                    continue
                for group in super().run([record], rollouts=rollouts, seed=seed):
                    if on_episode is not None:
                        on_episode(self.last)
                    yield group
        finally:
            self.running = False

    def _live(self, episode: Episode) -> None:
        super()._live(episode)
        self.last = episode


def outlines(episode: Episode) -> str:
    """Every other rollout proposes the square, the third nothing that can be read, and the others
    the corner."""
    if episode.rollout % 2 == 0:
        return rigged.call(rigged.shown_box(episode))
    return "over there" if episode.rollout == 3 else rigged.call((12, 2, 50, 20))
