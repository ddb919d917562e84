"""cuDNN's attention. Its packed layout runs on GPUs alone, so a stand-in in NumPy, written from its
documentation, is in its place here. What is tested is everything that is built on it."""

import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import attention, attention_cudnn, packed_sequences
from lfpc_jax.model.config import published
from lfpc_jax.plan import slices, traffic
from support import cudnn_check, cudnn_stand_in, gpus
from support.exact_attention import exact, exact_gradients, random, visible

pytestmark = pytest.mark.compiles


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(attention_cudnn, "_forward", cudnn_stand_in.forward)
    monkeypatch.setattr(attention_cudnn, "_backward", cudnn_stand_in.backward)


@jax.jit
def causal(q, k, v, segments, prefix):
    return attention_cudnn.packed(q, k, v, segments, prefix, causal=True)


def row(T, *groups):
    """Segments and prefixes of a row: of each group the prompt's length and its episodes'."""
    segments, prefix = np.zeros((2, T), np.int32)
    at, number = 0, 0
    for prompt, *episodes in groups:
        of_prompt = number + 1
        for length in (prompt, *episodes):
            number += bool(length)
            segments[at : at + length] = number
            prefix[at : at + length] = of_prompt if prompt else number
            at += length
    assert at <= T
    return segments, prefix


SEVERAL = (
    row(96, [9, 20, 3, 7], [12], [5, 30]),
    row(96, [0, 11], [0, 1], [40, 2, 2, 2], [1, 1], [3, 3]),
)
CASES = {
    "prompts of 0, 1 and several episodes, grouped heads": (SEVERAL, True, 4, 2),
    "as many key heads, no prefixes": (SEVERAL, False, 2, 2),
    "a full row, and nothing but padding": ((row(96, [40, 28, 28]), row(96)), True, 3, 1),
    "a segment a token": ((row(96, *[[0, 1]] * 96), row(96, *[[1, 1, 1]] * 32)), True, 2, 2),
    "all tiers of a longer row of odd length": (
        (row(301, [150, 60, 12, 1], [2, 1, 5, 30], [10], [0, 20]),), True, 2, 1,
    ),
}  # fmt: skip


@pytest.fixture(
    params=[attention_cudnn.HOPPER, attention_cudnn.AMPERE], ids=["in place", "gathered"]
)
def generation(request):
    """Sequences are given to cuDNN in place, or gathered into rows."""
    with attention_cudnn.compiled_for(request.param):
        yield request.param


@pytest.mark.long
@pytest.mark.parametrize(("rows", "with_prefix", "N", "K"), CASES.values(), ids=CASES)
def test_packed_rows_equal_plain_attention(stand_in, generation, rows, with_prefix, N, K):
    """Values and the gradients of queries, keys and values, against float64."""
    segments, prefix = (np.stack(x) for x in zip(*rows))
    B, T = segments.shape
    q, k, v = random(B + T, B, T, N, K, 8)
    mask = visible(segments, prefix if with_prefix else None)
    real = segments > 0
    weigh = np.random.default_rng(2).normal(size=q.shape).astype(np.float32) * real[..., None, None]

    def run(q, k, v):
        masks = jnp.asarray(segments), jnp.asarray(prefix) if with_prefix else None
        out = attention_cudnn.packed(q, k, v, *masks, causal=True)
        return (out * weigh).sum(), out

    found, out = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(*map(jnp.asarray, (q, k, v)))
    expected = exact(q, k, v, mask)
    np.testing.assert_allclose(np.asarray(out)[real], expected[real], atol=2e-6)
    assert not np.asarray(out)[~real].any()
    for ours, theirs in zip(found, exact_gradients(q, k, v, mask, weigh)):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


