"""The Pallas kernel for TPUs in its interpreter against a float64 softmax and its gradients in
NumPy, and compiled for TPUs that are only described."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import attention_splash
from support import ported  # noqa: F401  (puts the package's modules under the type checks first)

pytestmark = pytest.mark.compiles


def exact(q, k, v, visible, weights=None):
    """The output in float64, or the gradients of `sum(weights * output)`. `visible` is
    `[B, T, S]`."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    share, scale = q.shape[2] // k.shape[2], q.shape[-1] ** -0.5
    keys, values = (np.repeat(x, share, axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, keys) * scale
    scores = np.where(visible[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if weights is None:
        return np.einsum("bnts,bsnh->btnh", p, values)
    to_p = np.einsum("btnh,bsnh->bnts", weights, values)
    to_scores = p * (to_p - (to_p * p).sum(-1, keepdims=True)) * scale
    grouped = (*k.shape[:3], share, k.shape[3])
    return (
        np.einsum("bnts,bsnh->btnh", to_scores, keys),
        np.einsum("bnts,btnh->bsnh", to_scores, q).reshape(grouped).sum(3),
        np.einsum("bnts,btnh->bsnh", p, weights).reshape(grouped).sum(3),
    )


def random(seed, B, T, N, K, H):
    rng = np.random.default_rng(seed)
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def packed(length, *groups):
    """Segments and prefixes of a row. A group is the length of its prompt and those of the episodes
    that continue it; a prompt of length 0 is not there, and its episodes stand alone."""
    lengths, prefixes = [], []
    for prompt, *episodes in groups:
        first = len(lengths) + 1
        for part in (prompt, *episodes):
            if part:
                lengths.append(part)
                prefixes.append(first if prompt else len(lengths))
    lengths.append(length - sum(lengths))
    segments = np.repeat([*range(1, len(lengths)), 0], lengths)
    return segments.astype(np.int32), np.repeat([*prefixes, 0], lengths).astype(np.int32)


def seen(segments, prefix=None, *, causal=True):
    """`[B, T, T]`: keys of the own segment, at or before the query if causal, and all of its
    prefix."""
    visible = segments[:, :, None] == segments[:, None]
    if causal:
        visible &= np.tri(segments.shape[1], dtype=bool)
    if prefix is not None:
        visible |= (prefix != segments)[:, :, None] & (prefix[:, :, None] == segments[:, None])
    return visible


def agrees(run, q, k, v, weights, segments, visible):
    """Output and gradients, apart from the output at padding, which no loss reads."""
    real = segments > 0
    weights = weights * real[:, :, None, None]
    args = tuple(map(jnp.asarray, (q, k, v)))
    out, back = jax.vjp(jax.jit(run), *args)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(np.asarray(out)[real], exact(q, k, v, visible)[real], atol=3e-6)
    for name, ours, theirs in zip(
        "qkv", back(jnp.asarray(weights)), exact(q, k, v, visible, weights)
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=f"gradient of {name}")


def interpreted(segments, prefix=None, *, causal=True):
    masks = tuple(x if x is None else jnp.asarray(x) for x in (segments, prefix))
    return lambda q, k, v: attention_splash.splash(q, k, v, *masks, causal=causal, interpret=True)


ROWS = {
    "one group": (384, (100, 60, 70, 80)),
    "two groups, a prompt without an episode, and padding": (384, (40, 50, 30), (90,), (60, 70)),
    "segments that cross every border of blocks": (640, (250, 130, 140), (0, 100)),
    "episodes that stand alone": (256, (0, 90, 50, 80)),
    "a prompt far before its last episode, and blocks of padding": (640, (20, 200, 30, 120)),
    "full, with borders on those of blocks": (384, (128, 128, 128)),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize("name", ROWS)
def test_packed_rows(name, shared):
    length, *groups = ROWS[name]
    segments, prefix = (x[None] for x in packed(length, *groups))
    prefix = prefix if shared else None
    q, k, v, weights = random(1, 1, length, 2, 1, 128)
    run = interpreted(segments, prefix)
    agrees(run, q, k, v, weights, segments, seen(segments, prefix))


@pytest.mark.parametrize("limit", [0, 2**30], ids=["unfused", "fused"])
@pytest.mark.parametrize(("N", "K", "H", "T"), [(4, 2, 80, 300), (6, 2, 64, 384), (2, 2, 128, 256)])
def test_several_rows_grouped_heads_and_padded_shapes(N, K, H, T, limit, monkeypatch):
    """Rows that differ, lengths that are no whole blocks, heads under 128 lanes, and both backward
    kernels."""
    monkeypatch.setattr(attention_splash, "BACKWARD_BYTES", limit)
    rows = (packed(T, (70, 60, 50), (30, 40)), packed(T, (0, T)), packed(T, (140, 10, 20, 30)))
    segments, prefix = (np.stack(x) for x in zip(*rows))
    q, k, v, weights = random(2, 3, T, N, K, H)
    agrees(interpreted(segments, prefix), q, k, v, weights, segments, seen(segments, prefix))


@pytest.mark.parametrize(("N", "K", "H", "T"), [(4, 2, 128, 128), (2, 2, 80, 200), (4, 1, 64, 256)])
@pytest.mark.parametrize("causal", [True, False])
def test_segments_that_are_sorted(N, K, H, T, causal):
    q, k, v, weights = random(T, 2, T, N, K, H)
    segments = np.sort(np.random.default_rng(0).integers(1, 4, (2, T)), axis=1).astype(np.int32)
    visible = seen(segments, causal=causal)
    agrees(interpreted(segments, causal=causal), q, k, v, weights, segments, visible)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("order", ["pictures", "any"])
def test_segments_with_padding_between(order, causal):
    """Pictures have padding inside of their windows. In any other order all blocks may be needed,
    and all visible pairs count."""
    rng = np.random.default_rng(3)
    segments = np.repeat([1, 2, 3, 4], [130, 300, 50, 160])[None].astype(np.int32)
    if order == "any":
        segments = rng.permutation(segments, axis=1)
    segments[0, rng.random(640) < 0.3] = 0
    q, k, v, weights = random(3, 1, 640, 2, 2, 80)
    visible = seen(segments, causal=causal)
    agrees(interpreted(segments, causal=causal), q, k, v, weights, segments, visible)


@pytest.mark.parametrize("causal", [True, False])
def test_without_segments(causal):
    q, k, v, weights = random(4, 2, 256, 2, 1, 64)
    segments = np.ones((2, 256), np.int32)
    run = partial(attention_splash.splash, segments=None, causal=causal, interpret=True)
    agrees(lambda q, k, v: run(q, k, v), q, k, v, weights, segments, seen(segments, causal=causal))


@pytest.mark.parametrize(
    ("sides", "N", "K"), [((2, 2, 2), 4, 2), ((1, 2, 4), 4, 2), ((1, 4, 2), 3, 1)]
)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_on_a_mesh(sides, N, K, shared):
    """Rows over data and fsdp, heads over tensor; key heads shared where too few, and all heads
    whole where the query heads do not divide."""
    rows = [packed(256, (60 + 20 * i, 50, 40), (0, 30)) for i in range(4)]
    segments, prefix = (np.stack(x) for x in zip(*rows))
    prefix = prefix if shared else None
    q, k, v, weights = random(0, 4, 256, N, K, 64)
    with jax.set_mesh(make_mesh(*sides)):
        run = interpreted(segments, prefix)
        agrees(run, q, k, v, weights, segments, seen(segments, prefix))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(("queries", "keys"), [(128, 128), (64, 128), (128, 32)])
def test_only_blocks_with_a_visible_pair_are_computed(name, queries, keys):
    length, *groups = ROWS[name]
    segments, prefix = packed(length, *groups)
    real = segments > 0
    apart = seen(segments[None])[0]
    read = (prefix != segments)[:, None] & (prefix[:, None] == segments)

    def blocks(visible):
        return visible.reshape(length // queries, queries, length // keys, keys).any((1, 3))

    begins, key_begins = np.arange(0, length, queries)[:, None], np.arange(0, length, keys)
    diagonal = (begins < key_begins + keys) & (key_begins < begins + queries)
    sizes = (queries, keys)
    expected = blocks(apart & real & real[:, None]) | diagonal
    found = attention_splash.needed_blocks(segments, None, *sizes, causal=True, xp=np)
    np.testing.assert_array_equal(found, expected)
    found = attention_splash.needed_blocks(segments, prefix, *sizes, causal=True, xp=np)
    np.testing.assert_array_equal(found, np.concatenate([blocks(read), expected], axis=1))
    on_device = attention_splash.needed_blocks(
        jnp.asarray(segments)[None], jnp.asarray(prefix)[None], *sizes, causal=True
    )
    np.testing.assert_array_equal(on_device[0], found)


def test_windows_of_other_pictures_are_not_computed():
    """Six pictures with padding in their windows: each block of 128 meets one picture, or two."""
    segments = np.repeat([1, 2, 3, 4, 5, 6], [256, 128, 128, 192, 192, 128])
    segments[::7] = 0
    needed = attention_splash.needed_blocks(segments, None, 128, 128, causal=False, xp=np)
    expected = [2, 2, 1, 1, 2, 3, 2, 1]
    np.testing.assert_array_equal(needed.sum(1), expected)
    np.testing.assert_array_equal(needed.sum(0), expected)


def test_keys_computed_is_the_count_of_blocks():
    """28 heads over 4: blocks of 256 queries and 512 keys. The first five blocks of queries hold
    the prompt only and the last two padding; the others read the prompt's three blocks of keys."""
    segments, prefix = (x[None] for x in packed(8192, (1400, 1512, 1512, 1512, 1512)))
    assert attention_splash.block_sizes(8192, 7) == (7, 256, 512)
    assert attention_splash.block_sizes(4096, 1) == (1, 1024, 1024)
    visible = seen(segments, prefix)[segments > 0].sum() / 8192
    assert visible == pytest.approx(1712, abs=1)
    assert attention_splash.keys_computed(segments, prefix, group=7) == 2576
    assert attention_splash.keys_computed(segments, group=7) == 1376
    assert 2576 - 1376 == 3 * 512 * (32 - 5 - 2) / 32

    whole = np.ones((1, 8192), np.int32)
    assert attention_splash.keys_computed(whole, group=7) == (8192 + 512) / 2
    assert attention_splash.keys_computed(whole, group=7, causal=False) == 8192
    both = np.concatenate([whole, segments])
    assert attention_splash.keys_computed(both, group=7) == ((8192 + 512) / 2 + 1376) / 2
    assert attention_splash.keys_computed(whole[:, :600], group=1) == 640 * 384 / 600


def test_skipped_blocks_load_the_next_one():
    needed = jnp.asarray([[0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
    by_queries, by_keys = attention_splash._schedules(needed, None)
    np.testing.assert_array_equal(by_queries.data_next[0], [[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(by_keys.data_next[0], [[2, 0, 0]] * 3)
    np.testing.assert_array_equal(by_queries.block_mask[0], needed)


def described(
    topology, layer_of, T, *, B=1, N=28, K=4, H=128, layers=None, policy=None, dtype="bfloat16"
):
    """The text and the temporary bytes of a program for a chip that libtpu describes: layers of
    attention and their gradient. `layer_of` makes attention of the row's masks."""
    from lfpc_jax.plan import slices

    sharding = jax.sharding.SingleDeviceSharding(slices.find(topology).devices[0])

    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(q, k, v, segments, prefix):
        attend = layer_of(segments, prefix)
        if layers is None:
            return attend(q, k, v).astype(jnp.float32).sum()
        layer = jax.checkpoint(lambda q, _: (attend(q, k, v), None), policy=policy)
        return jax.lax.scan(layer, q, None, length=layers)[0].astype(jnp.float32).sum()

    heads = (array((B, T, n, H), dtype) for n in (N, K, K))
    masks = (array((B, T), jnp.int32) for _ in range(2))
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*heads, *masks).compile()
    return compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes


def with_prefix(segments, prefix):
    return partial(attention_splash.splash, segments=segments, prefix=prefix, causal=True)


def calls(text):
    """How often each kernel is in a program."""
    names = [line.split(" = ")[0] for line in text.splitlines() if "tpu_custom_call" in line]
    return {part: sum(f"_{part}_" in name for name in names) for part in ("fwd", "dkv", "dq")}


@pytest.mark.long
def test_gradients_with_saved_residuals_in_a_scan_of_layers():
    """Two layers, each of its own keys, rematerialised with what is saved by name and without."""
    segments, prefix = (x[None] for x in packed(256, (70, 60, 50), (0, 40)))
    q, k, v, weights = (jnp.asarray(x) for x in random(5, 1, 256, 2, 2, 64))
    attend = interpreted(segments, prefix)

    def loss(keys, policy):
        def layer(x, k):
            return x + attend(x, k, v), None

        if policy != "none":
            layer = jax.checkpoint(layer, policy=policy)
        return (jax.lax.scan(layer, q, keys)[0] * weights).sum()

    keys = jnp.stack([k, -k])
    names = jax.checkpoint_policies.save_only_these_names(attention_splash.SAVED)
    expected, saved, recomputed = (jax.grad(loss)(keys, p) for p in ("none", names, None))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(saved, expected, atol=1e-6)
    np.testing.assert_allclose(recomputed, expected, atol=1e-6)


@pytest.mark.parametrize("saved", [True, False])
def test_saved_residuals_spare_the_forward_kernel(saved):
    names = jax.checkpoint_policies.save_only_these_names(attention_splash.SAVED)
    policy = names if saved else None
    text, _ = described("v5e:2x4", with_prefix, 512, N=4, K=2, layers=3, policy=policy)
    assert calls(text) == {"fwd": 1 if saved else 2, "dkv": 1, "dq": 0}


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x2", "v6e:2x4"])
@pytest.mark.parametrize("kind", ["7b", "7b apart", "7b float32", "3b", "tower"])
def test_rows_of_8192_compile_for_tpus_without_a_matrix_of_scores(topology, kind):
    """Forward and backward. Scores of one head would be 256 MiB in float32."""
    make = with_prefix
    if kind == "7b apart":
        make = lambda segments, _: with_prefix(segments, None)  # noqa: E731
    if kind == "tower":
        make = lambda segments, _: partial(  # noqa: E731
            attention_splash.splash, segments=segments, causal=False
        )
    sizes = {
        "7b float32": {"dtype": "float32"},
        "3b": {"N": 16, "K": 2},
        "tower": {"N": 16, "K": 16, "H": 80},
    }
    text, temporary = described(topology, make, 8192, **sizes.get(kind, {}))
    assert "8192,8192" not in text
    assert "8192,16384" not in text
    assert calls(text)["fwd"] == calls(text)["dkv"] == 1
    assert temporary < 640 * 2**20
