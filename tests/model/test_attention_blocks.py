"""Attention by visible blocks against a softmax and its gradient, written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import attention, attention_blocks, attention_xla
from lfpc_jax.model.attention_blocks import BLOCK, by_blocks
from lfpc_jax.model.attention_splash import SAVED
from support import (
    absent,
    ported,  # noqa: F401  (puts the package's modules under the type checks first)
)

pytestmark = pytest.mark.compiles

Row = list[tuple[int, int, int]]
"""(tokens, segment, prefix) of each part of a row."""

ONE_GROUP: Row = [(100, 1, 1), (61, 2, 1), (80, 3, 1), (33, 4, 1), (26, 0, 0)]
SEVERAL_GROUPS: Row = [
    (90, 1, 1), (60, 2, 1), (70, 3, 1),  # two episodes share a prompt
    (130, 4, 4),  # no episode shares this one
    (40, 5, 5), (75, 6, 5),  # one episode does
    (150, 7, 7),  # an episode alone
    (26, 0, 0),
]  # fmt: skip


def laid_out(row, rows=1):
    lengths, *ids = zip(*row)
    segments, prefix = (np.repeat(x, lengths).astype(np.int32)[None] for x in ids)
    return np.repeat(segments, rows, axis=0), np.repeat(prefix, rows, axis=0)


def masked(segments, prefix=None):
    prefix = None if prefix is None else jnp.asarray(prefix)
    return {"segments": jnp.asarray(segments), "prefix": prefix}


def seen(segments, prefix, *, causal):
    visible = segments[:, :, None] == segments[:, None]
    if prefix is not None:
        visible |= prefix[:, :, None] == segments[:, None]
    return visible & np.tri(segments.shape[1], dtype=bool) if causal else visible


def random(seed, B, T, N, K, H):
    """Queries, keys, values, and the slope of the output."""
    rng = np.random.default_rng(seed)
    heads = N, K, K, N
    return tuple(rng.normal(size=(B, T, n, H)).astype(np.float32) for n in heads)


def exact(q, k, v, slope, visible):
    """The output and the gradients of queries, keys and values."""
    q, k, v, slope = (np.asarray(x, np.float64) for x in (q, k, v, slope))
    (B, T, N, H), K = q.shape, k.shape[2]
    k, v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(H)
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    to_weights = np.einsum("btnh,bsnh->bnts", slope, v)
    to_scores = weights * (to_weights - (weights * to_weights).sum(-1, keepdims=True))
    to_scores /= np.sqrt(H)
    dk = np.einsum("bnts,btnh->bsnh", to_scores, q).reshape(B, T, K, N // K, H).sum(3)
    dv = np.einsum("bnts,btnh->bsnh", weights, slope).reshape(B, T, K, N // K, H).sum(3)
    out = np.einsum("bnts,bsnh->btnh", weights, v)
    return out, np.einsum("bnts,bsnh->btnh", to_scores, k), dk, dv


def outcome(run, q, k, v, slope):
    """The same of `run`, in one program."""

    def program(q, k, v, slope):
        out, back = jax.vjp(run, q, k, v)
        return out, *back(slope)

    return jax.jit(program)(*map(jnp.asarray, (q, k, v, slope)))


def equal(found, expected, atol=2e-5):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, atol=atol)


@pytest.mark.parametrize(
    ("row", "prefixes", "causal", "heads"),
    [
        (ONE_GROUP, True, True, (4, 2)),
        (SEVERAL_GROUPS, True, True, (4, 1)),
        (SEVERAL_GROUPS, True, False, (2, 2)),
        ([(256, 1, 1), (200, 2, 2), (3, 3, 3), (71, 0, 0)], False, False, (2, 2)),
        ([(37, 1, 1)], False, True, (4, 2)),
        ([(60, 0, 0), (140, 3, 3), (130, 1, 1), (100, 2, 1), (1, 3, 3)], True, True, (2, 1)),
    ],
    ids=["group", "groups", "groups-whole", "pictures", "short", "out-of-order"],
)
def test_output_and_gradients(row, prefixes, causal, heads):
    segments, prefix = laid_out(row, rows=2)
    if not prefixes:
        prefix = None
    args = random(len(row), *segments.shape, *heads, 16)

    def run(q, k, v):
        return by_blocks(q, k, v, causal=causal, **masked(segments, prefix))

    equal(outcome(run, *args), exact(*args, seen(segments, prefix, causal=causal)))


def test_rows_of_different_content_and_of_none():
    """The second row has other segments; without segments all keys before a query are visible."""
    segments, prefix = (
        np.concatenate(pair)
        for pair in zip(laid_out(ONE_GROUP), laid_out([(250, 1, 1), (50, 0, 0)]))
    )
    args = random(0, 2, 300, 4, 2, 16)
    mask = masked(segments, prefix)
    equal(
        outcome(lambda *x: by_blocks(*x, causal=True, **mask), *args),
        exact(*args, seen(segments, prefix, causal=True)),
    )
    everything = np.ones((2, 300), np.int32)
    equal(
        outcome(lambda *x: by_blocks(*x, causal=True), *args),
        exact(*args, seen(everything, None, causal=True)),
    )


def test_large_scores_do_not_overflow():
    q, k, v, slope = random(0, 1, 300, 2, 1, 16)
    args = 40 * q, 40 * k, v, slope
    segments, prefix = laid_out(ONE_GROUP)
    mask = masked(segments, prefix)
    out, _, _, dv = outcome(lambda *x: by_blocks(*x, causal=True, **mask), *args)
    expected, _, _, expected_dv = exact(*args, seen(segments, prefix, causal=True))
    equal((out, dv), (expected, expected_dv), atol=2e-3)  # scores of 1e4 in float32


def test_bfloat16():
    segments, prefix = laid_out(ONE_GROUP)
    args = tuple(jnp.asarray(x, jnp.bfloat16) for x in random(0, 1, 300, 4, 2, 16))
    mask = masked(segments, prefix)
    found = outcome(lambda *x: by_blocks(*x, causal=True, **mask), *args)
    assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}
    expected = exact(*args, seen(segments, prefix, causal=True))
    for ours, theirs in zip(found, expected):
        error = np.abs(np.asarray(ours, np.float64) - theirs).max()
        assert error < 0.02 * np.abs(theirs).max()


@pytest.mark.parametrize(("N", "K", "rows"), [(4, 2, 4), (4, 1, 4), (3, 1, 3)])
def test_on_a_mesh(N, K, rows):
    """Rows over data and fsdp, heads over tensor; whole where they do not divide."""
    segments, prefix = laid_out(ONE_GROUP, rows)
    segments[1] = prefix[1] = 1  # one device has more to do
    args = random(0, *segments.shape, N, K, 16)
    mask = masked(segments, prefix)
    with jax.set_mesh(make_mesh(2, 2, 2)):
        found = outcome(lambda *x: by_blocks(*x, causal=True, **mask), *args)
    equal(found, exact(*args, seen(segments, prefix, causal=True)))


def test_under_checkpoint_scan_and_vmap():
    """Two layers in a scan whose layers are recomputed, for two rows by `vmap`."""
    segments, prefix = map(jnp.asarray, laid_out(ONE_GROUP, 2))
    q, k, v, slope = map(jnp.asarray, random(0, 2, 300, 4, 2, 16))

    def layers(q, k, v, segments, prefix, *, plainly):
        def layer(x, scale):
            mask = {"segments": segments, "prefix": prefix}
            return by_blocks(x * scale, k, v, causal=True, **mask), None

        scales = jnp.array([0.5, 1.5])
        if not plainly:
            return jax.lax.scan(jax.checkpoint(layer), q, scales)[0]
        for scale in scales:
            q, _ = layer(q, scale)
        return q

    def by_vmap(q, k, v):
        one_row = jax.vmap(lambda *x: layers(*(y[None] for y in x), plainly=False)[0])
        return one_row(q, k, v, segments, prefix)

    def plain(q, k, v):
        return layers(q, k, v, segments, prefix, plainly=True)

    equal(outcome(by_vmap, q, k, v, slope), outcome(plain, q, k, v, slope), atol=1e-5)


def test_only_blocks_with_a_visible_pair_are_needed():
    T = 8 * BLOCK
    parts = [(300, 1, 1), (200, 2, 1), (180, 3, 1), (100, 4, 4), (150, 5, 4), (T - 930, 0, 0)]
    ids = laid_out(parts)
    visible = seen(*ids, causal=True).reshape(1, 8, BLOCK, 8, BLOCK).any((2, 4))
    order, count = map(
        np.asarray, attention_blocks._needed(tuple(map(jnp.asarray, ids)), causal=True)
    )
    for block in range(8):
        needed = order[0, block, : count[0, block]]
        assert needed.tolist() == np.flatnonzero(visible[0, block]).tolist()
    assert count.sum() < 8 * 9 / 2


def test_a_block_that_no_query_sees_is_not_read():
    """NaN times a weight of 0 would be NaN."""
    segments = np.arange(4 * BLOCK, dtype=np.int32)[None] // BLOCK + 1
    prefix = np.where(segments == 4, 1, segments)
    q, k, v, _ = map(jnp.asarray, random(0, 1, 4 * BLOCK, 2, 1, 16))
    k, v = (x.at[:, BLOCK : 2 * BLOCK].set(jnp.nan) for x in (k, v))
    out = jax.jit(lambda *x: by_blocks(*x, causal=True, **masked(segments, prefix)))(q, k, v)
    assert np.isnan(out[:, BLOCK : 2 * BLOCK]).all()
    assert np.isfinite(out[:, :BLOCK]).all()
    assert np.isfinite(out[:, 2 * BLOCK :]).all()


def test_the_backward_pass_has_the_precision_of_the_forward_pass():
    """Gradients are traced outside of the context that a model's forward pass opens."""
    x = jnp.ones((1, 256, 1, 16))

    def run(x):
        with jax.default_matmul_precision("highest"):
            return by_blocks(x, x, x, causal=True).sum()

    text = str(jax.make_jaxpr(jax.grad(run))(x))
    assert text.count("dot_general") == 7
    assert text.count("Precision.HIGHEST, Precision.HIGHEST") == 7


