"""The real programs, compiled ahead of time for a slice, and what the compiler says of them.

Memory is the compiler's own figure for one chip. FLOPs are not taken from it: it counts the body
of a loop once and a Pallas kernel as nothing.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lfpc_jax.distributed.sharding import sharding
from lfpc_jax.model import qwen, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.logprobs import token_logprobs
from lfpc_jax.trajectory import Images, Tokens


@dataclass(frozen=True)
class Compiled:
    program: str
    bytes_per_chip: int
    argument_bytes: int
    temporary_bytes: int
    compile_seconds: float


class OutOfMemory(Exception):
    """The compiler found no way to fit the program; its text says what was used of what."""


@dataclass(frozen=True)
class Sizes:
    """Shapes of a batch: rows of tokens, and images in one bucket of windows."""

    rows: int
    length: int
    images: int
    windows: int


def compile_forward(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Compiled:
    """Vision tower and decoder to hidden states, from bfloat16 weights."""

    def forward(params: Any, tokens: Tokens, images: Images) -> jax.Array:
        slots = qwen.encode_images(params, images, cfg=cfg)
        return qwen.hidden_states(params, tokens, slots, cfg=cfg)

    params = spec.abstract(cfg, jnp.bfloat16, mesh)
    return _compile("forward", forward, mesh, params, *abstract_batch(cfg, mesh, sizes))


def compile_gradient(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Compiled:
    """The mean log-probability of every next token and its gradient in float32 masters, vision
    tower included, logits by blocks: a training step without its optimizer."""

    def loss(params: Any, tokens: Tokens, images: Images) -> jax.Array:
        slots = qwen.encode_images(params, images, cfg=cfg)
        hidden = qwen.hidden_states(params, tokens, slots, cfg=cfg)
        targets = jnp.roll(tokens.ids, -1, axis=1)
        return -token_logprobs(params, hidden, targets, cfg=cfg).mean()

    params = spec.abstract(cfg, jnp.float32, mesh)
    return _compile(
        "gradient",
        jax.value_and_grad(loss),
        mesh,
        params,
        *abstract_batch(cfg, mesh, sizes),
        out_shardings=(None, spec.shardings(cfg, mesh)),
    )


PROGRAMS: Mapping[str, Callable[[ModelConfig, Mesh, Sizes], Compiled]] = {
    "forward": compile_forward,
    "gradient": compile_gradient,
}


def abstract_batch(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> tuple[Tokens, Images]:
    def array(shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(axes, shape, mesh))

    rows, images = (sizes.rows, sizes.length), sizes.images
    row = array(rows, ("batch", None), jnp.int32)
    positions = array((3, *rows), (None, "batch", None), jnp.int32)
    c = cfg.vision
    pixels = (images, sizes.windows, c.window_patches, 3 * c.patch**2)
    return (
        Tokens(ids=row, positions=positions, segments=row, slots=row),
        Images(
            pixels=array(pixels, ("batch", None, None, None), jnp.uint8),
            grid=array((images, 2), ("batch", None), jnp.int32),
        ),
    )


def _compile(
    name: str, function: Callable, mesh: Mesh, *args: Any, out_shardings: Any = None
) -> Compiled:
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = jax.jit(function, out_shardings=out_shardings).lower(*args)
    return compiled(name, lowered, start)


def compiled(name: str, lowered: Any, start: float) -> Compiled:
    """What the compiler says of a lowered program, whose lowering began at `start`."""
    try:
        memory = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used \S+ of \S+ hbm", str(error))
        raise OutOfMemory(used.group() if used else str(error).splitlines()[0]) from error
    assert memory is not None, "this backend's compiler reports no memory"
    return Compiled(
        program=name,
        bytes_per_chip=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        compile_seconds=time.perf_counter() - start,
    )
