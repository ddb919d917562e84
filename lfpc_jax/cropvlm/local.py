"""A target model on the devices of this process, which answers through a rollout engine.

    target = LocalTarget.of(model, settings, needs=needs, mesh=mesh)
    for said in target.answers(questions): ...

The full image of a question is prefilled once, and each of its boxes goes on from there in a slot
of its own. Answers are greedy unless another sampling is given. The engine's cache exists from the
first answer of a call to its last: whoever first runs the crop network's engine to its end never
holds both. Questions are opened in worker threads, a few ahead of the device, so memory does not
grow with their number.

What cannot be shown, or does not fit the capacity, is a fault with its reason and never an answer.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.likelihood import Likelihoods
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing, Shown
from lfpc_jax.cropvlm.target import NOT_SHOWN, Likelihood, Question, Said
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.processing.chat import Grid
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.sizing import CHUNK, in_buckets, rounded, text_buckets, together
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Picture, Record, Trajectory

GREEDY = Sampling(temperature=0.0)

_LONGEST_PIECE = 256
"""Text tokens beside a crop that are written at once; longer questions take several pieces."""


@runtime_checkable
class Model(Protocol):
    """A loaded model, as far as this file needs it. `assets` is the folder of its tokenizer, chat
    template and processor files; `identity` distinguishes it from all others."""

    @property
    def cfg(self) -> ModelConfig: ...
    @property
    def params(self) -> Tree: ...
    @property
    def assets(self) -> Path: ...
    @property
    def identity(self) -> Mapping[str, str]: ...
    def without_weights(self) -> "Model": ...


@dataclass(frozen=True)
class Needs:
    """The text tokens of questions, beside pictures: buckets for the part that all boxes share, and
    the most that follow it. `prompts` are the grids and the lengths of the shared parts, if they
    are known: only their programs are then compiled ahead of time."""

    left: Buckets
    following: int
    prompts: frozenset[tuple[Grid, int]] | None = None

    @classmethod
    def of(cls, dialogue: Showing, records: Iterable[Record]) -> "Needs":
        """What these questions need. Of pictures only the heads of their files are read. Questions
        that cannot be shown need nothing."""
        prompts, following = set(), [1]
        for record in records:
            with suppress(Unusable, ValueError):
                prompts.add(dialogue.size(record))
                following.append(dialogue.texts(record)[1])
        left = text_buckets([text for _, text in prompts])
        return cls(left, max(following), frozenset(prompts))

    @classmethod
    def up_to(cls, dialogue: Showing, question_tokens: int) -> "Needs":
        """For questions, options included, of at most so many tokens."""
        nothing = Record("", "", "", Picture(path="any"))
        left, following = dialogue.texts(nothing)
        if dialogue.presentation == "zoom":
            left += question_tokens
        return cls(text_buckets([left]), following + question_tokens)

    def shapes(self, settings: TargetSettings, window: int, groups: int) -> RolloutShapes:
        """Shapes with room for every such question and its answer. `window` is the side of the
        model's windows, and `groups` are the shards of a batch of rows. A picture that is never
        shown has no budget."""
        image_tokens = 1 if settings.presentation == "crop" else settings.image_tokens
        crop_tokens = 1 if settings.presentation == "image" else settings.crop_tokens
        following = rounded(self.following)
        after = crop_tokens + following + settings.answer_tokens
        at_once = together(settings.slots, groups)
        return RolloutShapes(
            slots=settings.slots,
            chunk=CHUNK,
            image_tokens=image_tokens,
            crop_tokens=crop_tokens,
            prompt_text=self.left,
            observation_text=min(following, _LONGEST_PIECE),
            capacity=image_tokens + self.left.sizes[-1] + after,
            own=after,
            prefill_rows=at_once,
            extend_rows=at_once,
            window=window,
        )


class LocalTarget:
    """A frozen model. `dialogue` may be replaced by one of the same presentation and budgets, which
    alters crops or has no tool."""

    def __init__(
        self,
        cfg: ModelConfig,
        dialogue: Showing,
        shapes: RolloutShapes,
        *,
        answer_tokens: int,
        identity: Callable[[], Mapping[str, str]],
        prompts: frozenset[tuple[Grid, int]] | None = None,
        sampling: Sampling = GREEDY,
        mesh: Mesh | None = None,
        unstacked: bool | None = None,
        workers: int = 2,
    ) -> None:
        self.cfg, self.mesh, self.prompts, self.params = cfg, mesh, prompts, None
        self._model_identity = identity
        self._how: dict[str, Any] = {"presentation": dialogue.presentation}
        if dialogue.presentation == "zoom":
            self._how["tools"] = [tool.schema for tool in dialogue.toolbox.tools]
        self._likelihoods = Likelihoods(cfg, mesh=mesh, workers=workers)
        rules = Rules(max_turns=1, turn_tokens=answer_tokens, sampling=sampling)
        self.engine = Engine(
            cfg, dialogue, shapes, rules, mesh=mesh, unstacked=unstacked, workers=workers
        )

    @classmethod
    def of(
        cls,
        model: Model,
        settings: TargetSettings,
        *,
        needs: Callable[[Showing], Needs],
        mesh: Mesh,
        convention: Convention = "shown",
        sampling: Sampling = GREEDY,
    ) -> "LocalTarget":
        """A target with its weights loaded. `needs` says how large its programs must be, and
        `convention` is that of the boxes which it writes."""
        dialogue = Showing.from_folder(model.assets, settings, convention)
        needed = needs(dialogue)
        named = model.without_weights()  # else they could never be let go of
        target = cls(
            model.cfg,
            dialogue,
            needed.shapes(settings, dialogue.processor.window, mesh.shape["data"]),
            prompts=needed.prompts,
            answer_tokens=settings.answer_tokens,
            identity=lambda: named.identity,
            sampling=sampling,
            mesh=mesh,
        )
        target.load(model.params)
        return target

    @property
    def held_bytes(self) -> int:
        """The bytes of its weights on this process's first device."""
        device = jax.local_devices()[0]
        shards = (s for x in jax.tree.leaves(self.params) for s in x.addressable_shards)
        return sum(shard.data.nbytes for shard in shards if shard.device == device)

    @property
    def dialogue(self) -> Showing:
        assert isinstance(self.engine.dialogue, Showing)
        return self.engine.dialogue

    @dialogue.setter
    def dialogue(self, dialogue: Dialogue) -> None:
        if not isinstance(dialogue, Showing):
            raise ValueError(f"a target's dialogue is a Showing, not {type(dialogue).__name__}")
        self.engine.dialogue = dialogue

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides its answers but the alteration. To compute it, all weights are
        read once."""
        shapes, rules = self.engine.shapes, self.engine.rules
        return {
            **self._model_identity(),
            "dtype": self.cfg.dtype,
            **self._how,
            "image_tokens": shapes.image_tokens,
            "crop_tokens": shapes.crop_tokens,
            "answer_tokens": rules.turn_tokens,
            "temperature": rules.sampling.temperature,
            "prompt": self.dialogue.wording,
        }

    def load(self, params: Tree) -> None:
        """Sets the weights, with layers stacked."""
        self.params = params
        self.engine.load(params)

    def warm_up(self) -> int:
        """Compiles every program that answers need, and returns how many there are."""
        needed = None if self.prompts is None else in_buckets(self.prompts, self.engine.shapes)
        return self.engine.warm_up(needed, follows=True)

    # Answers

    def answers(
        self, questions: Iterable[Question], *, seed: int = 0
    ) -> Iterator[tuple[Said, ...]]:
        """For each question, in order, an answer for each of its boxes. Equal boxes of a question
        are asked once."""
        waiting: deque[_Asked] = deque()
        places: dict[int, tuple[Record, _Asked, int]] = {}

        def openings(pool: ThreadPoolExecutor) -> Iterator[Opening]:
            for shown in self._shown_ahead(questions, pool):
                asked = _Asked(shown)
                waiting.append(asked)
                for number, opening in enumerate(shown.openings):
                    record = replace(opening.record)  # questions may share theirs
                    places[id(record)] = record, asked, number
                    yield replace(opening, record=record)

        def skipped(opening: Record | Opening, reason: str) -> None:
            assert isinstance(opening, Opening)
            _, asked, number = places.pop(id(opening.record))
            asked.said[number] = (Said(fault=reason),) * len(opening.follow)

        with ThreadPoolExecutor(self.engine.workers, "showing") as pool:
            run = self.engine.run(openings(pool), rollouts=1, seed=seed, on_skipped=skipped)
            for group in run:
                _, asked, number = places.pop(id(group.record))
                asked.said[number] = tuple(map(self._said, group.trajectories))
                while waiting and waiting[0].complete:
                    yield waiting.popleft().answers()
        for asked in waiting:
            yield asked.answers()

    def likelihoods(self, questions: Iterable[Question]) -> Iterator[tuple[Likelihood, ...]]:
        """For each question, in order, the log-likelihood of its record's answer for each of its
        boxes; see `Likelihoods`."""
        return self._likelihoods(self.params, self.dialogue, questions)

    def _shown_ahead(
        self, questions: Iterable[Question], pool: ThreadPoolExecutor
    ) -> Iterator[Shown]:
        """The questions in order, as many ahead as the engine may need next."""
        ahead = self.engine.workers + self.engine.shapes.prefill_rows
        coming = iter(questions)
        shown: deque[Future[Shown]] = deque()
        while True:
            for question in itertools.islice(coming, ahead - len(shown)):
                shown.append(pool.submit(self._shown, question))
            if not shown:
                return
            yield shown.popleft().result()

    def _shown(self, question: Question) -> Shown:
        try:
            return self.dialogue.show(question)
        except (Unusable, ValueError) as error:
            return Shown((), (str(error),) * len(question.boxes))

    def _said(self, trajectory: Trajectory) -> Said:
        if trajectory.end == "context_full":
            return Said(
                fault="context_full: the question and its answer do not fit the "
                f"{self.engine.shapes.capacity} tokens of the target's capacity"
            )
        return Said(self.dialogue.answer(trajectory))


@dataclass(eq=False)
class _Asked:
    """A question on its way. `said` is what followed each opening that has come back."""

    shown: Shown
    said: dict[int, tuple[Said, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.said) == len(self.shown.openings)

    def answers(self) -> tuple[Said, ...]:
        return tuple(
            Said(fault=f"{NOT_SHOWN}: {place}")
            if isinstance(place, str)
            else self.said[place.opening][place.follow]
            for place in self.shown.places
        )
