"""Cached paths against one full forward, and what padding must not change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.model import cache as kv
from lfpc_jax.model import layers, qwen
from lfpc_jax.trajectory import Tokens
from support import ported, reference

pytestmark = pytest.mark.compiles

TOLERANCE = 2e-5
LENGTH, WINDOWS = 96, 6

prefill = partial(jax.jit, static_argnames=("cfg", "capacity"))(qwen.prefill)
extend = partial(jax.jit, static_argnames="cfg", donate_argnames="cache")(qwen.extend)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    config = reference.random_config(5, tied=False, num_hidden_layers=3)
    model = reference.random_model(config, 5, scale=0.05)
    cfg = ported.read_config(config, tmp_path_factory.mktemp("model"), dtype="float32")
    params = ported.parameters(model, cfg)
    rng = np.random.default_rng(5)
    prompts = [reference.random_prompt(rng, images, most=5) for images in (2, 0, 1)]
    tokens, images = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS)
    whole, embeddings = ported.both(params, tokens, images, cfg=cfg)
    return cfg, params, prompts, tokens, images, np.asarray(whole), embeddings


def piece(tokens: Tokens, starts: np.ndarray, counts: np.ndarray, width: int) -> Tokens:
    """Of each row the `counts[b]` tokens from `starts[b]`, padded to `width`."""
    index = starts[:, None] + np.arange(width)
    real = np.arange(width) < counts[:, None]
    safe = np.minimum(index, tokens.ids.shape[1] - 1)

    def take(x):
        return np.where(real, np.take_along_axis(x, safe, axis=1), 0)

    return Tokens(
        ids=take(tokens.ids),
        positions=np.stack([take(axis) for axis in tokens.positions]),
        segments=real.astype(np.int32),
        image_index=np.where(real, np.take_along_axis(tokens.image_index, safe, axis=1), -1),
    )


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(
    ("first", "chunk", "capacity"), [(40, 1, 96), (1, 7, 131), (0, 16, 256), (96, 1, 96)]
)
def test_prefill_and_any_chunks_equal_one_forward(case, stacked, first, chunk, capacity):
    """Rows advance at their own pace: in each step a random number of tokens, or none."""
    cfg, params, prompts, tokens, _, whole, embeddings = case
    params = params if stacked else layers.unstack(params)
    lengths = np.array([len(p.ids) for p in prompts])
    rng = np.random.default_rng(first)
    done = np.minimum(lengths, rng.integers(first // 2, first + 1, len(lengths)))
    seen = np.zeros_like(whole)

    def note(hidden, starts, counts):
        logits = np.asarray(qwen.unembed(params, hidden, cfg=cfg))
        for row, (start, count) in enumerate(zip(starts, counts)):
            seen[row, start : start + count] = logits[row, :count]

    if first:
        begin = piece(tokens, np.zeros(3, int), done, first)
        hidden, cache = prefill(params, begin, embeddings, cfg=cfg, capacity=capacity)
        note(hidden, np.zeros(3, int), done)
    else:
        cache = kv.empty(cfg, 3, capacity, unstacked=not stacked)
    while (done < lengths).any():
        counts = np.minimum(rng.integers(0, chunk + 1, 3), lengths - done)
        hidden, cache = extend(
            params, piece(tokens, done, counts, chunk), embeddings, cache, cfg=cfg
        )
        note(hidden, done, counts)
        done = done + counts
        np.testing.assert_array_equal(cache.length, done)
    real = tokens.segments > 0
    assert np.abs(whole[real]).max() > 0.5
    assert np.abs(seen - whole)[real].max() <= TOLERANCE


def test_a_donated_cache_is_updated_in_place(case):
    cfg, params, _, tokens, _, _, embeddings = case
    cache = kv.empty(cfg, 3, 128)
    compiled = extend.lower(params, tokens, embeddings, cache, cfg=cfg).compile()
    assert compiled.memory_analysis().alias_size_in_bytes >= cache.k.nbytes + cache.v.nbytes
    extend(params, tokens, embeddings, cache, cfg=cfg)
    assert cache.k.is_deleted()
    assert cache.v.is_deleted()


def test_tokens_past_the_capacity_leave_the_rest_untouched(case):
    """An overfull row must not slide back over earlier keys, as a clamped update would."""
    cfg, params, _, tokens, _, _, embeddings = case
    _, cache = prefill(params, tokens, embeddings, cfg=cfg, capacity=LENGTH)
    k, v = np.asarray(cache.k), np.asarray(cache.v)
    room = LENGTH - np.asarray(cache.length)
    full = piece(tokens, np.zeros(3, int), np.full(3, LENGTH), LENGTH)
    _, after = extend(params, full, embeddings, cache, cfg=cfg)
    for row in range(3):
        kept = LENGTH - room[row]
        np.testing.assert_array_equal(after.k[:, row, ..., :kept], k[:, row, ..., :kept])
        np.testing.assert_array_equal(after.v[:, row, :, :kept], v[:, row, :, :kept])


@pytest.mark.parametrize(
    "padding",
    [
        {"windows": 11, "length": LENGTH},
        {"windows": WINDOWS, "length": LENGTH + 37},
        {"windows": WINDOWS, "length": LENGTH, "images": 5},
        {"windows": WINDOWS, "length": LENGTH, "rows": 2},
    ],
)
def test_padding_changes_nothing(case, padding):
    """Windows, token rows, images and whole rows of padding."""
    cfg, params, prompts, tokens, _, whole, _ = case
    rows = padding.pop("rows", 0)
    prompts = [*prompts, *[reference.Prompt(np.zeros(0, np.int32), [])] * rows]
    padded, images = ported.arrays(prompts, cfg, **padding)
    found = np.asarray(ported.forward(params, padded, images, cfg=cfg))
    real = tokens.segments > 0
    assert np.isfinite(found).all()
    assert np.abs(found[:3, :LENGTH] - whole)[real].max() <= TOLERANCE


def test_what_lies_in_padding_is_never_read(case):
    """Poisoned ids, pixels and positions at padding places change no real logit."""
    cfg, params, _, tokens, images, whole, _ = case
    real = tokens.segments > 0
    rng = np.random.default_rng(0)

    def poison(x, low, high):
        return np.where(real, x, rng.integers(low, high, x.shape)).astype(np.int32)

    poisoned = Tokens(
        ids=poison(tokens.ids, 3, 300),
        positions=np.stack([poison(axis, 0, 5000) for axis in tokens.positions]),
        segments=tokens.segments,
        image_index=tokens.image_index,
    )
    valid = jax.vmap(lambda grid: _places(grid, images.pixels.shape[1], cfg))(images.grid)
    noise = rng.integers(0, 256, images.pixels.shape, dtype=np.uint8)
    pixels = np.where(np.asarray(valid)[..., None], images.pixels, noise)
    assert (pixels != images.pixels).any()
    from lfpc_jax.trajectory import Images

    found = ported.forward(params, poisoned, Images(pixels, images.grid), cfg=cfg)
    assert np.abs(np.asarray(found) - whole)[real].max() <= TOLERANCE


def _places(grid, windows, cfg):
    from lfpc_jax.model.vision import patch_places

    return patch_places(grid[None, None], jax.numpy.arange(windows)[None], cfg.vision)[2][0]


def test_packed_segments_equal_rows_of_their_own(case):
    """Three prompts in one row, told apart by segment, give each prompt's own logits."""
    cfg, params, _, tokens, _, whole, embeddings = case
    counts = (tokens.segments > 0).sum(axis=1)

    def cut(x):
        return np.concatenate([x[row, :n] for row, n in enumerate(counts)])[None]

    packed = Tokens(
        ids=cut(tokens.ids),
        positions=np.stack([cut(axis) for axis in tokens.positions]),
        segments=np.repeat(np.arange(1, 4), counts)[None].astype(np.int32),
        image_index=cut(tokens.image_index),
    )
    hidden = jax.jit(qwen.hidden_states, static_argnames="cfg")(params, packed, embeddings, cfg=cfg)
    found = np.asarray(qwen.unembed(params, hidden, cfg=cfg))[0]
    expected = np.concatenate([whole[row, :n] for row, n in enumerate(counts)])
    assert np.abs(found - expected).max() <= TOLERANCE
    assert jnp.isfinite(found).all()
