"""Log-probabilities of packed rows, and where their arrays live on a mesh.

    scorer = Scorer(cfg, allowed=allowed, mesh=mesh)
    placed = scorer.place(mini_batch)
    params = scorer.laid_out(params)
    embeddings = scorer.embeddings(params, placed)
    logprobs = scorer.logprobs(params, placed, embeddings)

The programs take a micro-batch each, so none depends on how many there are: `encode` a micro-batch
of pictures, `score` one of rows. Between them the embeddings of a mini-batch's pictures lie in one
array, `[shards, N, D]`. Small programs put embeddings into it and take a row's embeddings out of
it. They alone depend on how many pictures it has room for.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import RULES
from lfpc_jax.grpo.packing import MiniBatch, empty_pictures, empty_rows
from lfpc_jax.model import qwen, text
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.model.logprobs import token_logprobs, token_logprobs_and_entropy
from lfpc_jax.model.tuning import update_options
from lfpc_jax.shapes import TrainShapes, micro_batches_for
from lfpc_jax.trajectory import Batch, PackedImages

Embeddings = Float[Array, "S E D"] | None


class Scorer:
    """The compiled scoring programs of a model. It holds no parameters."""

    def __init__(
        self,
        cfg: ModelConfig,
        *,
        allowed: Bool[Any, "V"],
        mesh: Mesh,
        temperature: float = 1.0,
        unstacked: bool = False,
    ) -> None:
        """Distributions are over the `allowed` ids. Logits are divided by `temperature` before
        every log-probability and entropy. `unstacked` compiles a loop over layers in place of a
        scan, which is nearly twice as fast on a CPU and compiles faster for a few layers."""
        self.cfg, self.mesh, self.unstacked = cfg, mesh, unstacked
        self.temperature = temperature
        self._allowed = jnp.asarray(allowed)
        self._options = update_options(mesh.devices.flat[0].platform)
        rows = self.rows
        compiled = partial(jax.jit, out_shardings=rows, compiler_options=self._options)
        self._encode = compiled(self._encoded)
        self._score = compiled(self._logprobs)
        self._unstack = jax.jit(unstack)
        self._put = jax.jit(_put, out_shardings=rows, donate_argnums=0)
        self._placed = jax.jit(qwen.placed, out_shardings=rows)

    def laid_out(self, params: Tree) -> Tree:
        """The parameters as the programs take them: with a tree for each layer if `unstacked`.
        Parameters that are so already, as an engine's are, stay so."""
        if not self.unstacked or isinstance(params.get("text"), tuple):
            return params
        with jax.set_mesh(self.mesh):
            return self._unstack(params)

    def embeddings(self, params: Tree, mini_batch: MiniBatch) -> Embeddings:
        """The embeddings of all pictures, or None if there are none."""
        with jax.set_mesh(self.mesh):
            return self._all_encoded(itertools.repeat({"vision": params["vision"]}), mini_batch)

    def logprobs(
        self, params: Tree, mini_batch: MiniBatch, embeddings: Embeddings
    ) -> list[Float[Array, "B _"]]:
        """For each micro-batch of rows, the log-probabilities of the tokens that count. `params`
        are laid out and in the dtype that is computed with; the rows are placed."""
        with jax.set_mesh(self.mesh):
            return [
                self._score(params, rows, self._seen(embeddings, rows), self._allowed)
                for rows in mini_batch.rows
            ]

    # ------------------------------------------------------------ ahead of time

    def lowered_encode(self, params: Tree, images: PackedImages) -> Any:
        """The program `encode` for abstract arrays. Of the parameters it takes the tower's."""
        with jax.set_mesh(self.mesh):
            return self._encode.lower({"vision": params["vision"]}, images)

    def lowered_score(self, params: Tree, rows: Batch, seen: Any) -> Any:
        """The program `score` for abstract arrays. `seen` is None without pictures."""
        with jax.set_mesh(self.mesh):
            return self._score.lower(params, rows, seen, self.abstract_allowed)

    def abstract_rows(self, shapes: TrainShapes, places: int) -> Batch:
        """A micro-batch of rows of all processes: shapes, dtypes and shardings."""
        count = self.all_shards * shapes.rows
        return self._abstract(partial(empty_rows, shapes, count, places, xp=jnp))

    def abstract_pictures(self, shapes: TrainShapes, span: int) -> PackedImages:
        """A micro-batch of pictures of all processes, in spans of so many windows."""
        processor = self.cfg.vision.processor
        return self._abstract(
            partial(empty_pictures, shapes, processor, self.all_shards, span, xp=jnp)
        )

    def abstract_seen(self, shapes: TrainShapes) -> jax.ShapeDtypeStruct:
        """The image embedding for every token of a micro-batch of rows."""
        shape = (self.all_shards * shapes.rows, shapes.row_tokens, self.cfg.text.width)
        return jax.ShapeDtypeStruct(shape, self.cfg.dtype, sharding=self.rows)

    @property
    def abstract_allowed(self) -> jax.ShapeDtypeStruct:
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(self._allowed.shape, jnp.bool_, sharding=whole)

    def _abstract(self, of_zeros: Callable[[], Any]) -> Any:
        arrays = jax.eval_shape(of_zeros)
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            arrays,
            self.shardings_of(arrays),
        )

    # ------------------------------------------------------------ where arrays live

    @property
    def rows(self) -> NamedSharding:
        """The sharding of arrays whose first axis is split as rows are."""
        return NamedSharding(self.mesh, PartitionSpec(RULES["batch"]))

    @property
    def all_shards(self) -> int:
        """Over how many shards rows are split."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def shards(self) -> int:
        """How many shards of a batch this process fills."""
        processes = {device.process_index for device in self.mesh.devices.flat}
        return self.all_shards // len(processes)

    def place(self, mini_batch: MiniBatch) -> MiniBatch:
        """The mini-batch with its rows on the devices. Pictures follow when they are encoded."""
        return replace(mini_batch, rows=tuple(map(self.place_arrays, mini_batch.rows)))

    def place_arrays(self, arrays: Any) -> Any:
        """A micro-batch on the devices; `arrays` holds this process's rows of it."""
        shardings = self.shardings_of(arrays)
        return jax.tree.map(jax.make_array_from_process_local_data, shardings, arrays)

    def shardings_of(self, arrays: Any) -> Any:
        """Where each array of a micro-batch lies: its rows are split."""
        placed = jax.tree.map(lambda _: self.rows, arrays)
        if not isinstance(arrays, Batch):
            return placed
        second = NamedSharding(self.mesh, PartitionSpec(None, RULES["batch"]))
        return replace(placed, tokens=replace(placed.tokens, positions=second))

    def local(self, mini_batch: MiniBatch) -> MiniBatch:
        """A placed mini-batch with this process's rows as NumPy arrays."""
        return replace(mini_batch, rows=tuple(map(self.local_rows, mini_batch.rows)))

    def local_rows(self, rows: Any) -> Any:
        """This process's rows of a micro-batch on the devices, or of an array split by rows."""

        def parts(x: Array, axis: int) -> np.ndarray:
            held = {shard.index[axis].start or 0: shard.data for shard in x.addressable_shards}
            return np.concatenate([held[first] for first in sorted(held)], axis)

        axes = jax.tree.map(lambda sharding: len(sharding.spec) - 1, self.shardings_of(rows))
        return jax.tree.map(parts, rows, axes)

    def _all_encoded(self, params: Iterable[Tree], mini_batch: MiniBatch) -> Embeddings:
        """The embeddings of all pictures, with parameters for each micro-batch of them."""
        if not mini_batch.bins:
            return None
        embeddings = self._room(mini_batch, self.cfg.dtype)
        part = None
        for number, (images, of_micro_batch) in enumerate(zip(mini_batch.pictures(), params)):
            inputs = self.place_arrays(images)
            jax.block_until_ready(part)  # so no more than two micro-batches exist
            part = self._encode(of_micro_batch, inputs)
            embeddings = self._put(embeddings, part, number)
        return embeddings

    def _room(self, mini_batch: MiniBatch, dtype: Any) -> Float[Array, "S E D"]:
        """Zeros for the embeddings of all pictures, or for their gradients."""
        windows = micro_batches_for(len(mini_batch.bins)) * mini_batch.shapes.windows
        shape = (self.all_shards, windows * self.cfg.vision.window**2, self.cfg.text.width)
        return jnp.zeros(shape, dtype, device=self.rows)

    def _seen(self, embeddings: Embeddings, rows: Batch) -> Array | None:
        """The image embedding for every token of a micro-batch of rows."""
        return None if embeddings is None else self._placed(embeddings, rows.tokens.image_index)

    # ------------------------------------------------------------ what is compiled

    def _encoded(self, params: Tree, images: PackedImages) -> Array:
        return qwen.encode_images(params, images, cfg=self.cfg)

    def _logprobs(self, params: Tree, rows: Batch, seen: Array | None, allowed: Array) -> Array:
        return self._measured(params, rows, seen, allowed, entropy=False)

    def _measured(
        self, params: Tree, rows: Batch, seen: Array | None, allowed: Array, *, entropy: bool
    ) -> Any:
        """The log-probability of every token that counts, given those before it, and the entropy
        of its distribution, if wanted."""
        params = text.paired(params) if isinstance(params["text"], tuple) else params
        hidden = qwen.hidden_states(params, rows.tokens, seen, cfg=self.cfg)
        before = jnp.take_along_axis(hidden, jnp.maximum(rows.at - 1, 0)[..., None], axis=1)
        measure = token_logprobs_and_entropy if entropy else token_logprobs
        return measure(
            params,
            before,
            jnp.take_along_axis(rows.tokens.ids, rows.at, axis=1),
            cfg=self.cfg,
            allowed=allowed,
            temperature=self.temperature,
        )


def _put(embeddings: Array, part: Array, number: Array) -> Array:
    """Writes those of one micro-batch of pictures."""
    at = number * part.shape[1]
    return jax.lax.dynamic_update_slice_in_dim(embeddings, part.astype(embeddings.dtype), at, 1)
