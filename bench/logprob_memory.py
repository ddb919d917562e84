"""Memory for the log-probabilities of a policy-gradient step: by blocks of tokens, or all logits.

    python bench/logprob_memory.py [--topology cpu:1]      # or v5e:1x1, compiled without one

The figures are the compiler's own; nothing runs. It compiles the gradient of the mean
log-probability of 8,192 tokens over Qwen2.5-VL-7B's 152,064 ids in bfloat16, with respect to the
hidden states and the unembedding.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, qwen
from lfpc_jax.model.logprobs import token_logprobs
from lfpc_jax.plan import chips, slices
from lfpc_jax.plan.compiling import OutOfMemory, compiled
from lfpc_jax.plan.programs import Uncompiled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="cpu:1")
    parser.add_argument("--tokens", type=int, default=8192)
    args = parser.parse_args()
    where = slices.find(args.topology)
    mesh = make_mesh(fsdp=-1, devices=where.devices)
    cfg = config.published("7b")
    rows = len(where.devices)

    def whole(weight: jax.Array, hidden: jax.Array, targets: jax.Array) -> jax.Array:
        logits = qwen.unembed({"unembed": weight}, hidden, cfg=cfg)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return (chosen - jax.nn.logsumexp(logits, axis=-1)).mean()

    def blocked(weight: jax.Array, hidden: jax.Array, targets: jax.Array) -> jax.Array:
        return token_logprobs({"unembed": weight}, hidden, targets, cfg=cfg).mean()

    def array(shape: tuple[int, ...], dtype: str, *axes: str | None) -> jax.ShapeDtypeStruct:
        placed = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

    c = cfg.text
    arrays = (
        array((c.vocab, c.width), "bfloat16", None, "fsdp"),
        array((rows, args.tokens, c.width), "bfloat16", "fsdp"),
        array((rows, args.tokens), "int32", "fsdp"),
    )
    ways: dict[str, Callable[..., jax.Array]] = {"whole logits": whole, "blocks of 512": blocked}
    print(f"{args.topology}: a row of {args.tokens:,} tokens a chip, {c.vocab:,} ids; "
          f"float32 logits alone {4 * args.tokens * c.vocab / chips.GIB:.2f} GiB")  # fmt: skip
    for name, way in ways.items():
        lower = partial(_lowered, mesh, jax.jit(jax.grad(way, argnums=(0, 1))), *arrays)
        try:
            program = compiled(Uncompiled(name, lower, {}))
        except OutOfMemory as error:
            print(f"{name}: does not fit: {error}")
            continue
        print(f"{name}: temporary {program.temporary_bytes / chips.GIB:.2f} GiB, "
              f"all {program.bytes_per_chip / chips.GIB:.2f}")  # fmt: skip


def _lowered(mesh: Mesh, jitted: Any, *arrays: jax.ShapeDtypeStruct) -> Any:
    with jax.set_mesh(mesh):
        return jitted.lower(*arrays)


if __name__ == "__main__":
    main()
