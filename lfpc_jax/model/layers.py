"""The small parts that the vision tower and the decoder share, and the loop over their layers.

Weights are cast to the dtype of the activations where they are used, so they may be float32 while
activations are bfloat16. Norms are computed in float32.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from lfpc_jax.arrays import Tree
from lfpc_jax.model import attention_splash
from lfpc_jax.model.config import ModelConfig

_ENTERED = "layer_input"
_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attended": jax.checkpoint_policies.save_only_these_names(attention_splash.SAVED),
    "full": jax.checkpoint_policies.nothing_saveable,
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_ENTERED],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


@contextmanager
def computing(cfg: ModelConfig) -> Iterator[None]:
    """For a float32 model, makes matrix products float32, too. TPUs and GPUs would otherwise round
    their inputs."""
    with jax.default_matmul_precision("highest" if cfg.dtype == "float32" else "default"):
        yield


def rms_norm(x: Float[Array, "*n D"], weight: Float[Array, "D"], eps: float) -> Array:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return weight.astype(x.dtype) * y.astype(x.dtype)


def linear(x: Array, p: Tree, *, inputs: int = 1) -> Array:
    """`x` times `p["w"]` over the last `inputs` axes of `x`, plus the low-rank product of
    `p["lora"]` and the bias `p["b"]` if `p` has them. Integers `p["w"]` have a `p["scale"]`, which
    multiplies the product."""
    y = _product(x, p["w"], inputs)
    if "scale" in p:
        y = y * p["scale"].astype(x.dtype)
    if "lora" in p:
        # Otherwise XLA copies both weights into one on GPUs, for one product with `x`.
        seen = jax.lax.optimization_barrier(x)
        seen = _dropped(seen, p["lora"]["drop"]) if "drop" in p["lora"] else seen
        y = y + _product(_product(seen, p["lora"]["a"], inputs), p["lora"]["b"], 1)
    return y + p["b"].astype(x.dtype) if "b" in p else y


def _dropped(x: Array, drop: Tree) -> Array:
    """`x` with values set to 0 at a rate, and the others enlarged so that the mean stays."""
    key = jax.random.wrap_key_data(drop["key"])
    keep = 1 - drop["rate"]
    kept = jax.random.bernoulli(key, keep, x.shape)
    return jnp.where(kept, x / keep.astype(x.dtype), 0)


def _product(x: Array, w: Array, inputs: int) -> Array:
    """Reshapes both to matrices: with more axes, gradients take 1.6 times as long on a CPU."""
    rows, columns = x.shape[:-inputs], w.shape[inputs:]
    size = math.prod(w.shape[:inputs])
    y = x.reshape(-1, size) @ w.astype(x.dtype).reshape(size, -1)
    return y.reshape(*rows, *columns)


def gated_mlp(x: Array, p: Tree) -> Array:
    return linear(_gated(linear(x, p["gate"]), linear(x, p["up"])), p["down"])


@jax.custom_vjp
def _gated(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


def _gated_forward(gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
    """Saves only its inputs; autodiff would also save the sigmoid and what is computed from it."""
    return _gated(gate, up), (gate, up)


def _gated_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    gate, up = saved
    opened = jax.nn.sigmoid(gate)
    activated = gate * opened
    return slope * up * (opened + activated * (1 - opened)), slope * activated


_gated.defvjp(_gated_forward, _gated_backward)


def each_layer(
    body: Callable[[Any, tuple[Tree, Any]], tuple[Any, Any]],
    carry: Any,
    layers: Tree,
    xs: Any,
    *,
    remat: str = "none",
) -> tuple[Any, Any]:
    """`lax.scan` over stacked layers, or a Python loop over a tuple of layers (see `unstack`).

    `remat` says what is saved for the backward pass, from the most to the least:

    none      everything
    dots      every layer's input, and products with weights
    attended  every layer's input, and what attention kernels computed
    full      every layer's input
    offload   every layer's input, in the host's memory
    """
    if not isinstance(layers, tuple):
        return jax.lax.scan(_remat(body, remat, scanned=True), carry, (layers, xs))
    ys = []
    for index, layer in enumerate(layers):
        x = jax.tree.map(lambda x, i=index: x[i], xs)  # static, so that a body may branch on it
        step = _remat(lambda carry, layer, x=x: body(carry, (layer, x)), remat, scanned=False)
        carry, y = step(carry, layer)
        ys.append(y)
    return carry, tuple(ys)


def _remat(body: Callable, remat: str, *, scanned: bool) -> Callable:
    if remat == "none":
        return body
    if remat == "offload":
        body = _with_named_input(body)
    return jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=not scanned)


def _with_named_input(body: Callable) -> Callable:
    def run(carry: Any, scanned: Any) -> Any:
        return body(jax.tree.map(lambda x: checkpoint_name(x, _ENTERED), carry), scanned)

    return run


def unstack(params: Tree) -> Tree:
    """The same parameters, or a part of them, with a tree for each layer: for decoding, where a
    scan would copy every layer's weights out of the stack at every step, and for CPUs. Compilation
    takes longer by about the number of layers."""
    return with_layers(params, _split)


def restack(params: Tree) -> Tree:
    """What `unstack` was given."""
    return with_layers(params, _join)


def with_layers(params: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """The parameters, or a part of them, with the layers of the text and of the tower changed."""
    changed = dict(params)
    if "text" in params:
        changed["text"] = change(params["text"])
    if "layers" in params.get("vision", {}):
        changed["vision"] = {**params["vision"], "layers": change(params["vision"]["layers"])}
    return changed


def _split(layers: Tree) -> tuple[Tree, ...]:
    depth = jax.tree.leaves(layers)[0].shape[0]
    return tuple(jax.tree.map(lambda x, i=i: x[i], layers) for i in range(depth))


def _join(layers: tuple[Tree, ...]) -> Tree:
    return jax.tree.map(lambda *x: jnp.stack(x), *layers)
