"""The whole of Qwen2.5-VL: from images and tokens to logits or hidden states.

    logits = forward(params, tokens, images, cfg=cfg)                            # whole rows
    embeddings = encode_images(params, images, cfg=cfg)                          # or in steps
    hidden, cache = prefill(params, tokens, embeddings, cfg=cfg, capacity=4096)
    hidden, cache = extend(params, tokens, embeddings, cache, cfg=cfg)

All are pure and meant to be jitted, with `cfg` static and the cache donated. Logits are float32.
Encode images of several buckets bucket by bucket, and concatenate their embeddings.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model import text, vision
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.attention_prompts import PromptCopies
from lfpc_jax.model.cache import Cache, Working
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import computing
from lfpc_jax.trajectory import Images, PackedImages, Tokens

Embeddings = Float[Array, "N D"] | Float[Array, "B T D"] | None
"""Those that `Tokens.image_index` counts, or those that `placed` has put where they belong."""


def encode_images(params: Tree, images: Images | PackedImages, *, cfg: ModelConfig) -> Array:
    """The image embeddings that `Tokens.image_index` counts: [N, D], or [R, N, D] if packed."""
    rows: tuple[int, ...] = ()
    if isinstance(images, PackedImages):
        rows = images.picture.shape[:1]
        images = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), images)
    with computing(cfg):
        embeddings = vision.encode(params["vision"], images, cfg=cfg)
    return embeddings.reshape(*rows, -1, cfg.text.width)


def embed(params: Tree, tokens: Tokens, embeddings: Embeddings, *, cfg: ModelConfig) -> Array:
    """Token embeddings, replaced by image embeddings at image placeholders."""
    x = params["embed"].astype(cfg.dtype)[tokens.ids]
    if embeddings is not None:
        embeddings = embeddings.astype(x.dtype)
        index = tokens.image_index
        seen = embeddings if embeddings.ndim == 3 else embeddings[jnp.maximum(index, 0)]
        x = jnp.where(index[..., None] >= 0, seen, x)
    return constrain(x, "batch", None, None)


def placed(embeddings: Float[Array, "R N D"], index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The embedding for every token; any at text. Each row of embeddings serves an equal run of
    rows of tokens, in order, so that on a mesh no device needs those of another."""
    rows = jnp.maximum(index, 0).reshape(len(embeddings), -1)
    return jax.vmap(lambda row, at: row[at])(embeddings, rows).reshape(*index.shape, -1)


def gathered(
    slopes: Float[Array, "R N D"], index: Int[Array, "B T"], slope: Float[Array, "B T D"]
) -> Float[Array, "R N D"]:
    """`slopes` with the gradients of what `placed` returned added to those of the embeddings."""
    rows = jnp.where(index < 0, slopes.shape[1], index).reshape(len(slopes), -1)
    each = slope.astype(slopes.dtype).reshape(*rows.shape, -1)
    return jax.vmap(lambda row, at, x: row.at[at].add(x, mode="drop"))(slopes, rows, each)


def vocabulary(cfg: ModelConfig) -> str:
    """The key of the weights that compute logits."""
    return "embed" if cfg.tied else "unembed"


def unembed(params: Tree, hidden: Float[Array, "*n D"], *, cfg: ModelConfig) -> Array:
    weight = params[vocabulary(cfg)].astype(hidden.dtype)
    with computing(cfg):
        return jnp.einsum("...d,vd->...v", hidden, weight, preferred_element_type=jnp.float32)


def hidden_states(
    params: Tree, tokens: Tokens, embeddings: Embeddings, *, cfg: ModelConfig
) -> Float[Array, "B T D"]:
    """Final hidden states of whole rows, packed by segment or padded."""
    with computing(cfg), jax.named_scope("text"):
        x = embed(params, tokens, embeddings, cfg=cfg)
        mask = {"segments": tokens.segments, "prefix": tokens.prefix}
        return text.forward(params, x, tokens.positions, cfg=cfg, **mask)


def forward(
    params: Tree, tokens: Tokens, images: Images | PackedImages | None, *, cfg: ModelConfig
) -> Float[Array, "B T V"]:
    embeddings = None if images is None else encode_images(params, images, cfg=cfg)
    return unembed(params, hidden_states(params, tokens, embeddings, cfg=cfg), cfg=cfg)


def last_weights(
    params: Tree, tokens: Tokens, embeddings: Embeddings, *, cfg: ModelConfig, depth: int
) -> Float[Array, "B heads T"]:
    """Attention from the last token of each row to every token of it; see `text.last_weights`."""
    with computing(cfg), jax.named_scope("text"):
        x = embed(params, tokens, embeddings, cfg=cfg)
        return text.last_weights(
            params, x, tokens.positions, _lengths(tokens), cfg=cfg, depth=depth
        )


def prefill(
    params: Tree, tokens: Tokens, embeddings: Embeddings, *, cfg: ModelConfig, capacity: int
) -> tuple[Float[Array, "B T D"], Cache]:
    """Computes rows of one segment each, padded at their end, and writes them to a new cache."""
    with computing(cfg), jax.named_scope("text"):
        x = embed(params, tokens, embeddings, cfg=cfg)
        return text.prefill(
            params, x, tokens.positions, _lengths(tokens), cfg=cfg, capacity=capacity
        )


def extend(
    params: Tree,
    tokens: Tokens,
    embeddings: Embeddings,
    cache: Cache,
    *,
    cfg: ModelConfig,
    rows: Int[Array, "R"] | None = None,
    prompts: Cache | None = None,
    continued: Int[Array, "R"] | None = None,
) -> tuple[Float[Array, "R T D"], Cache]:
    """Appends tokens to each row of the cache, or to the given `rows`, which may continue prompts.
    Segment 0 marks padding, which may be a whole row. See `text.extend`."""
    with computing(cfg), jax.named_scope("text"):
        x = embed(params, tokens, embeddings, cfg=cfg)
        return text.extend(
            params,
            x,
            tokens.positions,
            _lengths(tokens),
            cache,
            cfg=cfg,
            rows=rows,
            prompts=prompts,
            continued=continued,
        )


def decode(
    params: Tree,
    ids: Int[Array, "R"],
    position: Int[Array, "R"],
    working: Working | Cache,
    step: Int[Array, ""],
    *,
    cfg: ModelConfig,
    live: Bool[Array, "R"],
    span: int | None = None,
    prompts: Cache | PromptCopies | None = None,
    members: Members | None = None,
) -> tuple[Float[Array, "R V"], Working | Cache]:
    """Appends one text token to every row, and returns the logits of the next one. See
    `text.decode`."""
    with computing(cfg), jax.named_scope("text"):
        x = constrain(params["embed"].astype(cfg.dtype)[ids[:, None]], "batch", None, None)
        positions = jnp.broadcast_to(position[:, None], (3, len(ids), 1))
        hidden, working = text.decode(
            params,
            x,
            positions,
            working,
            step,
            cfg=cfg,
            live=live,
            span=span,
            prompts=prompts,
            members=members,
        )
    return unembed(params, hidden[:, 0], cfg=cfg), working


def _lengths(tokens: Tokens) -> Array:
    return (tokens.segments > 0).sum(axis=1, dtype=jnp.int32)
