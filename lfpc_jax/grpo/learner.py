"""One sharded update: micro-batches through the loss and its gradient, then one optimizer step.

    learner = Learner(cfg, optimizer, ...)
    state = learner.start(params, key)                          # parameters are donated
    old, entropy = learner.logprobs(learner.computing(state), batch, real)
    state, metrics = learner.update(state, batch, real)         # state is donated

All micro-batches of a mini-batch go through one program by `lax.scan`. Micro-batches that only pad
their number are skipped. Gradients are summed in float32. The metrics beside the loss are weighted
means over the tokens in the batch. Parameters are cast once, before the scan, so that a mesh
gathers them in the dtype that it computes with.

An update whose gradient or loss is not finite changes nothing but the count of such updates in a
row. An update whose log-probabilities lie further than `most_apart` from those that the tokens were
sampled with changes nothing at all.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from lfpc_jax.arrays import Tree
from lfpc_jax.grpo.objective import (
    FROM_DRAWN,
    Objective,
    Scalars,
    apart_from_sampler,
    judged_weights,
    loss_of,
)
from lfpc_jax.grpo.scorer import Scorer
from lfpc_jax.model import parameters, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.trajectory import Batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """`updates` counts the updates that changed something, `refused` how many in a row were not
    finite up to now, and `ever_refused` how many were not finite in the whole run."""

    trained: Tree
    frozen: Tree
    moments: Any
    updates: Any  # int32, as the two below
    refused: Any
    ever_refused: Any


class Learner(Scorer):
    """A scorer that also trains: the compiled functions of training, and where their arrays
    live."""

    def __init__(
        self,
        cfg: ModelConfig,
        optimizer: optax.GradientTransformation,
        *,
        objective: Objective,
        trainable: Trainable,
        allowed: Bool[Any, "V"],
        mesh: Mesh,
        temperature: float = 1.0,
        unstacked: bool = False,
        seed: int = 0,
    ) -> None:
        """`temperature` is the one at which rollouts are sampled. `seed` decides what LoRA's
        dropout drops. The rest is a scorer's."""
        super().__init__(
            cfg, allowed=allowed, mesh=mesh, temperature=temperature, unstacked=unstacked
        )
        self.optimizer, self.objective, self.trainable = optimizer, objective, trainable
        self.seed, self.dropout = seed, trainable.lora.dropout if trainable.lora else 0.0
        self.specs = parameters.specs(cfg, trainable)
        placed = self.state_shardings()
        scalar = NamedSharding(mesh, PartitionSpec())
        self._start = jax.jit(self._new_state, out_shardings=placed, donate_argnums=1)
        self._update = jax.jit(
            self._step,
            out_shardings=(placed, scalar),
            donate_argnums=0,
            compiler_options=self._options,
        )
        self._apart = jax.jit(
            lambda logprobs, batch: (
                apart_from_sampler(logprobs, batch),
                judged_weights(logprobs, batch).sum(),
            ),
            out_shardings=(scalar, scalar),
        )
        self._computing = jax.jit(
            lambda state: parameters.join(parameters.cast(state.trained, cfg.dtype), state.frozen)
        )

    def start(self, params: Tree, key: Array) -> TrainState:
        with jax.set_mesh(self.mesh):
            return self._start(key, params)

    def update(
        self, state: TrainState, batch: Batch, real: Bool[Any, "M"], *, most_apart: float = math.inf
    ) -> tuple[TrainState, Scalars]:
        """One optimizer step. `real` says which micro-batches hold anything. `most_apart` bounds
        the mean distance of the tokens' log-probabilities from the sampler's; it only makes sense
        for an update of the policy that sampled."""
        with jax.set_mesh(self.mesh):
            return self._update(state, batch, real, self._allowed, np.float32(most_apart))

    def apart(self, logprobs: Float[Array, "M B T"], batch: Batch) -> tuple[Array, Array]:
        """The weighted sum of the distances between these log-probabilities and the sampler's, and
        the sum of the weights; log-probabilities that are NaN are left out of both."""
        with jax.set_mesh(self.mesh):
            return self._apart(logprobs, batch)

    def computing(self, state: TrainState) -> Tree:
        """A copy of the parameters in the form that updates and rollouts compute with. LoRA's
        factors stay separate from the weights, since a sum of both in bfloat16 would round away
        most of what the factors have learned early in training."""
        with jax.set_mesh(self.mesh):
            return self._computing(state)

    def lowered(self, name: Literal["logprobs", "update"], batch: Batch) -> Any:
        """The program of `logprobs` or `update` for abstract arrays, to compile ahead of time."""
        state = self.abstract_state()
        if name == "logprobs":
            part = spec.abstract_of(self.specs[0], self.cfg.dtype, self.mesh)
            params = parameters.join(part, state.frozen)
            return self.lowered_logprobs(params, replace(batch, old=None))
        whole = NamedSharding(self.mesh, PartitionSpec())
        limit = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
        with jax.set_mesh(self.mesh):
            return self._update.lower(state, batch, *self._abstract(batch), limit)

    # ------------------------------------------------------------ where arrays live

    def state_shardings(self) -> TrainState:
        return jax.tree.map(lambda x: x.sharding, self.abstract_state())

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, to restore into or to plan with."""
        scalar = NamedSharding(self.mesh, PartitionSpec())
        part = spec.abstract_of(self.specs[0], jnp.float32, self.mesh)
        frozen = spec.abstract_of(self.specs[1], self.cfg.dtype, self.mesh)
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar)
        moments = optax.tree.map_params(
            self.optimizer,
            lambda moment, param: jax.ShapeDtypeStruct(
                moment.shape, moment.dtype, sharding=param.sharding
            ),
            jax.eval_shape(self.optimizer.init, part),
            part,
            transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=scalar),
        )
        return TrainState(part, frozen, moments, count, count, count)

    # ------------------------------------------------------------ what is compiled

    def _new_state(self, key: Array, params: Tree) -> TrainState:
        part, frozen = parameters.split(key, params, self.cfg, self.trainable)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(part, frozen, self.optimizer.init(part), zero, zero, zero)

    def _loss(
        self, part: Tree, frozen: Tree, batch: Batch, allowed: Array, key: Array | None
    ) -> Any:
        params = parameters.join(part, frozen)
        if key is not None:
            params = parameters.dropping(params, key, self.dropout)
        entropy = self.objective.entropy > 0
        measured = self._forward(params, batch, allowed, entropy=entropy)
        logprobs, entropies = measured if entropy else (measured, None)
        return loss_of(logprobs, entropies, batch, self.objective)

    def _step(
        self, state: TrainState, batch: Batch, real: Array, allowed: Array, most_apart: Array
    ) -> tuple[TrainState, Scalars]:
        compute = parameters.cast(state.trained, self.cfg.dtype)
        gradient = jax.value_and_grad(self._loss, has_aux=True)
        first = jax.tree.map(lambda x: x[0], batch)
        key = None
        if self.dropout:
            key = jax.random.fold_in(jax.random.key(self.seed), state.updates)
        like = jax.eval_shape(self._loss, compute, state.frozen, first, allowed, key)
        empty = (
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like),
            self._placed(jax.tree.map(jnp.zeros_like, state.trained)),
        )

        def body(carry: Any, scanned: tuple[Batch, Array, Array]) -> tuple[Any, None]:
            part, holds, number = scanned

            def run(carry: Any) -> Any:
                own = None if key is None else jax.random.fold_in(key, number)
                return jax.tree.map(
                    lambda total, new: total + new.astype(total.dtype),
                    carry,
                    gradient(compute, state.frozen, part, allowed, own),
                )

            return jax.lax.cond(holds, run, lambda carry: carry, carry), None

        scanned = (batch, real, jnp.arange(len(real)))
        ((loss, sums), gradients), _ = jax.lax.scan(body, empty, scanned)
        present = batch.weights.sum()  # under 1 where episodes were left out, as flat groups are
        watched = {name: x / present for name, x in sums.items()}
        strange = watched.get(FROM_DRAWN, jnp.zeros(())) > most_apart
        return self._apply(state, loss, watched, self._placed(gradients), strange)

    def _apply(
        self, state: TrainState, loss: Array, watched: Scalars, gradients: Tree, strange: Array
    ) -> tuple[TrainState, Scalars]:
        norm = optax.global_norm(gradients)
        sound = jnp.isfinite(norm) & jnp.isfinite(loss) & ~strange
        broken = ~sound & ~strange
        changes, moments = self.optimizer.update(gradients, state.moments, state.trained)

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(sound, new, old)

        new = TrainState(
            trained=jax.tree.map(keep, optax.apply_updates(state.trained, changes), state.trained),
            frozen=state.frozen,
            moments=jax.tree.map(keep, moments, state.moments),
            updates=state.updates + sound,
            refused=jnp.where(sound, 0, state.refused + broken),
            ever_refused=state.ever_refused + broken,
        )
        counts = {"refused": new.refused.astype(jnp.float32)}
        return new, {"loss": loss, "gradient_norm": norm, **watched, **counts}

    def _placed(self, tree: Tree) -> Tree:
        return jax.lax.with_sharding_constraint(tree, spec.shardings_of(self.specs[0], self.mesh))
