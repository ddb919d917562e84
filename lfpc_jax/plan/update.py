"""An update's programs for a slice: the log-probabilities of mini-batches that are computed before
their updates, and the updates themselves.

    score pictures, score                                       encode, then score rows
    update pictures, update, update pictures back, optimizer    encode, learn, backward, apply

Rows come with the usual places for tokens that count and with places for all; pictures come in the
usual spans and as one span. A run compiles the second form of a program when it needs it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.grpo.learner import Learner, TrainState, text_of, tower_of
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Uncompiled, bytes_per_chip
from lfpc_jax.shapes import TrainShapes, micro_batches_for
from lfpc_jax.trajectory import Batch

CROWDED = "all places"
"""In the name of a program for rows in which more tokens count than usual."""

WIDE = "one span"
"""In the name of a program for pictures that no usual span holds."""


@dataclass(frozen=True, eq=False)
class PlannedUpdate:
    """The programs of updates. A shard has so many micro-batches of `pictures`."""

    learner: Learner
    shapes: TrainShapes
    pictures: int

    @classmethod
    def of(
        cls,
        cfg: ModelConfig,
        mesh: Mesh,
        shapes: TrainShapes,
        *,
        pictures: int,
        objective: Objective,
        trainable: Trainable,
        temperature: float = 1.0,
        moments_on_host: bool = False,
    ) -> "PlannedUpdate":
        learner = _learner(cfg, mesh, trainable, objective, temperature, moments_on_host)
        return cls(learner, shapes, pictures)

    # ------------------------------------------------------------ programs

    def scoring(self, *, of_policy: bool) -> Iterator[Uncompiled]:
        """The programs that score with the policy's parameters, or with those of a reference. The
        phase counts neither these parameters nor the state, whose frozen part both have."""
        learner = self.learner
        whole = parameters.whole(learner.cfg, learner.trainable, learner.mesh)
        beside = bytes_per_chip(replace(self._state, frozen={}))
        if of_policy and self._is_float32:
            beside -= bytes_per_chip(self._state.trained)
        rest, room = bytes_per_chip(text_of(whole)), self._room(self._narrow)
        for name, span in self._spans("score pictures"):
            images = learner.abstract_pictures(self.shapes, span)
            kinds = {"parameters": tower_of(whole), "inputs": images}
            lower = partial(learner.lowered_encode, whole, images)
            yield Uncompiled(name, lower, kinds, beside + rest + room)
        for name, rows in self._rows("score"):
            kinds = {"parameters": whole, "inputs": (rows, self._seen)}
            lower = partial(learner.lowered_score, whole, rows, self._seen)
            yield Uncompiled(name, lower, kinds, beside + room + bytes_per_chip(self._seen))

    def updating(self) -> Iterator[Uncompiled]:
        """The programs of an update, in its order."""
        yield from self._encoding()
        yield from self._learning()
        if self.learner.trains_tower:
            yield from self._going_back()
        _, rows = next(self._rows("update"))
        kinds = {
            "parameters": self._state.trained,
            "moments": self.learner.abstract_state(computing=True).moments,
            "gradients": self.learner.abstract_gradients(),
        }
        lower = partial(self.learner.lowered_apply, rows, self._seen)
        yield Uncompiled("optimizer", lower, kinds, bytes_per_chip(self._state.frozen))

    def _encoding(self) -> Iterator[Uncompiled]:
        whole = parameters.join(*self._policy)
        for name, span in self._spans("update pictures"):
            images = self.learner.abstract_pictures(self.shapes, span)
            beside = self._held - bytes_per_chip(tower_of(whole)) + self._room(self._narrow)
            kinds = {"parameters": tower_of(whole), "inputs": images}
            lower = partial(self.learner.lowered_encode, whole, images)
            yield Uncompiled(name, lower, kinds, beside)

    def _learning(self) -> Iterator[Uncompiled]:
        for name, rows in self._rows("update"):
            kinds: dict[str, Tree] = {
                "parameters": [text_of(part) for part in self._policy],
                "gradients": text_of(self.learner.abstract_gradients()),
            }
            beside = self._held - sum(map(bytes_per_chip, kinds.values()))
            beside += self._room(self._narrow)
            beside += self._room(4) if self.learner.trains_tower else 0
            beside += 2 * bytes_per_chip(self._seen)  # of the micro-batch before
            lower = partial(self.learner.lowered_learn, rows, self._seen)
            yield Uncompiled(name, lower, {**kinds, "inputs": (rows, self._seen)}, beside)

    def _going_back(self) -> Iterator[Uncompiled]:
        for name, span in self._spans("update pictures back"):
            images = self.learner.abstract_pictures(self.shapes, span)
            kinds: dict[str, Tree] = {
                "parameters": [tower_of(part) for part in self._policy],
                "gradients": tower_of(self.learner.abstract_gradients()),
            }
            beside = self._held - sum(map(bytes_per_chip, kinds.values())) + self._room(4)
            lower = partial(self.learner.lowered_backward, images)
            yield Uncompiled(name, lower, {**kinds, "inputs": images}, beside)

    # ------------------------------------------------------------ arrays

    def _rows(self, name: str) -> Iterator[tuple[str, Batch]]:
        for places in self.shapes.all_places:
            rows = self.learner.abstract_rows(self.shapes, places)
            rows = replace(rows, old=rows.sampler)
            if name == "update" and self.learner.objective.kl:
                rows = replace(rows, reference=rows.sampler)
            usual = places == self.shapes.places
            yield name if usual else f"{name}, {CROWDED}", rows

    def _spans(self, name: str) -> Iterator[tuple[str, int]]:
        for span in self.shapes.spans:
            yield name if span == self.shapes.span else f"{name}, {WIDE}", span

    @cached_property
    def _state(self) -> TrainState:
        return _on_devices(self.learner)

    @cached_property
    def _policy(self) -> tuple[Tree, Tree]:
        return self.learner.abstract_policy()

    @cached_property
    def _seen(self) -> jax.ShapeDtypeStruct:
        return self.learner.abstract_seen(self.shapes)

    @cached_property
    def _held(self) -> int:
        """The bytes of the state, the policy's copy and the sums of gradients."""
        copy = {} if self._is_float32 else self._policy[0]
        trees = (self._state, copy, self.learner.abstract_gradients())
        return sum(map(bytes_per_chip, trees))

    def _room(self, itemsize: int) -> int:
        """The bytes of the embeddings of all pictures, or of their gradients."""
        cfg = self.learner.cfg
        windows = micro_batches_for(self.pictures) * self.shapes.windows
        return windows * cfg.vision.window_tokens * cfg.text.width * itemsize

    @property
    def _narrow(self) -> int:
        return jnp.dtype(self.learner.cfg.dtype).itemsize

    @property
    def _is_float32(self) -> bool:
        """Whether the policy's parameters are the state's own arrays."""
        return self.learner.cfg.dtype == "float32"

    @property
    def rows_bytes(self) -> int:
        """The bytes of a micro-batch of rows. Those of all mini-batches stay on the device."""
        return bytes_per_chip(next(self._rows("update"))[1])


def abstract_state(
    cfg: ModelConfig, mesh: Mesh, trainable: Trainable, *, moments_on_host: bool = False
) -> TrainState:
    """The state that training holds on the devices at all times."""
    made = _learner(cfg, mesh, trainable, Objective(), moments_on_host=moments_on_host)
    return _on_devices(made)


def _on_devices(learner: Learner) -> TrainState:
    """The state without moments that wait in the host's memory. Devices that are only described
    have no memories to name."""
    state = learner.abstract_state()
    return replace(state, moments={}) if learner.moments_on_host else state


def _learner(
    cfg: ModelConfig,
    mesh: Mesh,
    trainable: Trainable,
    objective: Objective,
    temperature: float = 1.0,
    moments_on_host: bool = False,
) -> Learner:
    return Learner(
        cfg,
        make_optimizer(OptimizerSettings(), updates=1),
        objective=objective,
        trainable=trainable,
        allowed=np.ones(cfg.text.vocab, bool),
        mesh=mesh,
        temperature=temperature,
        moments_on_host=moments_on_host,
    )
