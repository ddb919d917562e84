"""The rollout engine's programs for a slice, each at its largest size."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import sharding
from lfpc_jax.model import parameters
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.plan.programs import Uncompiled, placed
from lfpc_jax.processing.batch import empty_images, empty_tokens
from lfpc_jax.rollout.lanes import no_turns
from lfpc_jax.rollout.programs import Programs
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.state import Beginnings, Live, empty_state, state_shardings
from lfpc_jax.shapes import RolloutShapes

_STOP_STATES = 16
_ALL = Trainable()


def all_hosts(host: RolloutShapes, hosts: int) -> RolloutShapes:
    """The shapes of one host, side by side for all."""
    return replace(
        host,
        slots=host.slots * hosts,
        prefill_rows=host.prefill_rows * hosts,
        extend_rows=host.extend_rows * hosts,
        prefixes=host.prefixes * hosts,
    )


def rollout_programs(
    cfg: ModelConfig,
    mesh: Mesh,
    shapes: RolloutShapes,
    sampling: Sampling,
    trainable: Trainable = _ALL,
) -> Iterator[Uncompiled]:
    """Encode, prefill, begin, extend and decode. Parameters are in the compute dtype, with a run's
    LoRA factors beside them. Layers are stacked; the engine on a CPU keeps them separate."""
    programs = Programs(cfg, shapes, unstacked=False, mesh=mesh)
    params = parameters.whole(cfg, trainable, mesh)
    with jax.set_mesh(mesh):  # keys lie as they do on its devices
        empty = jax.eval_shape(partial(empty_state, cfg, shapes, unstacked=False))
    state = placed(empty, state_shardings(cfg, shapes, mesh, unstacked=False))

    def whole(make: Callable[..., Tree], *args: Any, **kwargs: Any) -> Tree:
        """Abstract arrays that are on every device, as the engine hands them to its programs."""
        made = jax.eval_shape(partial(make, *args, **kwargs))
        return placed(made, NamedSharding(mesh, PartitionSpec()))

    rows, more_rows = shapes.prefill_rows, shapes.extend_rows
    shown, crop = shapes.image_windows.sizes[-1], shapes.crop_windows.sizes[-1]
    length = shapes.prompt_length(shown, shapes.prompt_text.sizes[-1])
    prompts = whole(empty_tokens, rows, length, xp=jnp)
    images = whole(empty_images, rows, shown, cfg.vision.processor, xp=jnp)
    observed = whole(empty_tokens, more_rows, shapes.observation_length(crop), xp=jnp)
    crops = whole(empty_images, more_rows, crop, cfg.vision.processor, xp=jnp)
    stops = whole(np.ones, (_STOP_STATES, cfg.text.vocab), np.uint8)
    allowed = whole(np.ones, cfg.text.vocab, np.bool_)
    with jax.set_mesh(mesh):
        encoded, encoded_crops = (
            placed(seen, sharding(("batch", None, None), seen.shape, mesh))
            for each in (images, crops)
            for seen in [jax.eval_shape(programs.encode.jitted, params, each)]
        )
    B = shapes.slots
    beginnings = Beginnings(
        whole(no_turns, B, B),
        whole(_zeros, B),
        whole(_zeros, B, 2, dtype=np.uint32),
        whole(_zeros, B),
    )
    prompts_rows = whole(_zeros, rows)
    members = Members(whole(_zeros, shapes.prefix_count, shapes.members), whole(_zeros, B))
    turns = whole(no_turns, more_rows, shapes.slots)
    arguments: dict[str, tuple[Any, ...]] = {
        "encode": (params, images),
        "prefill": (params, state, prompts, encoded, prompts_rows),
        "begin": (state, beginnings),
        "extend": (params, state, observed, encoded_crops, turns),
        "decode": (
            params,
            state,
            stops,
            allowed,
            Live(whole(_zeros, B), members),
            shapes.own_capacity,
            sampling,
        ),
    }
    read = {name: part for name, part in params.items() if name not in ("vision", "unembed")}
    cache = {"prompts": state.prompts, "own": (state.cache, state.continued, state.rows)}
    kinds: dict[str, dict[str, Tree]] = {
        "encode": {"parameters": params["vision"]},
        "prefill": {"parameters": read, **cache},
        "begin": cache,
        "extend": {"parameters": read, **cache},
        "decode": {"parameters": {**params, "vision": {}}, **cache},
    }
    for name, args in arguments.items():
        yield Uncompiled(name, partial(getattr(programs, name).lower, *args), kinds[name])


def _zeros(*shape: int, dtype: Any = np.int32) -> Any:
    return jnp.zeros(shape, dtype)
