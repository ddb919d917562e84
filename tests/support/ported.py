"""From transformers' modules to this package's parameters, and prompts to its arrays."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.model import config, qwen, spec
from lfpc_jax.processing.batch import collate
from lfpc_jax.processing.images import ImageProcessor
from support import reference

forward = jax.jit(qwen.forward, static_argnames="cfg")


@partial(jax.jit, static_argnames="cfg")
def both(params, tokens, images, *, cfg) -> tuple[jax.Array, jax.Array]:
    """Logits and image embeddings, in one program."""
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)
    return qwen.unembed(params, hidden, cfg=cfg), embeddings


def read_config(hf_config, folder, **compute) -> config.ModelConfig:
    hf_config.save_pretrained(folder)
    return config.from_folder(folder, **compute)


def parameters(model, cfg: config.ModelConfig, dtype: Any = jnp.float32) -> Any:
    """Reads the state dict by the spec tree's names, without the checkpoint code."""
    state = {reference.published_name(k): v for k, v in model.state_dict().items()}

    def read(param: spec.Param) -> jax.Array:
        layers = [param.from_hf(state[name].float().numpy()) for name in param.hf_names]
        return jnp.asarray(np.stack(layers) if param.stack else layers[0], dtype)

    return jax.tree.map(read, spec.spec_tree(cfg), is_leaf=spec.is_param)


def arrays(prompts, cfg: config.ModelConfig, *, length: int, windows: int, images=None):
    return collate(
        [p.ids for p in prompts],
        [p.pictures for p in prompts],
        processor=processor(cfg),
        image_token=cfg.image_token,
        length=length,
        windows=windows,
        images=images,
    )


def processor(cfg: config.ModelConfig) -> ImageProcessor:
    return ImageProcessor(window=cfg.vision.window)


def raster_places(prompts, cfg: config.ModelConfig, windows: int) -> np.ndarray:
    """Where each picture's tokens lie among the flat embeddings, in transformers' order."""
    made = processor(cfg)
    pictures = [p for prompt in prompts for p in prompt.pictures]
    span = windows * cfg.vision.window_tokens
    return np.concatenate(
        [i * span + made.image_index(made.grid_of(p)) for i, p in enumerate(pictures)]
    )
