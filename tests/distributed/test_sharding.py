"""The mesh, the rule table, and the model on meshes of virtual devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lfpc_jax.distributed import sharding
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import cache as kv
from lfpc_jax.model import config, qwen, spec
from lfpc_jax.trajectory import Images, Tokens
from support import ported, reference

pytestmark = pytest.mark.compiles

TOLERANCE = 2e-5
LENGTH, WINDOWS = 64, 6


def test_a_mesh_takes_all_devices_or_says_what_is_wrong():
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(-1).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    for sides, message in (
        ((2, 2, 1), "needs 4 devices, there are 8"),
        ((3, -1, 1), "8 devices are not a multiple of 3"),
        ((-1, -1, 1), "one may be -1"),
        ((0, 8, 1), "sides must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_mesh(*sides)


def test_the_table_splits_dimensions_by_name():
    mesh = make_mesh(2, 2, 2)
    assert sharding.partition(("vocab", "embed"), (100, 64), mesh) == P("tensor", "fsdp")
    assert sharding.partition(("batch", None), (8, 3), mesh) == P(("data", "fsdp"), None)
    # 3 heads do not divide into 2, so that dimension stays whole and is named
    odd = (("embed", "heads", None), (64, 3, 16))
    assert sharding.partition(*odd, mesh) == P("fsdp", None, None)
    assert list(sharding.kept_whole(*odd, mesh)) == ["heads of 3 is not divisible by tensor = 2"]


def test_two_names_that_claim_one_mesh_axis_raise():
    with pytest.raises(ValueError, match="'heads' and 'mlp' both claim mesh axis 'tensor'"):
        sharding.partition(("heads", "mlp"), (4, 8), make_mesh(2, 2, 2))


def test_published_sizes_split_everywhere_but_where_named():
    assert spec.kept_whole(config.published("7b"), make_mesh(1, 4, 2)) == []
    whole = spec.kept_whole(config.published("3b"), make_mesh(1, 1, 8))
    assert any("k_proj" in line and "kv_heads of 2" in line for line in whole)
    assert all(("kv_heads" in line or "visual" in line) for line in whole)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    hf = reference.random_config(
        5,
        tied=False,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        intermediate_size=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
    )
    hf.vision_config.out_hidden_size = 64
    model = reference.random_model(hf, 5, scale=0.05)
    cfg = ported.read_config(hf, tmp_path_factory.mktemp("model"), dtype="float32")
    params = ported.parameters(model, cfg)
    rng = np.random.default_rng(5)
    prompts = [reference.random_prompt(rng, i % 3, most=4) for i in range(8)]
    tokens, images = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS, images=8)
    return cfg, params, tokens, images, run(params, tokens, images, cfg)


def run(params, tokens, images, cfg):
    """Logits of one forward, of a prefill, and of a step onto its cache."""

    @partial(jax.jit, static_argnames="cfg")
    def everything(params, tokens, images, cfg):
        embeddings = qwen.encode_images(params, images, cfg=cfg)
        hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)
        first, cache = qwen.prefill(params, tokens, embeddings, cfg=cfg, capacity=LENGTH + 8)
        step = jax.tree.map(lambda x: x[..., :1], tokens)
        one = jnp.ones_like(step.segments)
        step = Tokens(step.ids, step.positions, one, jnp.full_like(step.image_index, -1))
        next, _ = qwen.extend(params, step, None, cache, cfg=cfg)
        return [qwen.unembed(params, x, cfg=cfg) for x in (hidden, first, next)]

    return jax.tree.map(np.asarray, everything(params, tokens, images, cfg=cfg))


@pytest.mark.parametrize("sides", [(2, 2, 2), (1, 8, 1), (8, 1, 1), (1, 2, 4)])
def test_logits_on_a_mesh_equal_one_device(case, sides):
    cfg, params, tokens, images, expected = case
    mesh = make_mesh(*sides)
    placed = jax.tree.map(jax.device_put, params, spec.shardings(cfg, mesh))

    def spread(x, *axes):
        return jax.device_put(x, sharding.sharding(axes, x.shape, mesh))

    tokens = Tokens(
        ids=spread(tokens.ids, "batch", None),
        positions=spread(tokens.positions, None, "batch", None),
        segments=spread(tokens.segments, "batch", None),
        image_index=spread(tokens.image_index, "batch", None),
    )
    images = Images(
        spread(images.pixels, "batch", None, None, None), spread(images.grid, "batch", None)
    )
    if sides == (2, 2, 2):
        gate = placed["text"]["gate"]["w"]
        assert gate.addressable_shards[0].data.size == gate.size // 4  # fsdp x tensor
    with jax.set_mesh(mesh):
        found = run(placed, tokens, images, cfg)
    real = np.asarray(tokens.segments) > 0
    for ours, theirs in zip(found[:2], expected[:2]):
        assert np.abs(ours - theirs)[real].max() <= TOLERANCE
    assert np.abs(found[2] - expected[2]).max() <= TOLERANCE


def test_a_cache_is_split_by_rows_and_heads(case):
    cfg = case[0]
    with jax.set_mesh(make_mesh(2, 2, 2)):
        cache = jax.jit(lambda: kv.empty(cfg, 8, 32))()
    assert cache.k.sharding.spec == P(None, ("data", "fsdp"), "tensor")
    assert cache.k.addressable_shards[0].data.nbytes == cache.k.nbytes // 8