def test_pictures_with_padding_between_their_patches(stand_in, generation):
    """Two pictures of a span of windows, whose last windows are not full; empty windows behind."""
    valid = np.random.default_rng(1).random((2, 60)) < 0.7
    valid[:, [0, 20, 23, 44]] = True
    segments = np.zeros((2, 60), np.int32)
    segments[0, :24], segments[0, 24:45] = 1, 2
    segments[1, :21] = 3
    segments *= valid
    q, k, v = random(5, 2, 60, 2, 2, 16)
    mask = segments[:, :, None] == segments[:, None]
    real = segments > 0
    weigh = np.random.default_rng(2).normal(size=q.shape).astype(np.float32) * real[..., None, None]

    def run(q, k, v):
        out = attention_cudnn.packed(q, k, v, jnp.asarray(segments), None, causal=False)
        return (out * weigh).sum(), out

    found, out = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(*map(jnp.asarray, (q, k, v)))
    assert np.isfinite(out).all()
    np.testing.assert_allclose(np.asarray(out)[real], exact(q, k, v, mask)[real], atol=2e-6)
    for ours, theirs in zip(found, exact_gradients(q, k, v, mask, weigh)):
        np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize(
    ("sides", "N", "K"), [((2, 2, 2), 4, 2), ((1, 2, 4), 4, 2), ((1, 4, 2), 3, 1)]
)
def test_packed_rows_on_a_mesh(stand_in, sides, N, K):
    """Rows over data and fsdp, heads over tensor; key heads shared where too few, and all heads
    whole where the query heads do not divide."""
    segments, prefix = (np.stack([x] * 4) for x in row(64, [10, 20, 5], [4, 9, 9]))
    q, k, v = random(0, 4, 64, N, K, 8)
    real = segments[0] > 0
    with jax.set_mesh(make_mesh(*sides)):
        found = jax.jit(lambda *x: attention_cudnn.packed(*x, causal=True))(
            *map(jnp.asarray, (q, k, v, segments, prefix))
        )
    expected = exact(q, k, v, visible(segments, prefix))
    np.testing.assert_allclose(np.asarray(found)[:, real], expected[:, real], atol=2e-6)


WRONG_ORDER = {
    "a segment in two ranges": ([1, 1, 2, 2, 1, 1], None),
    "padding within a segment": ([1, 1, 0, 1, 2, 2], None),
    "numbered downwards": ([2, 2, 1, 1, 3, 3], None),
    "another episode between": ([1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 1, 1]),
    "groups that alternate": ([1, 2, 3, 4, 5, 6], [1, 1, 3, 3, 1, 3]),
    "a prefix behind what continues it": ([1, 1, 2, 2, 3, 3], [2, 2, 2, 2, 3, 3]),
    "a prefix that continues another": ([1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 2, 2]),
    "a prefix that is padding": ([1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 0, 0]),
}


@pytest.mark.parametrize(("segments", "prefix"), WRONG_ORDER.values(), ids=WRONG_ORDER)
def test_a_row_in_another_order_is_nan_and_others_are_not(stand_in, segments, prefix):
    segments = np.array([segments, [1, 1, 1, 2, 2, 0]], np.int32)
    prefix = np.array([segments[0] if prefix is None else prefix, [1, 1, 1, 1, 1, 0]], np.int32)
    out = np.asarray(causal(*random(0, 2, 6, 2, 1, 8), segments, prefix))
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_pictures_numbered_downwards_are_nan(stand_in):
    q, k, v = map(jnp.asarray, random(0, 1, 6, 2, 2, 8))
    segments = jnp.asarray([[2, 2, 0, 1, 1, 0]], jnp.int32)
    assert np.isnan(attention_cudnn.packed(q, k, v, segments, None, causal=False)).all()


@pytest.mark.parametrize("ratio", [4, 8])
@pytest.mark.parametrize("T", [2, 16, 17, 100, 128, 1000, 4096, 5000, 8192, 32768])
def test_tiers_divide_a_padded_row(T, ratio):
    """At most `ratio` T tokens are allocated in a tier but the last, and less than a quarter is
    added to a row."""
    longer = packed_sequences.padding(T)
    assert 0 <= longer < max(1, T / 4)
    seen = []

    def look(segments):
        for tier in packed_sequences.tiers(packed_sequences.own(segments), ratio):
            seen.append((tier.longest, tier.sequences, len(tier.queries)))

    jax.eval_shape(look, jnp.zeros((3, T + longer), jnp.int32))
    assert seen[0][0] == T + longer
    for (length, sequences, _), (shorter, *_) in pairwise(seen):
        assert length == sequences * shorter
    assert seen[-1][0] <= 8
    for length, sequences, total in seen:
        assert sequences <= (8 if length <= 8 else ratio)
        assert total * length == 3 * (T + longer) * sequences


def test_masks_hold_in_jax_s_own_implementation():
    """The same arguments that cuDNN gets for rows that are not packed."""
    q, k, v = random(0, 3, 40, 4, 2, 80)
    args = tuple(map(jnp.asarray, (q, k, v)))
    valid = np.random.default_rng(0).random((3, 40)) < 0.7
    found = attention_cudnn.cudnn(
        *args, causal=False, lengths=None, valid=jnp.asarray(valid), implementation="xla"
    )
    expected = exact(q, k, v, np.broadcast_to(valid[:, None], (3, 40, 40)))
    np.testing.assert_allclose(found, expected, atol=2e-5)

    lengths = np.array([40, 7, 23])
    found = attention_cudnn.cudnn(
        *args, causal=True, lengths=jnp.asarray(lengths), valid=None, implementation="xla"
    )
    real = np.arange(40) < lengths[:, None]
    expected = exact(q, k, v, np.broadcast_to(np.tri(40, dtype=bool), (3, 40, 40)))
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], atol=2e-6)