@pytest.mark.parametrize(("names", "products"), [((), 9), ((SAVED,), 7)])
def test_a_remat_policy_can_save_what_the_backward_pass_needs(names, products):
    """Two products of the forward pass and five of the backward pass, and two again if not."""
    x = jnp.ones((1, 256, 1, 16))
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    layer = jax.checkpoint(lambda x: jnp.sin(by_blocks(x, x, x, causal=True)).sum(), policy=policy)
    text = jax.jit(jax.value_and_grad(layer)).lower(x).as_text()
    assert text.count("stablehlo.dot_general") == products


def test_only_long_rows_on_a_cpu_are_computed_by_blocks():
    def by_blocks_at(length):
        x = jnp.ones((1, length, 1, 16))
        program = jax.make_jaxpr(lambda x: attention.attention(x, x, x, causal=True, kernel="xla"))
        return "custom_vjp_call" in str(program(x))

    assert by_blocks_at(attention_xla.LONG)
    assert not by_blocks_at(attention_xla.LONG - 1)
    with absent.mesh("gpu"):
        assert not by_blocks_at(attention_xla.LONG)
    assert by_blocks_at(attention_xla.LONG)


def test_both_ways_agree(monkeypatch):
    """Through `attention`, with each mask that it takes."""
    B, T = 2, 600
    q, k, v, slope = random(0, B, T, 4, 2, 16)
    segments, prefix = laid_out([(300, 1, 1), (100, 2, 1), (150, 3, 1), (50, 0, 0)], B)
    masks = [
        masked(segments, prefix),
        {"lengths": jnp.array([600, 411])},
        {"valid": jnp.asarray(np.random.default_rng(0).random((B, T)) < 0.8)},
    ]
    for mask, causal in zip(masks, (True, True, False)):
        found = []
        for long in (1, T + 1):
            monkeypatch.setattr(attention_xla, "LONG", long)
            found.append(
                outcome(
                    lambda *x, mask=mask, causal=causal: attention.attention(
                        *x, causal=causal, kernel="xla", **mask
                    ),
                    q, k, v, slope,
                )
            )  # fmt: skip
            monkeypatch.undo()
        equal(*found)
