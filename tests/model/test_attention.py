"""Attention against a float64 softmax in NumPy, for every kernel that can run or be emulated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.model import attention, attention_xla
from lfpc_jax.model.config import published
from support import ported  # noqa: F401  (puts the package's modules under the type checks first)
from support.exact_attention import exact, exact_gradients, random, visible

pytestmark = pytest.mark.compiles


def check(q, k, v, seen, **masks):
    """Values and gradients against the formula."""
    weigh = np.random.default_rng(2).normal(size=q.shape).astype(np.float32)

    def run(q, k, v):
        out = attention.attention(q, k, v, kernel="xla", **masks)
        return (out * weigh).sum(), out

    gradients, out = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))(q, k, v)
    np.testing.assert_allclose(out, exact(q, k, v, seen), atol=2e-6)
    for ours, theirs in zip(gradients, exact_gradients(q, k, v, seen, weigh), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("budget", "T"), [(2**26, 300), (40_000, 300), (3_000, 37)])
@pytest.mark.parametrize("causal", [True, False])
def test_xla_blocks_equal_plain_attention(monkeypatch, budget, causal, T):
    """Whole, in few and in many blocks, with a remainder."""
    monkeypatch.setattr(attention_xla, "SCORE_BYTES", budget)
    monkeypatch.setattr(attention_xla, "_SHORT", 16)
    q, k, v = random(T, 2, T, 4, 2, 8)
    segments = np.sort(np.random.default_rng(1).integers(0, 4, (2, T)), axis=1)
    seen = visible(segments) if causal else segments[:, :, None] == segments[:, None, :]
    check(q, k, v, seen, causal=causal, segments=jnp.asarray(segments))


@pytest.mark.parametrize("budget", [2**26, 3_000])
def test_a_segment_sees_the_one_that_it_continues(monkeypatch, budget):
    monkeypatch.setattr(attention_xla, "SCORE_BYTES", budget)
    monkeypatch.setattr(attention_xla, "_SHORT", 16)
    q, k, v = random(3, 1, 60, 4, 2, 8)
    segments = np.repeat([1, 2, 3, 4, 0], [20, 10, 15, 10, 5])[None].astype(np.int32)
    prefix = np.repeat([1, 1, 1, 4, 0], [20, 10, 15, 10, 5])[None].astype(np.int32)
    seen = visible(segments, prefix)
    assert seen[0, 20:45, :20].all()
    assert not seen[0, 45:, :45].any()
    check(q, k, v, seen, causal=True, segments=jnp.asarray(segments), prefix=jnp.asarray(prefix))


def test_which_kernels_serve_prefixes():
    asked = {"platform": "tpu", "dtype": "bfloat16"}
    assert attention.select("auto", **asked, length=512).kernel == "splash"
    assert attention.select("auto", **asked, length=2**15, continued=True).kernel == "splash"
    longer = attention.select("auto", **asked, length=2**15 + 128, continued=True)
    assert (longer.kernel, "32896 tokens are over" in longer.reason) == ("xla", True)


@pytest.mark.parametrize("by_blocks", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_long_rows_never_hold_a_full_score_matrix(monkeypatch, gradient, by_blocks):
    """8,192 tokens x 8 heads: a full score matrix would be 2 GiB."""
    monkeypatch.setattr(attention_xla, "LONG", 1 if by_blocks else 2**30)
    shape = jax.ShapeDtypeStruct((1, 8192, 8, 16), jnp.float32)

    def run(q, k, v):
        return attention.attention(q, k, v, causal=True, kernel="xla").sum()

    program = jax.grad(run, (0, 1, 2)) if gradient else run
    memory = jax.jit(program).lower(shape, shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**31 / 4


@pytest.mark.parametrize(
    ("kernel", "platform", "more", "expected", "because"),
    [
        ("auto", "cpu", {}, "xla", "default on cpu"),
        ("auto", "tpu", {}, "splash", "default on tpu"),
        ("auto", "gpu", {}, "cudnn", "default on gpu"),
        ("auto", "tpu", {"length": 64}, "xla", "64 tokens are under"),
        ("auto", "gpu", {"continued": True}, "cudnn", "default on gpu"),
        ("cudnn", "gpu", {"causal_and_valid": True}, "xla", "no mask for causal rows"),
        ("cudnn", "gpu", {"dtype": jnp.float32}, "xla", "float32"),
        ("xla", "tpu", {}, "xla", "as configured"),
    ],
)
def test_the_choice_of_kernel_gives_its_reason(kernel, platform, more, expected, because):
    given = {"platform": platform, "length": 4096, "dtype": jnp.bfloat16} | more
    choice = attention.select(kernel, **given)
    assert choice.kernel == expected
    assert because in choice.reason


def test_which_kernel_ran_is_in_the_log_and_the_program(caplog):
    x = jnp.ones((1, 16, 2, 8))

    def run(kernel):
        return jax.jit(lambda x: attention.attention(x, x, x, causal=True, kernel=kernel)).lower(x)

    with caplog.at_level("INFO", logger="lfpc_jax.model.attention"):
        text = run("auto").as_text(debug_info=True)
        assert "attention_xla" in text
        assert "xla (the default on cpu)" in caplog.text
        run("cudnn")
    assert caplog.records[-1].levelname == "WARNING"
    assert "cuDNN takes bfloat16, not float32" in caplog.records[-1].message
    assert published("3b").kernel == "auto"
