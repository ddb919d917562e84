"""The rollout engine's programs for a slice: the largest of each, for so many slots and places."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.model import parameters
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Source
from lfpc_jax.rollout.programs import Beginnings, Programs, Turns, empty_state, state_shardings
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Images, Tokens

_STOP_STATES = 16
_ALL = Trainable()


def rollout_programs(
    cfg: ModelConfig,
    mesh: Mesh,
    shapes: RolloutShapes,
    sampling: Sampling,
    trains: Trainable = _ALL,
) -> Iterator[Source]:
    """Encode, prefill, place, extend and decode, weights in the compute dtype, with the factors
    that a run `trains`. Layers are stacked, on a CPU too, where the engine has them apart."""
    programs = Programs(cfg, shapes, unstacked=False, mesh=mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def array(shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    params = parameters.whole(cfg, trains, mesh)
    state = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(partial(empty_state, cfg, shapes, unstacked=False)),
        state_shardings(cfg, shapes, mesh, unstacked=False),
    )

    def tokens(rows: int, length: int) -> Tokens:
        row = array((rows, length))
        return Tokens(row, array((3, rows, length)), row, row)

    def images(rows: int, windows: int) -> Images:
        c = cfg.vision
        pixels = array((rows, windows, c.window_patches, 3 * c.patch**2), jnp.uint8)
        return Images(pixels, array((rows, 2)))

    def slots(rows: int, windows: int) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(
            lambda: jnp.zeros((rows * windows * shapes.window**2, cfg.text.width), cfg.dtype)
        )

    def turns(rows: int) -> Turns:
        return Turns(*[array((rows,))] * 4)

    P, R, B = shapes.prefill_rows, shapes.extend_rows, shapes.slots
    shown, crop = shapes.image_windows.sizes[-1], shapes.crop_windows.sizes[-1]
    prompt = tokens(P, shapes.prompt_length(shown, shapes.prompt_text.sizes[-1]))
    prefilled = (params, prompt, slots(P, shown))
    with jax.set_mesh(mesh):
        prefix = jax.eval_shape(programs.prefill.jitted, *prefilled)
    beginnings = Beginnings(turns(B), array((B,)), array(()), array((B, 2), jnp.uint32))
    observed = tokens(R, shapes.observation_length(crop))
    stops = array((_STOP_STATES, cfg.text.vocab), jnp.uint8)
    allowed = array((cfg.text.vocab,), np.bool_)
    added = (observed, slots(R, crop), turns(R))
    jobs: dict[str, tuple[Any, ...]] = {
        "encode": (params, images(P, shown)),
        "prefill": prefilled,
        "place": (state, prefix, beginnings),
        "extend": (params, state, *added),
        "decode": (params, state, stops, allowed, shapes.capacity, sampling),
    }
    read = {name: part for name, part in params.items() if name not in ("vision", "unembed")}
    kinds: dict[str, dict[str, Any]] = {
        "encode": {"parameters": params["vision"]},
        "prefill": {"parameters": read},
        "place": {"cache": state},
        "extend": {"parameters": read, "cache": state},
        "decode": {"parameters": {**params, "vision": {}}, "cache": state},
    }
    for name, args in jobs.items():
        yield Source(name, partial(getattr(programs, name).lower, *args), kinds[name])
