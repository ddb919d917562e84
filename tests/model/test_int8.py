"""Weights as int8: what rounding does, and models that compute with it, against transformers'."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.checkpoint import folder, huggingface
from lfpc_jax.model import int8, qwen, spec
from lfpc_jax.model.layers import linear, unstack
from lfpc_jax.model.parameters import PROJECTIONS
from support import ported, reference

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """transformers' model in float32, its config here, its parameters, and its folder."""
    path = tmp_path_factory.mktemp("model")
    hf_config = reference.random_config(3, tied=True, num_hidden_layers=2)
    hf = reference.random_model(hf_config, 3)
    hf.save_pretrained(path)
    cfg = ported.read_config(hf_config, path, dtype="float32")
    return hf, cfg, ported.parameters(hf, cfg), path


@pytest.fixture(scope="module")
def held(model):
    _, cfg, params, _ = model
    rounding = int8.Rounding()
    copies = jax.tree.map(jnp.copy, params)
    return int8.rounded_tree(copies, spec.spec_tree(cfg), "float32", rounding), rounding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_is_within_half_a_step(dtype):
    """Outputs of all sizes, one of nothing but zeros, and two of three axes are inputs."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 6, 5)).astype(np.float32) * np.float32([1e-6, 1, 30, 1e3, 0])
    param = spec.Param((4, 6, 5), ("heads", None, "embed"), "normal", "w", (5, 24), 2)
    values, scale, (lost, all_) = int8.rounded(jnp.asarray(w), param, dtype)
    assert (values.dtype, scale.dtype, scale.shape) == (jnp.int8, jnp.dtype(dtype), (5,))
    step = np.asarray(scale, np.float32)
    back = np.asarray(values, np.float32) * step
    assert np.all(np.abs(back - w) <= 0.5001 * step)
    assert np.abs(np.asarray(values)).max(axis=(0, 1)).tolist() == [127, 127, 127, 127, 0]
    assert float(lost) == pytest.approx(np.square(back - w).sum(), rel=1e-3)
    assert float(all_) == pytest.approx(np.square(w).sum(), rel=1e-5)


def test_only_the_projections_of_the_text_are_held_so(model, held):
    _, cfg, params, _ = model
    found, _ = held
    specs = int8.specs(spec.spec_tree(cfg))
    assert jax.tree.structure(found) == jax.tree.structure(specs, is_leaf=spec.is_param)
    for param, x in zip(jax.tree.leaves(specs, is_leaf=spec.is_param), jax.tree.leaves(found)):
        assert (x.shape, x.dtype) == (param.array_shape, param.dtype_in(jnp.float32)), param
    whole = {name for name, part in found["text"].items() if not isinstance(part, dict)}
    assert whole == {"norm1", "norm2"}
    assert {*PROJECTIONS} == found["text"].keys() - whole
    for name in ("vision", "embed", "norm"):
        jax.tree.map(np.testing.assert_array_equal, found[name], params[name])


def test_what_is_said_of_rounding_is_what_it_took(model, held):
    """Of all projections, and of the one that lost the most, by NumPy."""
    _, cfg, params, _ = model
    found, rounding = held
    shares = {}
    for name in PROJECTIONS:
        names = spec.spec_tree(cfg)["text"][name]["w"].hf_names
        w = np.asarray(params["text"][name]["w"], np.float64)
        part = found["text"][name]
        off = np.asarray(int8.whole(part["w"], part["scale"]), np.float64) - w
        squares = [np.square(x).reshape(len(names), -1).sum(axis=1) for x in (off, w)]
        shares |= dict(zip(names, np.stack(squares, axis=1)))
    lost, all_ = sum(shares.values())
    assert rounding.share == pytest.approx(math.sqrt(lost / all_), rel=1e-3)
    assert 0.002 < rounding.share < 0.02
    worst = max(shares, key=lambda name: shares[name][0] / shares[name][1])
    assert rounding.worst[0] == worst
    assert worst in str(rounding)
    assert f"{rounding.share:.2%}" in str(rounding)


def test_a_folder_is_rounded_as_it_is_read(model, held):
    """The same integers and scales as from the whole, and the same figures."""
    _, cfg, _, path = model
    rounding = int8.Rounding()
    read = huggingface.load(folder.open_folder(path, cfg), cfg, rounding=rounding)
    jax.tree.map(np.testing.assert_array_equal, read, held[0])
    assert rounding.share == pytest.approx(held[1].share, rel=1e-4)
    assert rounding.worst == pytest.approx(held[1].worst)


@pytest.fixture(scope="module")
def logits(model, held):
    """Of three prompts, here; and transformers' with its weights, and with the rounded ones."""
    hf, cfg, _, path = model
    rng = np.random.default_rng(5)
    prompts = [reference.random_prompt(rng, images) for images in (1, 0, 2)]
    length = max(len(prompt.ids) for prompt in prompts)
    tokens, images = ported.arrays(prompts, cfg, length=length, windows=16)
    ours = np.asarray(ported.forward(held[0], tokens, images, cfg=cfg))
    theirs = reference.logits(hf, prompts, length)
    other = type(hf).from_pretrained(path, dtype=torch.float32).eval()
    weights = {reference.published_name(name): p for name, p in other.named_parameters()}
    tree = spec.spec_tree(cfg)["text"]
    for name in PROJECTIONS:
        part = held[0]["text"][name]
        for layer, key in zip(np.asarray(int8.whole(part["w"], part["scale"])),
                              tree[name]["w"].hf_names, strict=True):  # fmt: skip
            weights[key].data = torch.tensor(tree[name]["w"].to_hf(layer))
    rounded = reference.logits(other, prompts, length)
    there = np.arange(length) < np.array([[len(prompt.ids)] for prompt in prompts])
    return ours[there], theirs[there], rounded[there]


