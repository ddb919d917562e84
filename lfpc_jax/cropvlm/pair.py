"""A crop network and its target as one engine: an episode is the crop network's one turn, and its
answer is what the target said with that box in view.

    pair = Pair(engine, target)
    pair.load(params)                          # the crop network's
    for group in pair.run(records, rollouts=6, seed=0): ...

The crop network proposes boxes for a chunk of records. Then the target is asked, once for each
distinct box of a group, and its answer and likelihood count for every episode with that box. The
two never run at the same time, so their caches never exist at once. A box that could not be read or
cut is shown as no crop: the target answers from the full image alone. (The authors' code shows a
crop of 2 x 2 pixels instead.)

`dialogue` is the target's: an alteration there alters the target's crops, and without a tool it
sees none. Then the crop network is not run, and an episode has no turn.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.boxes import given, size_of
from lfpc_jax.cropvlm.target import Likelihood, Question, Said, Target
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import OnEpisode
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.trajectory import Box4, Group, Record, Trajectory

CHUNK = 256
"""Records whose boxes are proposed before the target is asked; their shown pictures are held."""


@runtime_checkable
class Proposer(Protocol):
    """A crop network's engine, or whatever else gives groups whose episodes propose boxes."""

    dialogue: Dialogue
    rules: Rules

    @property
    def stats(self) -> Any:
        """Has `skipped`, which lists the records that could not be shown, with the reason."""
        ...

    def run(
        self,
        records: Iterable[Record | Opening],
        *,
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Group]: ...

    @property
    def loaded(self) -> bool: ...
    def load(self, params: Tree, version: int | None = None) -> None: ...
    def unload(self) -> None: ...
    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        also: Collection[Sampling] = (),
    ) -> int: ...


@runtime_checkable
class NeedsPrograms(Protocol):
    """A target whose answers need programs."""

    def warm_up(self) -> int: ...


@dataclass
class TargetStats:
    """Counts over all runs. `episodes` had their boxes put to the target in `questions`, one a
    record, with `boxes` distinct boxes in all; `cached` of these were answered from a cache."""

    proposer_seconds: float = 0.0
    target_seconds: float = 0.0
    questions: int = 0
    episodes: int = 0
    boxes: int = 0
    cached: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Pair:
    """`answers` and `likelihoods` say what the target is asked for; see `asking_for`."""

    def __init__(
        self,
        engine: Proposer,
        target: Target,
        *,
        answers: bool = True,
        likelihoods: bool = False,
        chunk: int = CHUNK,
    ) -> None:
        self.engine, self.target = engine, target
        self.answers, self.likelihoods, self.chunk = answers, likelihoods, chunk
        self.stats = TargetStats()

    # ------------------------------------------------------------------ an engine's face

    @property
    def dialogue(self) -> Dialogue:
        return self.target.dialogue

    @dialogue.setter
    def dialogue(self, dialogue: Dialogue) -> None:
        self.target.dialogue = dialogue

    @property
    def rules(self) -> Rules:
        """Those of the crop network's turn."""
        return self.engine.rules

    @rules.setter
    def rules(self, rules: Rules) -> None:
        self.engine.rules = rules

    @property
    def loaded(self) -> bool:
        return self.engine.loaded

    def load(self, params: Tree, version: int | None = None) -> None:
        """Sets the crop network's parameters, of this version. The target keeps its own."""
        self.engine.load(params, version)

    def unload(self) -> None:
        """Lets go of the crop network's parameters."""
        self.engine.unload()

    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        also: Collection[Sampling] = (),
    ) -> int:
        """Compiles the programs of both models, and returns how many there are. `prompts` and
        `also` are the crop network's."""
        programs = self.engine.warm_up(prompts, also=also)
        return programs + (self.target.warm_up() if isinstance(self.target, NeedsPrograms) else 0)

    def run(
        self,
        records: Iterable[Record | Opening],
        *,
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Group]:
        """As `Engine.run`. While the target answers, `on_episode` is called again and again with
        the episode that ended last, so that whoever raises in it can stop the target, too."""
        last: list[Episode] = []

        def told(episode: Episode) -> None:
            last[:] = [episode]
            if on_episode is not None:
                on_episode(episode)

        def alive() -> None:
            if on_episode is not None and last:
                on_episode(last[0])

        waiting = iter(records)
        while chunk := list(itertools.islice(waiting, self.chunk)):
            start = time.perf_counter()
            if self.dialogue.toolbox.tools:
                before = len(self.engine.stats.skipped)
                groups = list(
                    self.engine.run(
                        chunk, rollouts=rollouts, seed=seed, on_episode=told, sampling=sampling
                    )
                )
                self.stats.skipped += self.engine.stats.skipped[before:]
            else:
                groups = list(self._without_boxes(chunk, rollouts))
            self.stats.proposer_seconds += time.perf_counter() - start
            told_groups = answered(
                self.target,
                groups,
                seed=seed,
                answers=self.answers,
                likelihoods=self.likelihoods,
                alive=alive,
                stats=self.stats,
            )
            while (group := self._timed(told_groups)) is not None:
                yield group
            last.clear()

    def _timed(self, groups: Iterator[Group]) -> Group | None:
        start = time.perf_counter()
        group = next(groups, None)
        self.stats.target_seconds += time.perf_counter() - start
        return group

    def _without_boxes(self, records: Iterable[Record | Opening], rollouts: int) -> Iterator[Group]:
        """Groups of episodes in which nobody proposes anything."""
        for asked in records:
            record = asked.record if isinstance(asked, Opening) else asked
            try:
                size = size_of(record)
            except Unusable as error:
                self.stats.skipped.append((record.id, str(error)))
            else:
                yield given(record, size, [None] * rollouts, self.dialogue.processor, "")


