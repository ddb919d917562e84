"""What programs send, against what one counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.plan import slices
from lfpc_jax.plan.collectives import Collective, collectives, sent, sent_between

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


ACROSS = """HloModule jit_f, num_partitions=8

ENTRY %main (a: f32[64,8]) -> f32[64,8] {
  %r = f32[64] all-reduce(%x), channel_id=1, replica_groups=GROUPS, to_apply=%add
  %p = f32[64] collective-permute(%r), channel_id=2, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %f = f32[64,8] copy(%a)
}
"""


@pytest.mark.parametrize(
    ("groups", "between"),
    [
        # Whole: 2 x 256 bytes, 7/8 of them sent, and of 7 steps round the ring one between hosts.
        ("{{0,1,2,3,4,5,6,7}}", 2 * 256 // 8),
        ("{}", 2 * 256 // 8),
        ("[1,8]<=[8]", 2 * 256 // 8),
        ("mesh['a'=2,'b'=4] {'a', 'b'}", 2 * 256 // 8),
        # Of four on one host each: nothing.
        ("{{0,1,2,3},{4,5,6,7}}", 0),
        ("[2,4]<=[8]", 0),
        ("mesh['a'=2,'b'=4] {'b'}", 0),
        # Of two, one on each host: all of 2 x 256 / 2.
        ("{{0,4},{1,5},{2,6},{3,7}}", 256),
        ("[4,2]<=[2,4]T(1,0)", 256),
        ("mesh['a'=2,'b'=4] {'a'}", 256),
    ],
)
def test_what_goes_between_hosts_is_the_least_that_must(groups, between):
    """Two hosts of four. Of the four pairs of the permutation none lies on both, or two do."""
    text = ACROSS.replace("GROUPS", groups)
    exchanges = collectives(text, [0, 0, 0, 0, 1, 1, 1, 1])
    assert sent_between(exchanges).get("all-reduce", 0) == between
    assert sent(exchanges) == sent(collectives(text))
    assert sent_between(collectives(text)) == {}
    by_pairs = sent_between(collectives(text, [0, 0, 1, 1, 0, 0, 1, 1]))
    assert by_pairs["collective-permute"] == 256 // 2


def test_slices_sum_gradients_between_each_other():
    """Four layers' gradients of 2048 x 2048 in bfloat16 are reduced within each slice of 4 chips,
    and each chip's quarter, in a second step, with the other slice's: once there and once back, by
    half each."""
    mesh = make_mesh(data=2, fsdp=4, devices=slices.find("2xv5e:2x2").devices)
    weights = jax.ShapeDtypeStruct(
        (4, 2048, 2048), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    )
    rows = jax.ShapeDtypeStruct(
        (64, 512, 2048), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    )

    def loss(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss), out_shardings=weights.sharding).lower(weights, rows)
    exchanges = collectives(lowered.compile().as_text())
    assert sent_between(exchanges) == {"all-reduce": 4 * 2048 * 2048 * 2 // 4}
    inside = sent(exchanges)["all-gather"]
    assert inside % (2048 * 2048 * 2 * 3 // 4) == 0
    assert inside // (2048 * 2048 * 2 * 3 // 4) >= 4