@pytest.mark.parametrize(
    ("backend", "said", "kernel", "in_place"),
    [("gpu", "9.0", "cudnn", True), ("gpu", "12.0", "cudnn", True), ("gpu", "8.9", "cudnn", False),
     ("gpu", "8.0", "cudnn", False), ("gpu", "7.5", "xla", False), ("gpu", "gfx942", "xla", False),
     ("cpu", None, "cudnn", True)],
)  # fmt: skip
def test_the_form_of_packed_rows_follows_from_the_gpu(monkeypatch, backend, said, kernel, in_place):
    """Without a GPU, a program can only be compiled for one elsewhere."""
    device = SimpleNamespace(compute_capability=said)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    about = {"platform": "gpu", "length": 4096}
    choice = attention.select("auto", dtype="bfloat16", **about)
    assert choice.kernel == kernel
    assert kernel == "cudnn" or "NVIDIA's GPUs from Ampere on" in choice.reason
    assert attention.select("auto", dtype="float32", **about).kernel == "xla"
    assert (attention_cudnn.capability() >= attention_cudnn.HOPPER) == in_place
    with attention_cudnn.compiled_for((8, 6)):
        assert attention_cudnn.capability() == (8, 6)


@pytest.mark.long
@pytest.mark.parametrize("case", cudnn_check.CASES.values(), ids=cudnn_check.CASES)
def test_attention_in_bfloat16(stand_in, case):
    """Through the function that models call."""
    assert max(cudnn_check.error(*case)) < cudnn_check.LIMIT


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU")
def test_attention_on_a_gpu():
    env = {name: x for name, x in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-m", "support.cudnn_check"], env=env, check=True)


@pytest.mark.parametrize(("private", "why"), [("_dot_product_attention_bwd_p", "lacks _dot")])
def test_a_jax_without_the_packed_layout_is_refused(monkeypatch, private, why):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.delattr(fused_attention_stablehlo, private)
    q, k, v = map(jnp.asarray, random(0, 1, 8, 2, 2, 8))
    with pytest.raises(RuntimeError, match=rf"jax .* {why}.* set model.kernel to"):
        attention_cudnn.packed(q, k, v, jnp.ones((1, 8), jnp.int32), None, causal=True)


@pytest.mark.parametrize(
    ("shape", "why"),
    [((1, 8, 2, 12), "heads of 12.*multiples of 8"), ((9, 2**16, 32, 128), "count.*in 32 bits")],
)
def test_what_cudnn_cannot_take_is_refused(shape, why):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    segments = jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    with pytest.raises(ValueError, match=why):
        jax.eval_shape(
            lambda x, s: attention_cudnn.packed(x, x, x, s, None, causal=True), x, segments
        )


def test_elements_are_counted_on_each_device(stand_in):
    x = jax.ShapeDtypeStruct((16, 2**15, 32, 128), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)
    with jax.set_mesh(make_mesh(1, 8, 1)):
        jax.eval_shape(
            lambda x, s: attention_cudnn.packed(x, x, x, s, None, causal=True), x, segments
        )


@pytest.mark.parametrize(("B", "T", "causal"), [(2, 8192, True), (2, 4608, False), (1, 7, True)])
def test_a_backward_pass_gathers_at_most_what_is_told(monkeypatch, B, T, causal):
    c = published("7b").text if causal else published("7b").vision
    K = c.kv_heads if causal else c.heads
    gathered = []

    def backward(q, k, v, stats, out, gradient, layout, **options):
        gathered.append(sum(x.size * x.dtype.itemsize for x in (q, k, v, out, gradient, q, k, v)))
        return q, k, v

    monkeypatch.setattr(attention_cudnn, "_forward", cudnn_stand_in.forward)
    monkeypatch.setattr(attention_cudnn, "_backward", backward)
    q, k = (jax.ShapeDtypeStruct((B, T, n, c.head_dim), jnp.bfloat16) for n in (c.heads, K))
    ids = jax.ShapeDtypeStruct((B, T), jnp.int32)

    def loss(q, k, v, segments):
        out = attention_cudnn.packed(q, k, v, segments, None, causal=causal)
        return out.astype(jnp.float32).sum()

    with attention_cudnn.compiled_for(attention_cudnn.AMPERE):
        jax.eval_shape(jax.grad(loss, (0, 1, 2)), q, k, k, ids)
    assert max(gathered) == attention_cudnn.gathered_bytes(c, B, T, 2, causal=causal)


H100_CASES = {
    "text": (True, (28, 4, 128), 1, 20),
    "text, heads over two": (True, (28, 4, 128), 2, 20),
    "pictures": (False, (16, 16, 80), 1, 10),
}


@pytest.mark.skipif(gpus.PLUGIN_MISSING, reason=gpus.REASON)
@pytest.mark.parametrize(
    ("causal", "heads", "tensor", "calls"), H100_CASES.values(), ids=H100_CASES
)
def test_packed_rows_compile_for_h100s(causal, heads, tensor, calls):
    """Two layers of 8,192 tokens a chip in a rematerialised scan, forward and backward, on eight
    chips. cuDNN's calls are there, and no array is as large as one head's scores."""
    T, (N, K, H), layers = 8192, heads, 2
    mesh = make_mesh(1, 8 // tensor, tensor, devices=gpus.h100())

    def array(shape, dtype, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def layer(x, w, segments, prefix):
        q, k, v = jnp.split(x[:, :, None] * w, [N, N + K], axis=2)
        out = attention.attention(
            q, k, v, causal=causal, kernel="cudnn", segments=segments, prefix=prefix
        )
        return x + out.sum(2), None

    def loss(w, x, segments, prefix):
        body = jax.checkpoint(lambda x, w: layer(x, w, segments, prefix))
        return jax.lax.scan(body, x, w)[0].astype(jnp.float32).sum()

    batch, rows = ("data", "fsdp"), 8 // tensor
    segments = array((rows, T), jnp.int32, batch)
    x = array((rows, T, H), jnp.bfloat16, batch)
    w = array((layers, N + 2 * K, H), jnp.bfloat16)
    with jax.set_mesh(mesh):
        program = jax.jit(jax.grad(loss, (0, 1)))
        lowered = program.lower(w, x, segments, segments if causal else None)
        compiled = lowered.compile(compiler_options=gpus.OPTIONS)
    text = compiled.as_text()
    found = Counter(re.findall(r'custom_call_target="__cudnn\$(\w+)"', text))
    assert found["fmhaSoftmaxBackward"] * 2 == found["fmhaSoftmax"] == calls
    assert ("PADDING_CAUSAL" in text) == causal
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"\w\[([\d,]+)\]", text)]
    assert max(sizes) < T * T
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30


@pytest.mark.slow
@pytest.mark.skipif(gpus.PLUGIN_MISSING, reason=gpus.REASON)
@pytest.mark.parametrize(
    ("kind", "moved", "temporary", "calls"),
    [("h100", 1.5e9, 2**29, 20), ("a100", 4.5e9, 2**31, 24)],
)
def test_a_row_s_attention_moves_little(kind, moved, temporary, calls):
    """A layer of a 3B over a row of 8,192 tokens that share prompts, forward, again and backward,
    on one GPU that is not there. Scores would be 4 GB each time that they are written."""
    T, N, K, H = 8192, 16, 2, 128
    where = slices.find(f"{kind}:1")
    mesh = make_mesh(1, 1, 1, devices=where.devices)
    machine = where.machine(mesh)

    def array(*shape, dtype=jnp.bfloat16):
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    def loss(q, k, v, segments, prefix, weigh):
        masks = {"segments": segments, "prefix": prefix}
        attend = partial(attention.attention, causal=True, kernel="cudnn", **masks)
        return (jax.checkpoint(attend)(q, k, v) * weigh).astype(jnp.float32).sum()

    ids = array(1, T, dtype=jnp.int32)
    qkv = array(1, T, N, H), array(1, T, K, H), array(1, T, K, H)
    with jax.set_mesh(mesh), attention_cudnn.compiled_for(machine.capability):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*qkv, ids, ids, array(1, T, N, H))
    compiled = lowered.compile(compiler_options=dict(machine.options))
    text = compiled.as_text()
    assert text.count("__cudnn$fmhaSoftmax") == calls
    assert max(elements for _, elements in traffic.lines(text, "= ")) <= N * T * T // 8
    assert compiled.memory_analysis().temp_size_in_bytes < temporary
    assert traffic.traffic(text).total() < moved
