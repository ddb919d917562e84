"""A small random Qwen2.5-VL with its own tokenizer, as an ordinary Hugging Face folder.

The tokenizer is trained on the questions and answers of the small world, and spells every digit as
a token. The system prompt and the text around a call take one token each, so that episodes are
short.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
from transformers import Qwen2_5_VLConfig

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.data import scene
from lfpc_jax.model import beginning, config
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.rollout.tools import Toolbox, system_prompt
from lfpc_jax.rollout.zoom import Zoom

PROCESSOR = ImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)
VOCABULARY = 512
HEAD = 32
"""Numbers of an attention head."""
CROP_TOKENS = 12
_SPOKEN = 300
_ZOOM = Zoom.within(CROP_TOKENS, PROCESSOR, "percent")
_WHOLE = (
    system_prompt(Toolbox((_ZOOM,))),
    system_prompt(Toolbox(())),
    "<tool_response>\n",
    "\nBoxes still refer to the first image.\n</tool_response>\n"
    "Call a tool again, or give your answer.",
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [',
    "]}}",
    ", ",
    "<answer>",
    "</answer>",
)


@dataclass(frozen=True)
class SmallModel:
    """Its sizes. `vision_width` is a multiple of `HEAD`, and `width` of twice as much."""

    width: int
    layers: int
    vision_width: int
    vision_depth: int

    def write(self, out: Path, *, seed: int, overwrite: bool) -> int:
        """Writes the folder with first parameters of this seed, and returns how many there are."""
        with tempfile.TemporaryDirectory() as assets:
            ids = write_tokenizer(Path(assets), _texts(), VOCABULARY, PROCESSOR, whole=_WHOLE)
            _config_of(self, ids).save_pretrained(assets)
            cfg = config.from_folder(assets)
            params = beginning.first_parameters(cfg, seed)
            huggingface.save(
                params,
                out,
                cfg=cfg,
                assets_from=assets,
                origin=Origin(dtypes=("float32",)),
                overwrite=overwrite,
            )
        return sum(leaf.size for leaf in jax.tree.leaves(params))


def _config_of(model: SmallModel, ids: Mapping[str, int]) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": model.width,
            "intermediate_size": 2 * model.width,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.width // HEAD,
            "num_key_value_heads": model.width // HEAD // 2,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": model.vision_depth,
            "hidden_size": model.vision_width,
            "intermediate_size": 5 * model.vision_width // 2,
            "num_heads": model.vision_width // HEAD,
            "out_hidden_size": model.width,
            "fullatt_block_indexes": [model.vision_depth - 1],
            "window_size": 56,
            "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype="float32",
    )


def _texts() -> Iterator[str]:
    """The texts that the tokenizer is trained on: the frame of a conversation, questions and
    answers."""
    for index in range(_SPOKEN):
        planned = scene.plan(scene.MICRO, 0, "train", index)
        yield f"<|im_start|>system\nuser\nassistant\n{planned.question}"
        yield f", {planned.answer}"
        yield planned.answer
