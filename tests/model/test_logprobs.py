"""Log-probabilities by blocks: the whole logits' own, on any mesh, and the vocabulary's weights
gathered once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.distributed.sharding import sharding
from lfpc_jax.model import config
from lfpc_jax.model.logprobs import token_logprobs, token_logprobs_and_entropy

pytestmark = pytest.mark.compiles

B, T, D, V = 4, 50, 16, 64


def setting(mesh=None):
    cfg = config.published("7b", dtype="float32", kernel="xla")
    cfg = replace(cfg, text=replace(cfg.text, vocab=V))
    rng = np.random.default_rng(0)

    def put(x, *axes):
        return jnp.asarray(x) if mesh is None else jax.device_put(x, sharding(axes, x.shape, mesh))

    weight = put(rng.normal(size=(V, D)).astype(np.float32), "vocab", "embed")
    hidden = put(rng.normal(size=(B, T, D)).astype(np.float32), "batch", None, None)
    targets = put(rng.integers(V, size=(B, T)).astype(np.int32), "batch", None)
    return cfg, weight, hidden, targets, jnp.arange(V) % 5 != 2


def by_blocks(weight, hidden, targets, cfg, allowed, block=16):
    def loss(weight, hidden):
        found = token_logprobs(
            {"unembed": weight}, hidden, targets, cfg=cfg, allowed=allowed, block=block
        )
        return (found * jnp.cos(jnp.arange(targets.shape[1]))).sum(), found

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(weight, hidden)


def whole(weight, hidden, targets, allowed):
    def loss(weight, hidden):
        logits = jnp.where(allowed, hidden @ weight.T, -jnp.inf)
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
        return (found * jnp.cos(jnp.arange(targets.shape[1]))).sum(), found

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(weight, hidden)


@pytest.mark.parametrize("sides", [None, (1, 4, 1), (2, 2, 1), (1, 2, 2), (2, 2, 2), (1, 8, 1)])
def test_any_mesh_gives_the_whole_logits_values_and_gradients(sides):
    """(1, 8, 1) does not divide the four rows: they stay whole."""
    devices = None if sides is None else jax.devices()[: np.prod(sides)]
    mesh = None if sides is None else make_mesh(*sides, devices=devices)
    cfg, weight, hidden, targets, allowed = setting(mesh)
    targets = jnp.where(allowed[targets], targets, 0)
    with jax.set_mesh(mesh) if mesh is not None else jax.default_matmul_precision("highest"):
        run = jax.jit(lambda w, h, t: by_blocks(w, h, t, cfg, allowed))
        found = jax.device_get(run(weight, hidden, targets))
    expected = whole(*(jnp.asarray(jax.device_get(x)) for x in (weight, hidden, targets)), allowed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), found,
                 jax.device_get(expected))  # fmt: skip


def test_the_entropy_is_the_distribution_s():
    cfg, weight, hidden, targets, allowed = setting()
    _, found = token_logprobs_and_entropy(
        {"unembed": weight}, hidden, targets, cfg=cfg, allowed=allowed, block=16
    )
    p = jax.nn.softmax(jnp.where(allowed, hidden @ weight.T, -jnp.inf))
    np.testing.assert_allclose(found, jax.scipy.special.entr(p).sum(-1), rtol=1e-4, atol=1e-4)


def test_the_whole_logits_are_never_held():
    """Of 8,192 tokens over Qwen2.5-VL-7B's 152,064 ids, 4.6 GiB; compiled for a CPU, not run."""
    cfg = config.published("7b", dtype="float32", kernel="xla")
    tokens, ids = 8192, cfg.text.vocab
    shapes = (
        ((ids, D), "float32"),
        ((1, tokens, D), "float32"),
        ((1, tokens), "int32"),
        ((ids,), "bool"),
    )
    arrays = [jax.ShapeDtypeStruct(*one) for one in shapes]

    def temporary(way, *more):
        made = jax.jit(lambda *x: way(*x[:3], *more, x[3])).lower(*arrays).compile()
        return made.memory_analysis().temp_size_in_bytes

    logits = 4 * tokens * ids
    found = temporary(lambda w, h, t, allowed: by_blocks(w, h, t, cfg, allowed, block=512))
    assert found < logits / 3
    assert temporary(whole) > logits
