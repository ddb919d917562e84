"""One sharded update: a mini-batch through the loss and its gradient, then one optimizer step.

    learner = Learner(cfg, optimizer, ...)
    state = learner.start(params, key)                          # parameters are donated
    state, metrics, logprobs = learner.update(state, learner.place(mini_batch))    # so is the state

An update is a sequence of programs. Each takes a micro-batch, so none depends on how many there
are:

    encode    pictures to embeddings, each distinct picture of the mini-batch once
    learn     rows of tokens to the loss and its gradient, which includes the embeddings' gradients
    backward  the embeddings' gradients through the vision tower, which is computed once more
    apply     the optimizer

Gradients are summed in float32, in arrays that are given from program to program. The metrics
beside the loss are weighted means over the tokens of the mini-batch. Parameters are cast once,
before the first program, so that a mesh gathers them in the dtype that it computes with. A tower
that is not trained is never differentiated. What is frozen is not given to the optimizer's program,
so its arrays stay the same ones in every state, and others may hold them, too. With
`moments_on_host` the optimizer's moments are on the devices for its program alone, when there are
no activations.

An update whose gradient or loss is not finite changes nothing but the count of such updates in a
row. An update whose log-probabilities lie further than `most_apart` from those that the tokens were
sampled with changes nothing at all.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from lfpc_jax.arrays import Tree
from lfpc_jax.grpo.objective import (
    FRESH,
    FROM_DRAWN,
    Objective,
    Scalars,
    apart_from_sampler,
    judged_weights,
    loss_of,
)
from lfpc_jax.grpo.packing import MiniBatch
from lfpc_jax.grpo.scorer import Embeddings, Scorer
from lfpc_jax.model import parameters, qwen, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import restack
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.trajectory import Batch, PackedImages

HOST = "pinned_host"
"""JAX's name of the host's memory from which devices copy."""


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


@dataclass(frozen=True, eq=False)
class _Policy:
    """What an update computes with: trained parameters in the model's dtype, and the frozen ones,
    both laid out. With dropout, `key` decides what is dropped."""

    trained: Tree
    frozen: Tree
    key: Array | None


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
        moments_on_host: bool = False,
    ) -> None:
        """`temperature` is the one at which rollouts are sampled. `seed` decides what LoRA's
        dropout drops. The rest is a scorer's."""
        super().__init__(
            cfg, allowed=allowed, mesh=mesh, temperature=temperature, unstacked=unstacked
        )
        self.optimizer, self.objective, self.trainable = optimizer, objective, trainable
        self.seed, self.dropout = seed, trainable.lora.dropout if trainable.lora else 0.0
        self.moments_on_host = moments_on_host
        self.specs = parameters.specs(cfg, trainable)
        scalar = NamedSharding(mesh, PartitionSpec())
        placed = jax.tree.map(lambda x: x.sharding, self.abstract_state(computing=True))
        summed = self.gradient_shardings()
        compiled = partial(jax.jit, compiler_options=self._options)
        self._start = jax.jit(self._new_state, out_shardings=placed, donate_argnums=1)
        self._narrow = jax.jit(partial(parameters.cast, dtype=cfg.dtype))
        self._zeros = jax.jit(
            lambda trained: jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained),
            out_shardings=summed,
        )
        self._drops = jax.jit(self._dropped)
        self._learn = compiled(
            self._learned,
            out_shardings=(scalar, text_of(summed), self.rows, self.rows),
            donate_argnums=0,
        )
        self._add = jax.jit(partial(jax.tree.map, jnp.add), out_shardings=scalar)
        self._gathered = jax.jit(qwen.gathered, out_shardings=self.rows, donate_argnums=0)
        self._cut = jax.jit(_cut, static_argnums=2, out_shardings=self.rows)
        self._backward = compiled(
            self._through_tower, out_shardings=tower_of(summed), donate_argnums=0
        )
        changing = replace(placed, frozen={})
        self._apply = compiled(self._applied, out_shardings=(changing, scalar), donate_argnums=0)
        self._apart = jax.jit(_distance, out_shardings=scalar)

    def start(self, params: Tree, key: Array) -> TrainState:
        with jax.set_mesh(self.mesh):
            return self._put_away(self._start(key, params))

    def update(
        self, state: TrainState, mini_batch: MiniBatch, *, most_apart: float = math.inf
    ) -> tuple[TrainState, Scalars, list[Float[Array, "B _"]]]:
        """One optimizer step on a placed mini-batch. Returns also, for each micro-batch of rows,
        the log-probabilities that the step was computed from. `most_apart` bounds the mean distance
        of the tokens' log-probabilities from the sampler's; it only makes sense for an update of
        the policy that sampled."""
        with jax.set_mesh(self.mesh):
            policy = self._policy(state)
            gradients = self._zeros(policy.trained)
            of_text, of_tower = text_of(gradients), tower_of(gradients)
            del gradients
            embeddings = self._encoded_with(policy, mini_batch)
            slopes = None
            if embeddings is not None and self.trains_tower:
                slopes = self._room(mini_batch, jnp.float32)
            sums: Scalars = {}
            logprobs = []
            for number, rows in enumerate(mini_batch.rows):
                frozen = self._frozen(policy, "rows", number)
                more, of_text, slope, measured = self._learn(
                    of_text,
                    text_of(policy.trained),
                    text_of(frozen),
                    rows,
                    self._seen(embeddings, rows),
                    self._allowed,
                )
                sums = self._add(sums, more) if sums else more
                if slopes is not None:
                    slopes = self._gathered(slopes, rows.tokens.image_index, slope)
                logprobs.append(measured)
                jax.block_until_ready(logprobs[-2:-1])  # so no more than two micro-batches exist
            del embeddings
            if slopes is not None:
                of_tower = self._tower_gradients(of_tower, policy, mini_batch, slopes)
            del policy, slopes
            gradients = {**of_text, **of_tower}
            changing = self._taken_out(replace(state, frozen={}))
            new, metrics = self._apply(changing, gradients, sums, np.float32(most_apart))
            del changing
            new = self._put_away(new)
        return replace(new, frozen=state.frozen), metrics, logprobs

    def apart(
        self, logprobs: Sequence[Float[Array, "B _"]], mini_batch: MiniBatch
    ) -> Float[Array, "2"]:
        """The weighted sum of the distances between these log-probabilities and the sampler's, and
        the sum of the weights; log-probabilities that are NaN are left out of both."""
        with jax.set_mesh(self.mesh):
            each = [self._apart(*pair) for pair in zip(logprobs, mini_batch.rows, strict=True)]
            return sum(each[1:], each[0])

    def computing(self, state: TrainState) -> Tree:
        """The parameters in the form that rollouts compute with: a copy of what is trained, and the
        state's own arrays of what is frozen. LoRA's factors stay separate from the weights, since a
        sum of both in bfloat16 would round away most of what the factors have learned early in
        training."""
        with jax.set_mesh(self.mesh):
            return parameters.join(self._narrow(state.trained), state.frozen)

    # ------------------------------------------------------------ ahead of time

    def lowered_learn(self, rows: Batch, seen: Any) -> Any:
        """The program `learn` for abstract arrays. `seen` is None without pictures."""
        with jax.set_mesh(self.mesh):
            return self._learn.lower(*self._abstract_learn(rows, seen))

    def lowered_backward(self, images: PackedImages) -> Any:
        """The program `backward` for abstract arrays."""
        trained, frozen = map(tower_of, self.abstract_policy())
        with jax.set_mesh(self.mesh):
            slope = jax.eval_shape(self._encoded, parameters.join(trained, frozen), images)
            slope = jax.ShapeDtypeStruct(slope.shape, jnp.float32, sharding=self.rows)
            gradients = tower_of(self.abstract_gradients())
            return self._backward.lower(gradients, trained, frozen, images, slope)

    def lowered_apply(self, rows: Batch, seen: Any) -> Any:
        """The program `apply` for abstract arrays. Which metrics it takes follows from `rows`."""
        most_apart = jax.ShapeDtypeStruct((), jnp.float32)
        state = replace(self.abstract_state(computing=True), frozen={})
        gradients = self.abstract_gradients()
        with jax.set_mesh(self.mesh):
            sums = jax.eval_shape(self._learned, *self._abstract_learn(rows, seen))[0]
            return self._apply.lower(state, gradients, sums, most_apart)

    def abstract_policy(self) -> tuple[Tree, Tree]:
        """What an update computes with: the trained and the frozen parameters in the compute
        dtype, with what dropout needs."""
        trained, frozen = (spec.abstract_of(x, self.cfg.dtype, self.mesh) for x in self.specs)
        if not self.dropout:
            return trained, frozen
        key = jax.eval_shape(lambda: jax.random.key(self.seed))
        drops = jax.eval_shape(self._dropped, trained, key, np.int32(0))
        return trained, parameters.join(drops, frozen)

    def abstract_gradients(self) -> Tree:
        """The sums of gradients, in float32 and placed as the parameters are."""
        return spec.abstract_of(self.specs[0], jnp.float32, self.mesh)

    def _abstract_learn(self, rows: Batch, seen: Any) -> tuple[Any, ...]:
        trained, frozen = map(text_of, self.abstract_policy())
        gradients = text_of(self.abstract_gradients())
        return gradients, trained, frozen, rows, seen, self.abstract_allowed

    # ------------------------------------------------------------ the parts of an update

    @property
    def trains_tower(self) -> bool:
        return "vision" in self.specs[0]

    def _policy(self, state: TrainState) -> _Policy:
        key = None
        if self.dropout:
            key = jax.random.fold_in(jax.random.key(self.seed), state.updates)
        trained = self.laid_out(self._narrow(state.trained))
        return _Policy(trained, self.laid_out(state.frozen), key)

    def _frozen(self, policy: _Policy, kind: Literal["rows", "pictures"], number: int) -> Tree:
        """The frozen parameters, and what dropout needs for a micro-batch."""
        if policy.key is None:
            return policy.frozen
        micro_batch = 2 * number + (kind == "pictures")
        return parameters.join(self._drops(policy.trained, policy.key, micro_batch), policy.frozen)

    def _encoded_with(self, policy: _Policy, mini_batch: MiniBatch) -> Embeddings:
        def params() -> Iterator[Tree]:
            for number in range(len(mini_batch.bins)):
                frozen = self._frozen(policy, "pictures", number)
                yield tower_of(parameters.join(policy.trained, frozen))

        return self._all_encoded(params(), mini_batch)

    def _tower_gradients(
        self, summed: Tree, policy: _Policy, mini_batch: MiniBatch, slopes: Array
    ) -> Tree:
        """`summed` with the tower's gradients, which follow from the embeddings'."""
        tokens = mini_batch.shapes.windows * self.cfg.vision.window**2
        for number, images in enumerate(mini_batch.pictures()):
            inputs = self.place_arrays(images), self._cut(slopes, number, tokens)
            jax.block_until_ready(summed)  # so no more than two micro-batches exist
            summed = self._backward(
                summed,
                tower_of(policy.trained),
                tower_of(self._frozen(policy, "pictures", number)),
                *inputs,
            )
        return summed

    # ------------------------------------------------------------ where arrays live

    def _taken_out(self, state: TrainState) -> TrainState:
        """The state as the optimizer's program takes it. Moments leave the host's memory."""
        if not self.moments_on_host:
            return state
        where = jax.tree.map(lambda x: x.sharding.with_memory_kind("device"), state.moments)
        moments = jax.block_until_ready(jax.device_put(state.moments, where))
        jax.tree.map(lambda x: x.delete(), state.moments)
        return replace(state, moments=moments)

    def _put_away(self, state: TrainState) -> TrainState:
        """The state as it is between the optimizer's steps."""
        if not self.moments_on_host:
            return state
        where = jax.tree.map(lambda x: x.sharding.with_memory_kind(HOST), state.moments)
        return replace(state, moments=jax.block_until_ready(jax.device_put(state.moments, where)))

    def abstract_state(self, *, computing: bool = False) -> TrainState:
        """Shapes, dtypes and shardings of the state, to restore into or to plan with; with
        `computing`, as the optimizer's program has it."""
        scalar = NamedSharding(self.mesh, PartitionSpec())
        part = spec.abstract_of(self.specs[0], jnp.float32, self.mesh)
        frozen = spec.abstract_of(self.specs[1], self.cfg.dtype, self.mesh)
        count = jax.ShapeDtypeStruct((), jnp.int32, sharding=scalar)
        kind = HOST if self.moments_on_host and not computing else "device"

        def kept(x: jax.ShapeDtypeStruct, like: NamedSharding) -> jax.ShapeDtypeStruct:
            where = like.with_memory_kind(kind) if self.moments_on_host else like
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        moments = optax.tree.map_params(
            self.optimizer,
            lambda moment, param: kept(moment, param.sharding),
            jax.eval_shape(self.optimizer.init, part),
            part,
            transform_non_params=lambda x: kept(x, scalar),
        )
        return TrainState(part, frozen, moments, count, count, count)

    def gradient_shardings(self) -> Tree:
        """Where each sum of gradients lies: as its parameter does."""
        specs = spec.unstacked(self.specs[0]) if self.unstacked else self.specs[0]
        return spec.shardings_of(specs, self.mesh)

    # ------------------------------------------------------------ what is compiled

    def _new_state(self, key: Array, params: Tree) -> TrainState:
        part, frozen = parameters.split(key, params, self.cfg, self.trainable)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(part, frozen, self.optimizer.init(part), zero, zero, zero)

    def _dropped(self, trained: Tree, key: Array, micro_batch: Array) -> Tree:
        return parameters.drops(trained, jax.random.fold_in(key, micro_batch), self.dropout)

    def _learned(
        self,
        gradients: Tree,
        trained: Tree,
        frozen: Tree,
        rows: Batch,
        seen: Array | None,
        allowed: Array,
    ) -> tuple[Scalars, Tree, Array | None, Array]:
        """A micro-batch of rows: its part of the loss and of the metrics' sums, `gradients` with
        its own added, the gradient of the embeddings that it saw, and its log-probabilities."""

        def loss(trained: Tree, seen: Array | None) -> tuple[Array, tuple[Scalars, Array]]:
            entropy = self.objective.entropy > 0
            params = parameters.join(trained, frozen)
            measured = self._measured(params, rows, seen, allowed, entropy=entropy)
            logprobs, entropies = measured if entropy else (measured, None)
            value, sums = loss_of(logprobs, entropies, rows, self.objective)
            return value, (sums, logprobs)

        with_seen = seen is not None and self.trains_tower
        gradient = jax.value_and_grad(loss, argnums=(0, 1) if with_seen else 0, has_aux=True)
        (value, (sums, logprobs)), slopes = gradient(trained, seen)
        new, slope = slopes if with_seen else (slopes, None)
        sums = {"loss": value, "present": rows.weights.sum(), **sums}
        return sums, _added(gradients, new), slope, logprobs

    def _through_tower(
        self, gradients: Tree, trained: Tree, frozen: Tree, images: PackedImages, slope: Array
    ) -> Tree:
        """`gradients` with those of the tower added, for a micro-batch of pictures."""

        def encode(trained: Tree) -> Array:
            return self._encoded(parameters.join(trained, frozen), images)

        embeddings, pull = jax.vjp(encode, trained)
        [new] = pull(slope.astype(embeddings.dtype))
        return _added(gradients, new)

    def _applied(
        self, state: TrainState, gradients: Tree, sums: Scalars, most_apart: Array
    ) -> tuple[TrainState, Scalars]:
        """The optimizer's step with the summed gradients of all micro-batches, on a state without
        what is frozen."""
        gradients = restack(gradients) if self.unstacked else gradients
        gradients = self._placed_as_state(gradients)
        sums = dict(sums)
        loss, present = sums.pop("loss"), sums.pop("present")
        # `present` is under 1 where episodes were left out, as flat groups are.
        fresh = sums.pop(FRESH, present)
        watched = {name: x / present for name, x in sums.items()}
        if FROM_DRAWN in sums:
            watched[FROM_DRAWN] = jnp.where(fresh > 0, sums[FROM_DRAWN] / fresh, 0.0)
        strange = watched.get(FROM_DRAWN, jnp.zeros(())) > most_apart
        norm = optax.global_norm(gradients)
        sound = jnp.isfinite(norm) & jnp.isfinite(loss) & ~strange
        broken = ~sound & ~strange
        changes, moments = self.optimizer.update(gradients, state.moments, state.trained)

        def keep(new: Array, old: Array) -> Array:
            return jnp.where(sound, new, old)

        new = TrainState(
            trained=jax.tree.map(keep, optax.apply_updates(state.trained, changes), state.trained),
            frozen={},
            moments=jax.tree.map(keep, moments, state.moments),
            updates=state.updates + sound,
            refused=jnp.where(sound, 0, state.refused + broken),
            ever_refused=state.ever_refused + broken,
        )
        counts = {"refused": new.refused.astype(jnp.float32)}
        return new, {"loss": loss, "gradient_norm": norm, **watched, **counts}

    def _placed_as_state(self, tree: Tree) -> Tree:
        return jax.lax.with_sharding_constraint(tree, spec.shardings_of(self.specs[0], self.mesh))


def text_of(params: Tree) -> Tree:
    """All parameters, or a part of them, but the vision tower's."""
    return {name: part for name, part in params.items() if name != "vision"}


def tower_of(params: Tree) -> Tree:
    """The vision tower's parameters alone."""
    return {name: part for name, part in params.items() if name == "vision"}


def _added(sums: Tree, new: Tree) -> Tree:
    return jax.tree.map(lambda total, x: total + x.astype(total.dtype), sums, new)


def _cut(slopes: Array, number: Array, tokens: int) -> Array:
    """The gradients of the embeddings of one micro-batch of pictures."""
    return jax.lax.dynamic_slice_in_dim(slopes, number * tokens, tokens, 1)


def _distance(logprobs: Array, rows: Batch) -> Float[Array, "2"]:
    weights = judged_weights(logprobs, rows).sum()
    return jnp.stack([apart_from_sampler(logprobs, rows), weights])
