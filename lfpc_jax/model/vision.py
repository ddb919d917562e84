"""The vision tower over window-major images.

A bucket of images is `[I, W, P, C]`: every image has all windows of the bucket, and every window
all of its patches; those outside the picture are masked. Layers with window attention are then a
batch of `P x P` attentions, and layers with full attention attend within each image. The shape of
an image is only in `grid`, an array. For packed images, full attention also separates the pictures
of a span of windows, by segment.

Letters: I images, or spans of packed ones; W windows, P patches of a window, C values of a patch,
D width.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model.attention import attention
from lfpc_jax.model.config import Kernel, ModelConfig, VisionConfig
from lfpc_jax.model.layers import each_layer, gated_mlp, linear, rms_norm
from lfpc_jax.model.rotary import Rotary, rotate, vision_rotary
from lfpc_jax.trajectory import Images, PackedImages

EPS = 1e-6


def encode(
    params: Tree, images: Images | PackedImages, *, cfg: ModelConfig
) -> Float[Array, "I S D"]:
    """One embedding for each merged token, also for padding, `S = W * tokens per window`, in the
    order of windows."""
    c = cfg.vision
    windows, *patch = images.pixels.shape[1:]
    assert patch == [c.window_patches, 3 * c.patch**2], (images.pixels.shape, c)
    if isinstance(images, PackedImages):
        row, column, valid = patch_places(images.grid, images.window, c)
        mask = {"segments": jnp.where(valid, images.picture[..., None], 0)}
    else:
        row, column, valid = patch_places(images.grid[:, None], jnp.arange(windows)[None], c)
        mask = {"valid": valid}
    rotary = vision_rotary(row, column, c)
    x = embed_patches(params["patch"], images.pixels, c, cfg.dtype)
    x = constrain(x, "batch", None, None, None)

    def body(x: Array, scanned: tuple[Tree, Any]) -> tuple[Array, None]:
        p, full = scanned
        return block(p, x, rotary, valid, mask, full, cfg=cfg), None

    full = np.isin(np.arange(c.depth), c.full_layers)
    with jax.named_scope("vision"):
        x, _ = each_layer(body, x, params["layers"], full, remat=cfg.tower_remat or cfg.remat)
        return merge(params["merger"], x, c)


def patch_places(
    grid: Int[Array, "I #W 2"], window: Int[Array, "#I W"], c: VisionConfig
) -> tuple[Int[Array, "I W P"], Int[Array, "I W P"], Bool[Array, "I W P"]]:
    """Row, column and presence of every patch. For each window, `grid` is that of its picture, and
    `window` its number in it."""
    side = c.window
    token, inner = np.divmod(np.arange(c.window_patches), c.merge**2)
    rows, columns, window = grid[..., 0, None], grid[..., 1, None], window[..., None]
    across = jnp.maximum(1, -(-columns // side))
    token_row = (window // across) * side + token // side
    token_column = (window % across) * side + token % side
    valid = (token_row < rows) & (token_column < columns)
    row = token_row * c.merge + inner // c.merge
    column = token_column * c.merge + inner % c.merge
    return row, column, valid


def embed_patches(weight: Array, pixels: Array, c: VisionConfig, dtype: Any) -> Array:
    """Normalises bytes and applies the patch convolution. A still image is repeated as the second
    frame."""
    mean, std = (np.asarray(s, np.float32)[:, None, None] for s in (c.mean, c.std))
    x = pixels.reshape(*pixels.shape[:-1], 3, 1, c.patch**2).astype(jnp.float32)
    x = ((x / 255.0 - mean) / std).astype(dtype)
    frames = jnp.broadcast_to(x, (*x.shape[:-2], c.temporal_patch, c.patch**2))
    return frames.reshape(*pixels.shape[:-1], -1) @ weight.astype(dtype)


def block(
    p: Tree,
    x: Float[Array, "I W P D"],
    rotary: Rotary,
    valid: Bool[Array, "I W P"],
    mask: dict[str, Array],
    full: Any,
    *,
    cfg: ModelConfig,
) -> Float[Array, "I W P D"]:
    """One layer. `full`, whether it has full attention, is a Python or NumPy bool in a loop and is
    traced in a scan. `mask` is the mask of full attention, as `attention` takes it."""
    I, W, P, _ = x.shape
    qkv = linear(rms_norm(x, p["norm1"], EPS), p["qkv"])
    q, k, v = (qkv[..., part, :, :] for part in range(3))
    q, k = rotate(q, rotary), rotate(k, rotary)

    def attend(rows: int, length: int, mask: dict[str, Array], kernel: Kernel) -> Any:
        def run(q: Array, k: Array, v: Array) -> Array:
            q, k, v = (x.reshape(rows, length, *x.shape[3:]) for x in (q, k, v))
            masks = {name: x.reshape(rows, length) for name, x in mask.items()}
            out = attention(q, k, v, causal=False, kernel=kernel, **masks)
            return out.reshape(I, W, P, *out.shape[2:])

        return run

    # A window is a small product on any device; only whole images need a special kernel.
    whole = attend(I, W * P, mask, cfg.kernel)
    windowed = attend(I * W, P, {"valid": valid}, "xla")
    if isinstance(full, jax.core.Tracer):
        out = jax.lax.cond(full, whole, windowed, q, k, v)
    else:
        out = (whole if full else windowed)(q, k, v)
    x = x + linear(out, p["proj"], inputs=2)
    x = x + gated_mlp(rms_norm(x, p["norm2"], EPS), p)
    return constrain(x, "batch", None, None, None)


def merge(p: Tree, x: Float[Array, "I W P D"], c: VisionConfig) -> Float[Array, "I S E"]:
    """Concatenates the patches of each merged token, and applies two layers to the text's width."""
    x = rms_norm(x, p["norm"], EPS)
    x = x.reshape(x.shape[0], -1, c.merge**2 * c.width)
    return linear(jax.nn.gelu(linear(x, p["fc1"]), approximate=False), p["fc2"])
