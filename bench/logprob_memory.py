"""Memory of a policy-gradient step's log-probabilities, by blocks of tokens and with logits whole.

    python bench/logprob_memory.py [--topology cpu:1]      # or v5e:1x1, compiled without one

The compiler's own figures for the gradient, in the hidden states and the vocabulary's weights, of
the mean log-probability of 8,192 tokens over Qwen2.5-VL-7B's 152,064 ids in bfloat16. Nothing runs.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, qwen
from lfpc_jax.model.logprobs import token_logprobs
from lfpc_jax.plan import slices

_GIB = 2**30


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
          f"float32 logits alone {4 * args.tokens * c.vocab / _GIB:.2f} GiB")  # fmt: skip
    for name, way in ways.items():
        with jax.set_mesh(mesh):
            lowered = jax.jit(jax.grad(way, argnums=(0, 1))).lower(*arrays)
        try:
            memory = lowered.compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            print(f"{name}: does not compile: {str(error).splitlines()[0]}")
            continue
        assert memory is not None
        print(f"{name}: temporary {memory.temp_size_in_bytes / _GIB:.2f} GiB, arguments "
              f"{memory.argument_size_in_bytes / _GIB:.2f}, results "
              f"{memory.output_size_in_bytes / _GIB:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
