"""What programs send, against what one counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.plan import slices
from lfpc_jax.plan.collectives import Collective, collectives, sent

pytestmark = pytest.mark.compiles

FLOAT = 4
WHOLE = PartitionSpec()


def compiled_text(function, *shapes, mesh, out=WHOLE):
    args = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in shapes
    ]
    lowered = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*args)
    return lowered.compile().as_text()


def test_a_gather_passes_on_all_but_ones_own_part():
    mesh = make_mesh(fsdp=4, devices=jax.devices()[:4])
    text = compiled_text(lambda x: x, ((8, 16), PartitionSpec("fsdp")), mesh=mesh)
    assert sent(collectives(text)) == {"all-gather": 8 * 16 * FLOAT * 3 // 4}


def test_an_all_reduce_goes_round_twice():
    mesh = make_mesh(data=2, tensor=4)
    text = compiled_text(
        lambda x, y: x @ y,
        ((8, 64), PartitionSpec(None, "tensor")),
        ((64, 16), PartitionSpec("tensor")),
        mesh=mesh,
    )
    (one,) = collectives(text)
    assert one == Collective("all-reduce", 2 * 8 * 16 * FLOAT * 3 // 4, 4, 1)


def manual(function, mesh):
    shard = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return shard(function, in_specs=PartitionSpec("fsdp"), out_specs=PartitionSpec("fsdp"))


@pytest.mark.parametrize(
    ("function", "kind", "expected"),
    [
        # 8 rows of 16 a device: 8 times the result of a quarter each, all but one's own.
        (lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), "reduce-scatter", 8 * 16 * 3 // 4),
        (
            lambda x: jax.lax.all_to_all(x, "fsdp", 0, 0, tiled=True),
            "all-to-all",
            8 * 16 * 3 // 4,
        ),
        (
            lambda x: jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
            "collective-permute",
            8 * 16,
        ),
    ],
)
def test_collectives_written_by_hand(function, kind, expected):
    mesh = make_mesh(fsdp=4, devices=jax.devices()[:4])
    out = PartitionSpec("fsdp")
    text = compiled_text(manual(function, mesh), ((32, 16), out), mesh=mesh, out=out)
    assert sent(collectives(text)) == {kind: expected * FLOAT}


def scanned(x, layers, steps):
    """`steps` times over layers whose weights are gathered one by one."""

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def step(x, _):
        return jax.lax.scan(layer, x, layers)[0], None

    return jax.lax.scan(step, x, None, length=steps)[0]


@pytest.mark.parametrize(("topology", "width"), [(None, FLOAT), ("v5e:2x2", 2)])
def test_a_loop_within_a_loop_counts_as_often_as_both_turn(topology, width):
    """5 steps over 3 layers; on a TPU too, where each gather stands in several fusions and carries
    bfloat16, as its products take no more."""
    devices = slices.find(topology).devices if topology else jax.devices()[:4]
    mesh = make_mesh(fsdp=4, devices=devices)
    text = compiled_text(
        partial(scanned, steps=5),
        ((1024, 256), PartitionSpec("fsdp")),
        ((3, 256, 256), PartitionSpec(None, "fsdp")),
        mesh=mesh,
        out=PartitionSpec("fsdp"),
    )
    assert sent(collectives(text)) == {"all-gather": 5 * 3 * 256 * 256 * width * 3 // 4}


WINDOWED = """HloModule jit_f, num_partitions=32

%body (p: (u32[], bf16[40,128])) -> (u32[], bf16[40,128]) {
  %c.2 = u32[] constant(2)
  %p = (u32[], bf16[40,128]) parameter(0)
  %n = u32[] get-tuple-element(%p), index=0
  %x = bf16[40,128] get-tuple-element(%p), index=1
  %copy.1 = u32[] copy(%n)
  %next = u32[] add(%copy.1, %c.2)
  %cp = bf16[40,128] collective-permute(%x), channel_id=7, source_target_pairs={{0,1},{1,0}}
  ROOT %t = (u32[], bf16[40,128]) tuple(%next, %cp)
}

%cond (p.1: (u32[], bf16[40,128])) -> pred[] {
  %c.16 = u32[]{:T(128)} constant(16)
  %p.1 = (u32[], bf16[40,128]) parameter(0)
  %n.1 = u32[] get-tuple-element(%p.1), index=0
  ROOT %lt = pred[] compare(%n.1, %c.16), direction=LT
}

%all-reduce-scatter.1 (i: f32[64,8]) -> f32[2,8] {
  %i = f32[64,8] parameter(0)
  %ar = f32[64,8] all-reduce(%i), channel_id=8, replica_groups=[1,32]<=[32], to_apply=%add
  ROOT %s = f32[2,8] dynamic-slice(%ar, %z, %z), dynamic_slice_sizes={2,8}
}

ENTRY %main (a: (u32[], bf16[40,128]), b: f32[64,8]) -> f32[2,8] {
  %a = (u32[], bf16[40,128]) parameter(0)
  %b = f32[64,8] parameter(1)
  %w = (u32[], bf16[40,128]) while(%a), condition=%cond, body=%body
  %ags = (bf16[2,8], bf16[64,8]) all-gather-start(%q), channel_id=9, replica_groups=[1,32]<=[32]
  ROOT %f = f32[2,8] fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_what_the_tpu_compiler_writes():
    """A windowed product's loop counts by twos to 16; a reduce-scatter is a fusion; an
    asynchronous gather has its operand beside its result."""
    whole = 64 * 8
    assert sent(collectives(WINDOWED)) == {
        "collective-permute": 8 * 40 * 128 * 2,
        "reduce-scatter": whole * FLOAT * 31 // 32,
        "all-gather": whole * 2 * 31 // 32,
    }