def shown_box(trajectory: Trajectory) -> Box4 | None:
    """The box that the target is shown for an episode: the proposed one as it is cut, or None if
    there is none that could be."""
    crops = [turn.crop for turn in trajectory.turns if turn.crop is not None]
    return crops[-1].box if crops else None


def answered(
    target: Target,
    groups: Sequence[Group],
    *,
    seed: int,
    answers: bool = True,
    likelihoods: bool = False,
    alive: Callable[[], None] = lambda: None,
    stats: TargetStats | None = None,
) -> Iterator[Group]:
    """The groups with what the target says of their boxes, as its answers come. It is asked once
    for each distinct box of a group. If likelihoods are asked for, all answers come before them.
    `alive` is called again and again."""
    questions = [
        Question(group.record, tuple(dict.fromkeys(map(shown_box, group.trajectories))))
        for group in groups
    ]
    if not questions:
        return
    nothing: list[tuple[()]] = [()] * len(questions)
    said: Iterable[tuple[Said, ...]] = nothing
    if answers:
        said = target.answers(questions, seed=seed)
    likely: Iterable[tuple[Likelihood, ...]] = nothing
    if likelihoods:
        said = list(_watched(said, alive))
        likely = target.likelihoods(questions)
    for group, question, of_answers, of_likelihoods in zip(
        groups, questions, said, likely, strict=True
    ):
        alive()
        if stats is not None:
            stats.questions += 1
            stats.episodes += len(group.trajectories)
            stats.boxes += len(question.boxes)
            stats.cached += sum(each.cached for each in of_answers)
        by_box = {
            box: (
                of_answers[place] if answers else None,
                of_likelihoods[place] if likelihoods else None,
            )
            for place, box in enumerate(question.boxes)
        }
        trajectories = (
            _with(trajectory, *by_box[shown_box(trajectory)]) for trajectory in group.trajectories
        )
        yield replace(group, trajectories=tuple(trajectories))


def _watched(
    said: Iterable[tuple[Said, ...]], alive: Callable[[], None]
) -> Iterator[tuple[Said, ...]]:
    for answers in said:
        alive()
        yield answers


@contextmanager
def asking_for(
    engine: object, *, answers: bool | None = None, likelihoods: bool | None = None
) -> Iterator[None]:
    """For the runs in the block, a pair asks its target for these; None leaves what it was. An
    engine without a target is left as it is."""
    if not isinstance(engine, Pair):
        yield
        return
    before = engine.answers, engine.likelihoods
    engine.answers = before[0] if answers is None else answers
    engine.likelihoods = before[1] if likelihoods is None else likelihoods
    try:
        yield
    finally:
        engine.answers, engine.likelihoods = before


def _with(trajectory: Trajectory, said: Said | None, likely: Likelihood | None) -> Trajectory:
    """The episode with what the target said; None is what it was not asked for."""
    if said is not None:
        assert (said.answer is None) == bool(said.fault), said
        trajectory = replace(trajectory, answer=said.answer, unanswered=said.fault)
    if likely is not None:
        fault = trajectory.unanswered or likely.fault
        trajectory = replace(trajectory, likelihood=likely.total, unanswered=fault)
    return trajectory
