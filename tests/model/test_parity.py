"""The model against transformers' on random small configs, whole and module by module."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.model import layers, qwen, rotary, text, vision
from lfpc_jax.processing.positions import mrope_positions
from support import ported, reference

pytestmark = pytest.mark.compiles

LENGTH, WINDOWS = 256, 25
TOLERANCE = 1e-4
SEEDS = range(12)


@pytest.fixture(scope="module", params=SEEDS)
def case(request, tmp_path_factory):
    """A random model, tied for odd seeds, and a right-padded batch with 0, 1 and 3 images."""
    seed = request.param
    model = reference.random_model(reference.random_config(seed, tied=seed % 2 == 1), seed)
    cfg = ported.read_config(model.config, tmp_path_factory.mktemp("model"), dtype="float32")
    rng = np.random.default_rng(seed)
    prompts = [reference.random_prompt(rng, images) for images in (0, 1, 3)]
    return model, cfg, ported.parameters(model, cfg), prompts


def test_logits_and_vision_embeddings_equal_transformers(case):
    model, cfg, params, prompts = case
    tokens, images = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS)
    ours, embeddings = map(np.asarray, ported.both(params, tokens, images, cfg=cfg))
    theirs = reference.logits(model, prompts, LENGTH)
    assert np.abs(theirs).max() > 1  # logits that differ enough for a difference to show
    real = tokens.segments > 0
    assert np.abs(ours - theirs)[real].max() <= TOLERANCE
    seen = embeddings[ported.raster_places(prompts, cfg, WINDOWS)]
    assert np.abs(seen - reference.vision(model, prompts, LENGTH)).max() <= TOLERANCE


def test_positions_equal_get_rope_index(case):
    model, cfg, _, prompts = case
    inputs = reference.model_inputs(prompts, LENGTH)
    theirs, deltas = model.model.get_rope_index(
        **{k: inputs[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw")},
        attention_mask=inputs["attention_mask"],
    )
    tokens, _ = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS)
    np.testing.assert_array_equal(tokens.positions, theirs.numpy())
    for prompt, delta in zip(prompts, deltas):
        grids = [ported.processor(cfg).grid_of(p) for p in prompt.pictures]
        _, following = mrope_positions(prompt.ids, grids, cfg.image_token)
        assert following == len(prompt.ids) + delta.item()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    config = reference.random_config(2, tied=True, num_hidden_layers=2)
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    model = reference.random_model(config, 2)
    cfg = ported.read_config(model.config, tmp_path_factory.mktemp("model"), dtype="float32")
    return model, cfg, ported.parameters(model, cfg), np.random.default_rng(2)


def test_text_alone_needs_no_images(one):
    model, cfg, params, rng = one
    prompts = [reference.random_prompt(rng, 0) for _ in range(3)]
    tokens, images = ported.arrays(prompts, cfg, length=16, windows=WINDOWS)
    assert images is None
    ours = np.asarray(ported.forward(params, tokens, None, cfg=cfg))
    real = tokens.segments > 0
    assert np.abs(ours - reference.logits(model, prompts, 16))[real].max() <= TOLERANCE


@pytest.mark.long
def test_loops_and_remat_change_nothing(one):
    """Layers in a tuple, and every remat policy, give the gradients of the plain scan."""
    _, cfg, params, rng = one
    prompts = [reference.random_prompt(rng, 1, most=5)]
    tokens, images = ported.arrays(prompts, cfg, length=64, windows=9)

    def gradient(remat, prepare):
        def loss(params, tokens, images):
            used = replace(cfg, remat=remat)
            return jnp.square(qwen.forward(prepare(params), tokens, images, cfg=used)).mean()

        return jax.jit(jax.value_and_grad(loss))(params, tokens, images)

    expected = gradient("none", lambda params: params)
    for remat, prepare in (
        ("dots", lambda params: params),
        ("attended", lambda params: params),
        ("full", lambda params: params),
        ("offload", lambda params: params),
        ("offload", layers.unstack),
        ("full", layers.unstack),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-4),
            expected,
            gradient(remat, prepare),
        )


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    model = reference.random_model(reference.random_config(3, tied=False), 3, scale=0.2)
    cfg = ported.read_config(model.config, tmp_path_factory.mktemp("model"), dtype="float32")
    params = layers.unstack(ported.parameters(model, cfg))
    return model.model, cfg, params, np.random.default_rng(3)


def near(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=5e-5, rtol=1e-5)


def test_norm_and_mlp(modules):
    model, cfg, params, rng = modules
    x = rng.normal(size=(5, cfg.text.width)).astype(np.float32) * 3
    ours, theirs = params["text"][0], model.language_model.layers[0]
    normed = layers.rms_norm(jnp.asarray(x), ours["norm1"], cfg.text.eps)
    near(normed, theirs.input_layernorm(torch.tensor(x)))
    near(layers.gated_mlp(jnp.asarray(x), ours), theirs.mlp(torch.tensor(x)))


def test_text_rotary(modules):
    model, cfg, _, rng = modules
    positions = rng.integers(0, 2000, (3, 2, 7))
    x = rng.normal(size=(2, 7, 4, cfg.text.head_dim)).astype(np.float32)
    cos, sin = model.language_model.rotary_emb(torch.tensor(x), torch.tensor(positions))
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

    theirs, _ = apply_rotary_pos_emb(torch.tensor(x), torch.tensor(x), cos, sin, unsqueeze_dim=2)
    ours = rotary.rotate(jnp.asarray(x), rotary.text_rotary(jnp.asarray(positions), cfg.text))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=3e-4)  # float32 angles near 2,000 rad


def test_decoder_layer(modules):
    model, cfg, params, rng = modules
    T = 9
    x = rng.normal(size=(2, T, cfg.text.width)).astype(np.float32)
    positions = np.sort(rng.integers(0, 30, (3, 2, T)))
    theirs = model.language_model
    causal = torch.full((T, T), -1e30).triu(1)[None, None]
    out = theirs.layers[0](
        torch.tensor(x),
        attention_mask=causal,
        position_embeddings=theirs.rotary_emb(torch.tensor(x), torch.tensor(positions)),
    )
    from lfpc_jax.model.attention import attention

    def attend(q, k, v):
        return attention(q, k, v, causal=True, kernel="xla"), None

    turns = rotary.text_rotary(jnp.asarray(positions), cfg.text)
    ours, _ = text.layer(params["text"][0], jnp.asarray(x), turns, attend, cfg.text.eps)
    near(ours, out)


@pytest.mark.parametrize("full", [True, False])
def test_vision_block_patches_and_merger(modules, full):
    """One block of either kind on a grid that the window does not divide."""
    model, cfg, params, rng = modules
    rows, columns = 5, 7
    picture = rng.integers(0, 256, (rows * 28, columns * 28, 3), dtype=np.uint8)
    made = ported.processor(cfg)
    windows = -(-rows // made.window) * -(-columns // made.window)
    visual = model.visual
    flat = visual.patch_embed(reference.patches(picture))
    pixels = jnp.asarray(made.patchify(picture, windows))[None]
    order = made.image_index((rows, columns))
    tokens = cfg.vision.window_tokens * windows

    def raster(x):
        return np.asarray(x).reshape(tokens, 4, -1)[order].reshape(rows * columns * 4, -1)

    x = vision.embed_patches(params["vision"]["patch"], pixels, cfg.vision, jnp.float32)
    near(raster(x), flat)

    grid = jnp.array([[rows, columns]])
    row, column, valid = vision.patch_places(grid[:, None], jnp.arange(windows)[None], cfg.vision)
    assert valid.sum() == rows * columns * 4
    turns = vision.vision_rotary(row, column, cfg.vision)
    seen = {"valid": valid}
    layer = params["vision"]["layers"][0]
    ours = vision.block(layer, x, turns, valid, seen, np.bool_(full), cfg=cfg)

    from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

    thw = torch.tensor([[1, rows * 2, columns * 2]])
    index, edges = get_vision_window_index(
        thw, spatial_merge_size=2, window_size=cfg.vision.window_px, patch_size=14
    )
    cos, sin = visual.rotary_pos_emb(flat, get_vision_position_ids(thw, 2))
    permuted = [visual.permute_input_for_window_attn(y, index, len(flat)) for y in (flat, cos, sin)]
    edges = torch.tensor([0, len(flat)]) if full else edges
    theirs = visual.blocks[0](permuted[0], cu_seqlens=edges, position_embeddings=permuted[1:])
    back = torch.argsort(index)
    near(raster(ours), theirs.reshape(rows * columns, 4, -1)[back].reshape(len(flat), -1))

    merged = vision.merge(params["vision"]["merger"], ours, cfg.vision)
    near(np.asarray(merged)[0, order], visual.merger(theirs)[back])


@pytest.mark.parametrize("seed", range(4))
def test_bfloat16_is_as_near_to_float32_as_transformers_own(seed, tmp_path):
    config = reference.random_config(seed, tied=seed % 2 == 1, num_hidden_layers=4)
    high, low = reference.rounded_and_in_bfloat16(reference.random_model(config, seed))
    cfg = ported.read_config(config, tmp_path, dtype="bfloat16")
    params = ported.parameters(low, cfg, jnp.bfloat16)
    rng = np.random.default_rng(seed)
    prompts = [reference.random_prompt(rng, images) for images in (0, 1, 3)]
    tokens, images = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS)
    real = tokens.segments > 0
    ours = np.asarray(ported.forward(params, tokens, images, cfg=cfg))[real]
    theirs = reference.logits(low, prompts, LENGTH)[real]
    exact = reference.logits(high, prompts, LENGTH)[real]
    assert np.abs(ours - exact).max() <= 1.5 * np.abs(theirs - exact).max()
    assert np.sqrt(np.square(ours - exact).mean()) <= 1.5 * np.sqrt(
        np.square(theirs - exact).mean()
    )
