"""Log-probabilities of packed rows, and where their arrays live on a mesh.

    scorer = Scorer(cfg, allowed=allowed, mesh=mesh)
    placed = scorer.place(batch)
    logprobs, entropy = scorer.logprobs(params, placed, real)

All micro-batches go through one program. Those that only pad their number are skipped.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import RULES
from lfpc_jax.model import qwen, text
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.model.logprobs import token_logprobs, token_logprobs_and_entropy
from lfpc_jax.model.tuning import update_options
from lfpc_jax.trajectory import Batch


class Scorer:
    """The compiled scoring program of a model. It holds no parameters."""

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
        rows = NamedSharding(mesh, PartitionSpec(None, RULES["batch"]))
        self._logprobs = jax.jit(
            self._all_logprobs, out_shardings=(rows, rows), compiler_options=self._options
        )
        self._logprobs_at = jax.jit(
            self._all_logprobs_at, out_shardings=rows, compiler_options=self._options
        )

    def logprobs(
        self, params: Tree, batch: Batch, real: Bool[Any, "M"]
    ) -> tuple[Float[Array, "M B T"], Float[Array, "M B T"]]:
        """The log-probability of every token, and the entropy at its position. `params` are in the
        dtype that is computed with."""
        with jax.set_mesh(self.mesh):
            return self._logprobs(params, batch, real, self._allowed)

    def logprobs_at(
        self, params: Tree, batch: Batch, real: Bool[Any, "M"], at: Int[Any, "M B N"]
    ) -> Float[Array, "M B N"]:
        """As `logprobs`, of the tokens at these places of each row alone. No logits are computed
        elsewhere."""
        with jax.set_mesh(self.mesh):
            return self._logprobs_at(params, batch, real, self._allowed, at)

    def lowered_logprobs(self, params: Tree, batch: Batch) -> Any:
        """The program of `logprobs` for abstract arrays, to compile ahead of time."""
        with jax.set_mesh(self.mesh):
            return self._logprobs.lower(params, batch, *self._abstract(batch))

    def lowered_logprobs_at(self, params: Tree, batch: Batch, places: int) -> Any:
        """The program of `logprobs_at` for abstract arrays and so many places in each row."""
        shape = (*batch.tokens.ids.shape[:2], places)
        rows = NamedSharding(self.mesh, PartitionSpec(None, RULES["batch"]))
        at = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        with jax.set_mesh(self.mesh):
            return self._logprobs_at.lower(params, batch, *self._abstract(batch), at)

    # ------------------------------------------------------------ where arrays live

    @property
    def shards(self) -> int:
        """How many shards of a batch this process fills."""
        processes = {device.process_index for device in self.mesh.devices.flat}
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"] // len(processes)

    def place(self, batch: Batch) -> Batch:
        """The batch on the devices; `batch` holds this process's rows of it."""
        shardings = self.batch_shardings(batch)
        return jax.tree.map(jax.make_array_from_process_local_data, shardings, batch)

    def batch_shardings(self, batch: Batch) -> Batch:
        """Where each array of such a batch lies: its rows are split, its micro-batches are not."""
        rows, third = (
            NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, RULES["batch"]))
            for axis in (1, 2)
        )
        placed = jax.tree.map(lambda _: rows, batch)
        return replace(placed, tokens=replace(placed.tokens, positions=third))

    def local_rows(self, placed: Array) -> np.ndarray:
        """This process's rows of an array over all tokens, which `place` or `logprobs` returned."""
        rows = {shard.index[1].start or 0: shard.data for shard in placed.addressable_shards}
        return np.concatenate([rows[first] for first in sorted(rows)], axis=1)

    def _abstract(self, batch: Batch) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """`real` and `allowed` for a batch."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        real = jax.ShapeDtypeStruct(batch.tokens.ids.shape[:1], jnp.bool_, sharding=whole)
        allowed = jax.ShapeDtypeStruct(self._allowed.shape, jnp.bool_, sharding=whole)
        return real, allowed

    # ------------------------------------------------------------ what is compiled

    def _laid_out(self, params: Tree) -> Tree:
        """With a tree for each layer if `unstacked`. Parameters that are unstacked already, as an
        engine's are, stay so."""
        if isinstance(params["text"], tuple):
            return text.paired(params)
        return text.paired(unstack(params)) if self.unstacked else params

    def _hidden(self, params: Tree, batch: Batch) -> Float[Array, "B T D"]:
        """The final hidden states of a micro-batch."""
        embeddings = None
        if batch.images is not None:
            embeddings = qwen.encode_images(params, batch.images, cfg=self.cfg)
        return qwen.hidden_states(params, batch.tokens, embeddings, cfg=self.cfg)

    def _forward(self, params: Tree, batch: Batch, allowed: Array, *, entropy: bool) -> Any:
        """The log-probability of every token given those before it, at that token's position."""
        params = self._laid_out(params)
        hidden = self._hidden(params, batch)
        targets = jnp.roll(batch.tokens.ids, -1, axis=1)
        measure = token_logprobs_and_entropy if entropy else token_logprobs
        measured = measure(
            params,
            hidden,
            targets,
            cfg=self.cfg,
            allowed=allowed,
            temperature=self.temperature,
        )
        return jax.tree.map(lambda x: jnp.roll(x, 1, axis=1), measured)

    def _all_logprobs(
        self, params: Tree, batch: Batch, real: Array, allowed: Array
    ) -> tuple[Array, Array]:
        def of_micro_batch(scanned: tuple[Batch, Array]) -> tuple[Array, Array]:
            part, holds = scanned
            shape = part.tokens.ids.shape
            nothing = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
            run = partial(self._forward, params, part, allowed, entropy=True)
            return jax.lax.cond(holds, run, lambda: nothing)

        return jax.lax.map(of_micro_batch, (batch, real))

    def _all_logprobs_at(
        self, params: Tree, batch: Batch, real: Array, allowed: Array, at: Array
    ) -> Array:
        def of_micro_batch(scanned: tuple[Batch, Array, Array]) -> Array:
            part, holds, places = scanned
            run = partial(self._forward_at, params, part, allowed, places)
            return jax.lax.cond(holds, run, lambda: jnp.zeros(places.shape, jnp.float32))

        return jax.lax.map(of_micro_batch, (batch, real, at))

    def _forward_at(self, params: Tree, batch: Batch, allowed: Array, at: Array) -> Array:
        """The log-probabilities of the tokens at `at`, from the hidden states before them."""
        hidden = self._hidden(self._laid_out(params), batch)
        before = jnp.take_along_axis(hidden, jnp.maximum(at - 1, 0)[..., None], axis=1)
        return token_logprobs(
            params,
            before,
            jnp.take_along_axis(batch.tokens.ids, at, axis=1),
            cfg=self.cfg,
            allowed=allowed,
            temperature=self.temperature,
        )