def test_logits_equal_transformers_with_the_rounded_weights(logits):
    ours, _, rounded = logits
    assert np.abs(ours - rounded).max() < 1e-4


def test_logits_are_near_transformers_with_its_own_weights(logits):
    """By a twentieth of the logits' size at most."""
    ours, theirs, _ = logits
    share = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 1e-4 < share < 0.05


def test_integers_multiply_as_their_weights_do_in_bfloat16_too(held):
    """With a bias and over two axes; and a loop over layers has the layers' own scales."""
    found, _ = held
    layers = unstack({"text": found["text"]})["text"]
    rng = np.random.default_rng(1)
    for dtype, limit in (("float32", 1e-5), ("bfloat16", 0.02)):
        for name, inputs in (("q", 1), ("o", 2), ("down", 1)):
            p = layers[1][name]
            x = jnp.asarray(rng.standard_normal((3, *p["w"].shape[:inputs])), dtype)
            w = int8.whole(p["w"][None], p["scale"][None])[0]
            wanted = linear(
                x.astype(jnp.float32), {**p, "w": w, "scale": jnp.ones(())}, inputs=inputs
            )
            got = np.asarray(linear(x, p, inputs=inputs), np.float32)
            assert np.linalg.norm(got - wanted) <= limit * np.linalg.norm(wanted), (dtype, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_program_makes_the_weights_again(model, held, dtype):
    """Forward and backward, compiled: no array but the integers has the size of a whole stack of
    some projection's layers."""
    _, cfg, _, _ = model
    cfg = replace(cfg, dtype=dtype, remat="full")
    rng = np.random.default_rng(5)
    prompts = [reference.random_prompt(rng, 0)]
    tokens, _ = ported.arrays(prompts, cfg, length=56, windows=16)

    def loss(embed, rest, tokens):
        params = {**rest, "embed": embed}
        return qwen.hidden_states(params, tokens, None, cfg=cfg).astype(jnp.float32).sum()

    rest = {name: held[0][name] for name in ("text", "norm")}
    compiled = jax.jit(jax.grad(loss)).lower(held[0]["embed"], rest, tokens).compile().as_text()
    stacks = {math.prod(part["w"].shape) for name, part in rest["text"].items()
              if name in PROJECTIONS}  # fmt: skip
    seen: dict[str, set[int]] = {}
    for kind, shape in re.findall(r"(\w+)\[([\d,]+)\]", compiled):
        sides = [int(side) for side in shape.split(",")]
        if sides[0] == cfg.text.layers:
            seen.setdefault(kind, set()).add(math.prod(sides))
    assert stacks <= seen.pop("s8")
    assert not any(stacks & sizes for sizes in seen.values()), seen
