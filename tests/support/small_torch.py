"""The small model in transformers, and its inputs there."""

import functools

import jax
import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lfpc_jax.model import spec
from lfpc_jax.rollout.vocabulary import allowed_ids
from support import reference, small


@functools.cache
def theirs(seed: int, push: float) -> Qwen2_5_VLForConditionalGeneration:
    """transformers' model with the small model's parameters."""
    cfg = small.config()
    config = small.hf_config()
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    state = {reference.published_name(name): tensor for name, tensor in model.state_dict().items()}
    specs = jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param)
    for param, array in zip(specs, jax.tree.leaves(small.params(seed, push)), strict=True):
        layers = np.asarray(array) if param.stack else [np.asarray(array)]
        for name, layer in zip(param.hf_names, layers, strict=True):
            state[name].copy_(torch.tensor(np.ascontiguousarray(param.to_hf(layer))))
    return model


def inputs(ids, pictures) -> dict[str, torch.Tensor]:
    image = small.dialogue().tokenizer.image_pad
    made = reference.model_inputs([reference.Prompt(np.asarray(ids), pictures)], len(ids))
    made["mm_token_type_ids"] = (made["input_ids"] == image).int()
    return made


def banned() -> np.ndarray:
    return ~allowed_ids(small.dialogue().tokenizer, small.config().text.vocab)
