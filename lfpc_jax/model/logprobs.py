"""Log-probabilities of given tokens, without `[tokens, vocabulary]` logits of all tokens in memory.

On a mesh the vocabulary's weights are gathered over `fsdp` once for all blocks, and their gradient
is scattered once. XLA's partitioner would do both in every block of the loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import RULES, constrain, partition
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.qwen import unembed, vocabulary

NEVER = -1e30
"""The logit of an id that may not be sampled."""


def token_logprobs(
    params: Tree,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    *,
    cfg: ModelConfig,
    allowed: Bool[Array, "V"] | None = None,
    temperature: float = 1.0,
    block: int = 512,
) -> Float[Array, "B T"]:
    """`log p(targets[b, t] | hidden[b, t])` in float32, `block` tokens of each row at a time.

    Logits are divided by `temperature`. With `allowed`, the distribution is over those ids only.
    Both are as in `rollout/sampling.py`. The backward pass recomputes a block's logits. `T` is
    padded to whole blocks."""
    return _by_blocks(_chosen, params, hidden, targets, cfg, allowed, temperature, block)


def token_logprobs_and_entropy(
    params: Tree,
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    *,
    cfg: ModelConfig,
    allowed: Bool[Array, "V"] | None = None,
    temperature: float = 1.0,
    block: int = 512,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """As `token_logprobs`, and the entropy of each distribution."""

    def both(logits: Array, targets: Array) -> tuple[Array, Array]:
        logprobs = jax.nn.log_softmax(logits)
        entropy = -(jnp.exp(logprobs) * logprobs).sum(axis=-1)
        return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], entropy

    return _by_blocks(both, params, hidden, targets, cfg, allowed, temperature, block)


def _chosen(logits: Array, targets: Array) -> Array:
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _by_blocks(
    measure: Callable[[Array, Array], Any],
    params: Tree,
    hidden: Array,
    targets: Array,
    cfg: ModelConfig,
    allowed: Array | None,
    temperature: float,
    block: int,
) -> Any:
    name = vocabulary(cfg)
    weight = params[name].astype(hidden.dtype)
    allowed = jnp.ones(cfg.text.vocab, bool) if allowed is None else allowed
    run = partial(_of_rows, measure, name, cfg=cfg, temperature=temperature, block=block)
    mesh = jax.sharding.get_abstract_mesh()
    rows = partition(("batch", None), targets.shape, mesh) if not mesh.empty else (None,)
    if rows[0] is None:
        return run(weight, hidden, targets, allowed)
    split = partition((None, "embed"), weight.shape, mesh)

    def local(weight: Array, *rest: Array) -> Any:
        if split[1] is not None:
            weight = jax.lax.all_gather(weight, split[1], axis=1, tiled=True)
        return run(weight, *rest)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(split, rows, rows, PartitionSpec()),
        out_specs=rows,
        axis_names=set(RULES["batch"]),
        check_vma=False,
    )(weight, hidden, targets, allowed)


def _of_rows(
    measure: Callable[[Array, Array], Any],
    name: str,
    weight: Array,
    hidden: Array,
    targets: Array,
    allowed: Array,
    *,
    cfg: ModelConfig,
    temperature: float,
    block: int,
) -> Any:
    B, T, D = hidden.shape
    block = min(block, T)
    padding = -T % block
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))

    @jax.checkpoint
    def measured(block: tuple[Array, Array]) -> Any:
        logits = constrain(unembed({name: weight}, block[0], cfg=cfg), None, None, "vocab")
        return measure(jnp.where(allowed, logits / temperature, NEVER), block[1])

    blocks = (
        hidden.reshape(B, -1, block, D).swapaxes(0, 1),
        targets.reshape(B, -1, block).swapaxes(0, 1),
    )
    rows = jax.lax.map(measured, blocks)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(B, -1)[:, :T], rows)
