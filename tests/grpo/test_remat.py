"""What updates save, chosen by the room that is left."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.remat import (
    FROM_MOST,
    Room,
    held_bytes,
    pictures_bytes,
    resolve,
    rows_bytes,
    saved_by_layer,
)
from lfpc_jax.model import attention_cudnn, spec, text
from lfpc_jax.model.config import published
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan import slices
from lfpc_jax.run.building import remat_of, room_for
from lfpc_jax.run.config_files import CONFIGS, load_config
from lfpc_jax.shapes import TrainShapes

CFG = published("7b", kernel="splash")
SHAPES = TrainShapes(8192, 1, 2048, 144, 72, shared=True)
SIDES = {"data": 1, "fsdp": 32, "tensor": 1}


def room(gib, platform="tpu"):
    memory = None if gib is None else round(gib * 2**30)
    return Room(memory, beside=0, sides=SIDES, pictures=9, platform=platform)


def chosen(gib, remat="auto", tower_remat="auto", platform="tpu"):
    found = resolve(CFG, SHAPES, Trainable(), room(gib, platform), remat, tower_remat)
    assert found.of(CFG) == replace(CFG, remat=found.remat, tower_remat=found.tower_remat)
    return found.remat, found.tower_remat


@pytest.mark.seconds
def test_more_room_saves_more():
    rooms = (8, 12, 15.75, 31.25, 95.74, 141)
    order = ("offload", *reversed(FROM_MOST))
    for part in (0, 1):
        policies = [order.index(chosen(gib)[part]) for gib in rooms]
        assert policies == sorted(policies)
        assert len(set(policies)) > 2
    assert chosen(141) == ("none", "none")
    assert chosen(5) == ("offload", "offload")


@pytest.mark.seconds
def test_a_gpu_s_tower_saves_products_at_most():
    assert chosen(141, platform="gpu") == ("none", "dots")
    assert chosen(141, tower_remat="none", platform="gpu") == ("none", "none")
    assert chosen(5, platform="gpu") == ("offload", "offload")


@pytest.mark.seconds
def test_what_is_set_is_kept():
    assert chosen(15.75, "dots", "full") == ("dots", "full")
    assert chosen(95.74, remat="full")[0] == "full"
    assert chosen(5, tower_remat="none")[1] == "none"


def test_a_cpu_saves_everything_and_an_unknown_chip_nothing():
    assert chosen(1, platform="cpu") == ("none", "none")
    assert chosen(1, remat="dots", platform="cpu") == ("dots", "none")
    assert chosen(None) == ("full", "full")


def test_the_reason_names_what_is_needed_and_what_is_left():
    reason = resolve(CFG, SHAPES, Trainable(), room(31.25), "auto", "auto").reason
    left = 0.95 * 31.25 - held_bytes(CFG, SHAPES, Trainable(), room(31.25)) / 2**30
    need = rows_bytes(CFG, SHAPES, Trainable(), "attended", room(31.25)) / 2**30
    assert f"text: attended needs about {need:.1f} of {left:.1f} GiB left" in reason


def test_the_state_of_an_update_is_what_one_counts():
    """8,292,166,656 parameters: 12 bytes of state, 4 of gradients' sums and 2 of the copy each, on
    32 chips. Embeddings of 9 micro-batches, 3,584 wide, in bfloat16 and as float32 gradients."""
    embeddings = 9 * 144 * 16 * 3584
    expected = 18 * 8_292_166_656 / 32 + 6 * embeddings
    assert held_bytes(CFG, SHAPES, Trainable(), room(16)) == pytest.approx(expected)
    frozen = 18 * 7_615_616_512 / 32 + 2 * 676_550_144 / 32 + 2 * embeddings
    assert held_bytes(CFG, SHAPES, Trainable(vision=False), room(16)) == pytest.approx(frozen)


def test_what_a_layer_saves_is_what_one_counts():
    """The 7B's layer in bfloat16: its input; products for q (3,584), k and v (2 x 512), the
    output's (3,584), gate and up (2 x 18,944); of attention the output, and a float32 log-sum-exp
    for each of 28 heads."""
    saved = {policy: saved_by_layer(replace(CFG, remat=policy), "text") for policy in FROM_MOST}
    assert saved["full"] == 2 * 3584
    assert saved["attended"] == 2 * 3584 + 2 * 3584 + 4 * 28
    assert saved["dots"] == 2 * (3584 + 3584 + 2 * 512 + 3584 + 2 * 18944)
    assert saved["none"] > 2 * saved["dots"]


@pytest.mark.parametrize(
    ("part", "remat", "rows", "ways", "compiler"),
    [
        ("text", "none", 1, 16, 45.21),
        ("text", "dots", 2, 16, 48.09),
        ("text", "attended", 1, 32, 6.97),
        ("text", "attended", 1, 16, 6.74),
        ("text", "full", 1, 32, 5.44),
        ("text", "offload", 1, 32, 3.81),
        ("tower", "none", 1, 16, 27.73),
        ("tower", "dots", 1, 32, 9.34),
        ("tower", "dots", 1, 16, 9.78),
        ("tower", "attended", 1, 32, 3.86),
        ("tower", "full", 1, 32, 2.71),
    ],
)
def test_the_estimates_of_the_7b_are_near_the_compiler_s(part, remat, rows, ways, compiler):
    """Rows of 8,192 tokens and 144 windows of pictures; what is activations in the table of
    2026-11-30 in docs/scaling.md, and what was compiled for it with other policies."""
    shapes, there = replace(SHAPES, rows=rows), replace(room(16), sides=SIDES | {"fsdp": ways})
    need = rows_bytes if part == "text" else pictures_bytes
    assert 0.97 * compiler < need(CFG, shapes, Trainable(), remat, there) / 2**30 < 1.3 * compiler


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("size", "part", "remat", "rows", "ways", "compiler"),
    [
        ("7b", "text", "dots", 2, 8, 52.90),
        ("7b", "text", "attended", 2, 8, 17.57),
        ("3b", "text", "dots", 2, 8, 37.17),
        ("3b", "text", "dots", 1, 1, 23.60),
        ("7b", "tower", "dots", 2, 8, 9.71),
        ("3b", "tower", "dots", 1, 1, 10.57),
    ],
)
def test_sequences_that_are_gathered_are_counted(size, part, remat, rows, ways, compiler):
    """On A100s: the temporaries of the plans of 2026-11-30 in docs/scaling_gpus.md."""
    cfg, shapes = published(size, kernel="cudnn"), replace(SHAPES, rows=rows)
    there = replace(room(72.92, "gpu"), sides=SIDES | {"fsdp": ways}, gathers=True)
    need = rows_bytes if part == "text" else pictures_bytes
    found = need(cfg, shapes, Trainable(), remat, there) / 2**30
    assert 0.97 * compiler < found < 1.2 * compiler


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("capability", "kernel", "remat"),
    [((9, 0), "auto", "dots"), ((8, 0), "auto", "attended"), ((8, 0), "xla", "dots")],
)
def test_the_7b_of_stage1_saves_less_on_eight_a100s(capability, kernel, remat):
    """Where sequences are gathered, what "dots" saves leaves no room for their copies."""
    config = load_config("stage1.py", CONFIGS)
    cfg = published("7b", kernel=kernel)
    with attention_cudnn.compiled_for(capability):
        sides = {"data": 1, "fsdp": 8, "tensor": 1}
        there = room_for(config, cfg, sides, platform="gpu", memory=round(72.92 * 2**30))
    assert there.gathers == (remat == "attended")
    assert remat_of(config, replace(cfg, kernel="cudnn"), there).remat == remat


@pytest.mark.seconds
def test_lora_on_one_gpu_has_no_other_copy_of_the_vocabulary():
    """So the 7B on an L4 has room for "attended", although it gathers sequences."""
    config, cfg = load_config("stage1.py:7b-24gb", CONFIGS), published("7b", kernel="cudnn")
    with attention_cudnn.compiled_for((8, 9)):
        sides = {"data": 1, "fsdp": 1, "tensor": 1}
        there = room_for(config, cfg, sides, platform="gpu", memory=round(20.2 * 2**30))
    assert there.gathers
    assert remat_of(config, cfg, there).remat == "attended"


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("remat", "kernels"), [("none", 1), ("dots", 2), ("attended", 1), ("full", 2)]
)
def test_a_saved_attention_is_not_computed_again(remat, kernels):
    """How often the forward kernel is in the lowered program of a gradient on a TPU slice."""
    cfg = replace(CFG, remat=remat, text=replace(CFG.text, layers=2))
    mesh = make_mesh(fsdp=-1, devices=slices.find("v5e:2x2").devices)
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    params = {name: spec.abstract(cfg, cfg.dtype, mesh)[name] for name in ("text", "norm")}
    x = jax.ShapeDtypeStruct((4, 512, cfg.text.width), jnp.bfloat16, sharding=split)
    segments = jax.ShapeDtypeStruct((4, 512), jnp.int32, sharding=split)
    positions = jax.ShapeDtypeStruct((3, 4, 512), jnp.int32)

    def loss(params, x, positions, segments):
        masks = {"segments": segments, "prefix": segments}
        hidden = text.forward(params, x, positions, cfg=cfg, **masks)
        return hidden.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss)).lower(params, x, positions, segments)
    assert lowered.as_text().count("splash_mha_fwd") == kernels
