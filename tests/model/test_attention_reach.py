"""The Pallas kernel for decode steps in its interpreter against a float64 softmax in NumPy, in the
engine against working copies, and compiled for TPUs that are only described."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh, rollout_mesh
from lfpc_jax.model import attention_reach
from lfpc_jax.model.attention import ChosenKernel, select_decode
from lfpc_jax.model.attention_parts import merged
from lfpc_jax.model.config import published
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.shapes import RolloutShapes
from support import tpu_slices

pytestmark = pytest.mark.compiles

interpreted = partial(attention_reach.reach, interpret=True)


def exact(q, k, v, length):
    """Attention `[K, R, H]` of a set to the first keys of its row, and the logarithm of the sum."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k[:, :length], v[:, :length]))
    scores = np.einsum("krh,ksh->krs", q, k)
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("krs,ksh->krh", weights, v) / total, highest + np.log(total)


def random(seed, L, N, K, R, S, H, lengths, dtype="float32"):
    """Queries, and layers of keys and values that are not numbers beyond each row's length."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(N, K, R, H)) * H**-0.5
    k, v = rng.normal(size=(2, L, N, K, S, H))
    beyond = np.arange(S) >= np.asarray(lengths)[:, None]
    k, v = (np.where(beyond[None, :, None, :, None], np.nan, x) for x in (k, v))
    return tuple(jnp.asarray(x, dtype) for x in (q, k, v))


def agrees(part, q, k, v, lengths, layer, atol):
    values, total = (np.asarray(x, np.float64) for x in (part.values, part.highest))
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(part.total, 1)
    for n, length in enumerate(lengths):
        if length == 0:
            assert (values[n] == 0).all()
            assert (total[n] == np.float32(-1e30)).all()
            continue
        wanted = exact(q[n], k[layer][n], v[layer][n], length)
        np.testing.assert_allclose(values[n], wanted[0], atol=atol)
        np.testing.assert_allclose(total[n], wanted[1], atol=atol)


@pytest.mark.parametrize("stacked", [True, False], ids=["stacked", "unstacked"])
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 3e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    ("K", "R", "S", "H", "lengths"),
    [
        (2, 7, 300, 64, [300, 0, 129, 1, 256]),  # a last block that the cache fills partly
        (1, 8, 128, 128, [0, 0, 128, 127]),
        (4, 3, 77, 32, [76, 5]),  # a cache under a block
        (2, 112, 640, 128, [640, 0, 383]),  # a prompt that 16 rows continue
        (1, 1, 256, 16, [0, 0, 0]),  # nothing at all
    ],
)
def test_against_float64(K, R, S, H, lengths, dtype, atol, stacked, monkeypatch):
    monkeypatch.setattr(attention_reach, "BLOCK_BYTES", 2**15)  # blocks of 128
    q, k, v = random(0, 3, len(lengths), K, R, S, H, lengths, dtype)
    layers = (k, v) if stacked else (tuple(k), tuple(v))

    def attend(q, layers, lengths, layer=2):
        visits = attention_reach.visits(lengths, layers[1])
        return interpreted(q, *layers, visits, layer)

    agrees(jax.jit(attend)(q, layers, jnp.asarray(lengths)), q, k, v, lengths, 2, atol)


@pytest.mark.parametrize("seed", range(4))
def test_lengths_at_random_in_two_parts(seed, monkeypatch):
    """Parts that the kernel makes of two caches are merged to the attention over both."""
    monkeypatch.setattr(attention_reach, "BLOCK_BYTES", 2**15)
    rng = np.random.default_rng(seed)
    N, K, R, H = 6, 2, 4, 32
    lengths = rng.integers(0, 401, N), rng.integers(1, 150, N)
    q, k, v = random(seed, 1, N, K, R, 400, H, lengths[0])
    _, k2, v2 = random(seed + 9, 1, N, K, R, 150, H, lengths[1])

    def part(k, v, lengths):
        return interpreted(q, k, v, attention_reach.visits(jnp.asarray(lengths), v), 0)

    out = merged(part(k, v, lengths[0]), part(k2, v2, lengths[1]))
    for n, (first, second) in enumerate(zip(*lengths)):
        keys, values = (
            np.concatenate([x[0, n, :, :first], y[0, n, :, :second]], axis=1)
            for x, y in ((k, k2), (v, v2))
        )
        np.testing.assert_allclose(out[n], exact(q[n], keys, values, first + second)[0], atol=3e-6)


@pytest.mark.parametrize("sides", [(2, 2, 2), (4, 2, 1), (1, 2, 4)], ids=str)
def test_on_a_mesh(sides, monkeypatch):
    """Rows over data and fsdp, key heads over tensor, whole where they do not divide."""
    monkeypatch.setattr(attention_reach, "BLOCK_BYTES", 2**14)
    lengths = [300, 0, 129, 1, 256, 17, 0, 200]
    q, k, v = random(1, 2, 8, 2, 5, 300, 64, lengths)

    def attend(q, k, v, lengths):
        return interpreted(q, k, v, attention_reach.visits(lengths, v), 1)

    with jax.set_mesh(make_mesh(*sides)):
        agrees(jax.jit(attend)(q, k, v, jnp.asarray(lengths)), q, k, v, lengths, 1, 3e-6)


def test_blocks_are_visited_as_far_as_rows_reach():
    values = jax.ShapeDtypeStruct((2, 4, 8, 1000, 128), jnp.bfloat16)
    found = attention_reach.visits(jnp.asarray([0, 1, 300, 128]), values)
    assert found.size == 128
    assert found.count == 0 + 1 + 3 + 1
    np.testing.assert_array_equal(found.number[0, :5], [1, 2, 2, 2, 3])
    np.testing.assert_array_equal(found.block[0, :5], [0, 0, 1, 2, 0])


def test_the_choice_and_its_reason():
    about = {"positions_last": False}
    assert select_decode("auto", platform="tpu", **about) == ChosenKernel(
        "reach", "the default on tpu"
    )
    assert select_decode("splash", platform="cpu", **about) == ChosenKernel(
        "reach", "as configured"
    )
    assert select_decode("xla", platform="tpu", **about) == ChosenKernel("xla", "as configured")
    assert select_decode("auto", platform="cpu", positions_last=True).kernel == "xla"
    assert "copied" in select_decode("auto", platform="gpu", **about).reason
    assert "keys" in select_decode("splash", platform="tpu", positions_last=True).reason


def decoded_on(topology, cfg, shapes, tensor=1):
    """The engine's decode for a slice: how often the kernel is in it, what it copies of the cache,
    and bytes a chip of its temporaries, of what it updates in place, and of the cache."""
    mesh = rollout_mesh(tensor, devices=tpu_slices.devices(topology))
    shapes = shapes.sharded(mesh.shape["data"])
    programs = rollout_programs(cfg, mesh, shapes, Sampling(top_p=0.95))
    (decode,) = (program for program in programs if program.name == "decode")
    program = decode.lower().compile()
    text, memory = program.as_text(), program.memory_analysis()
    lengths = f"({shapes.own_capacity}|{shapes.prefix_capacity})"
    layers = rf"= \(?[a-z0-9]+\[[\d,]*{lengths},{cfg.text.head_dim}\]\S* "
    made = re.findall(layers + r"(?:copy|copy-start|transpose|dynamic-slice|fusion)\(", text)
    written = re.findall(r"%scatter_fusion[.\d]* " + layers + r"fusion\(", text)  # in place
    return {
        "kernels": len(re.findall(r" custom-call\(.*attention_reach", text)),
        "copies": len(made) - len(written),
        "temporary": memory.temp_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "cache": decode.held["own"] + decode.held["prompts"],
    }


SHAPES = RolloutShapes(
    slots=256, chunk=16, capacity=4096, own=2560, prefixes=16, members=16, crop_tokens=1024
)
LONG = replace(SHAPES, capacity=16384 + 512 + 2560, image_tokens=16384)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_decode_compiles_for_a_tpu_and_copies_nothing_of_the_cache(dtype):
    """Two layers of the 3B model."""
    cfg = published("3b", kernel="splash")
    cfg = replace(cfg, text=replace(cfg.text, layers=2, vocab=1000), dtype=dtype)
    found = decoded_on("v5e:2x2", cfg, SHAPES)
    assert found["kernels"] == 2
    assert found["copies"] == 0
    assert found["aliased"] == pytest.approx(found["cache"], rel=1e-3)
    assert found["temporary"] < found["cache"] / 10


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [SHAPES, LONG], ids=["1024", "16384"])
@pytest.mark.parametrize(("topology", "tensor"), [("v5e:2x4", 4), ("v5p:2x2x1", 1), ("v6e:2x4", 1)])
def test_7b_decodes_256_rows_in_groups_of_16(topology, tensor, shapes):
    found = decoded_on(topology, published("7b", kernel="splash"), shapes, tensor)
    assert found["kernels"] == 2
    assert found["copies"] == 0
    assert found["aliased"] == pytest.approx(found["cache"], rel=1e-3)
    assert found["temporary"] < 2**30
