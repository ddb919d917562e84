"""A small random Qwen2.5-VL with a tokenizer of its own, to be trained from nothing.

    new_model.py OUT [--seed 0] [--width 128] [--layers 4] [--vision-width 64] [--vision-depth 3]

An ordinary Hugging Face folder in the published layout: patch 14, merge 2, windows, M-RoPE, grouped
queries, the published special tokens. The tokenizer knows the words of the small world
(synthesize.py --world micro), spells digits apart, and the system prompt and what surrounds a call
in one token each, so that an episode is short.

It begins other than a large model does, so that a few hundred updates on a CPU teach it something
(docs/log.md has what each of these is worth):
- matrices keep the size of what they transform, in place of a fixed 0.02;
- the final norm begins large and the vocabulary at nothing, so that the head learns at once and
  the layers below it slowly: at one speed, learning the format of a reply silences the picture;
- patches are seen through waves of many directions and lengths and through plain colour.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from transformers import Qwen2_5_VLConfig

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.data import scene
from lfpc_jax.model import config, spec
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
_LOUD, _SEEN = 8.0, 0.15
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


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        write(args)
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=128, help="of the text model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vision-width", type=int, default=64)
    parser.add_argument("--vision-depth", type=int, default=3)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def write(args: argparse.Namespace) -> None:
    for name, least in (("width", 2 * HEAD), ("vision_width", HEAD)):
        value = getattr(args, name)
        if value < least or value % least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is {value}; it must be a multiple of {least}")
    if args.layers < 1 or args.vision_depth < 1:
        raise ValueError(
            f"--layers {args.layers}, --vision-depth {args.vision_depth}: at least 1 of each"
        )
    with tempfile.TemporaryDirectory() as assets:
        ids = write_tokenizer(Path(assets), _texts(), VOCABULARY, PROCESSOR, whole=_WHOLE)
        _hf_config(args, ids).save_pretrained(assets)
        cfg = config.from_folder(assets)
        params = beginning(cfg, args.seed)
        huggingface.save(
            params,
            args.out,
            cfg=cfg,
            assets_from=assets,
            origin=Origin(dtypes=("float32",)),
            overwrite=args.overwrite,
        )
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"wrote {args.out}: {total / 1e6:.2f} M parameters, {VOCABULARY} tokens")


def _hf_config(args: argparse.Namespace, ids: dict[str, int]) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": args.width,
            "intermediate_size": 2 * args.width,
            "num_hidden_layers": args.layers,
            "num_attention_heads": args.width // HEAD,
            "num_key_value_heads": args.width // HEAD // 2,
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
            "depth": args.vision_depth,
            "hidden_size": args.vision_width,
            "intermediate_size": 5 * args.vision_width // 2,
            "num_heads": args.vision_width // HEAD,
            "out_hidden_size": args.width,
            "fullatt_block_indexes": [args.vision_depth - 1],
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
    """What the tokenizer must spell well: a conversation's frame, questions and answers."""
    for index in range(_SPOKEN):
        planned = scene.plan(scene.MICRO, 0, "train", index)
        yield f"<|im_start|>system\nuser\nassistant\n{planned.question}"
        yield f", {planned.answer}"
        yield planned.answer


def beginning(cfg: config.ModelConfig, seed: int) -> spec.Tree:
    """The first parameters, in float32."""
    params = spec.init(jax.random.key(seed), cfg, dtype="float32")
    params = jax.tree.map(_kept_size, spec.spec_tree(cfg), params, is_leaf=spec.is_param)
    params["norm"] *= _LOUD
    params["unembed"] *= 0
    params["vision"]["patch"] = jnp.asarray(_waves(cfg.vision.patch, cfg.vision.width, seed))
    return params


def _kept_size(param: spec.Param, value: jax.Array) -> jax.Array:
    if not param.inputs:
        return value
    return value / (0.02 * math.sqrt(math.prod(param.shape[: param.inputs])))


def _waves(side: int, count: int, seed: int) -> Float[np.ndarray, "pixels count"]:
    """Filters of a patch: of four, one sees a colour and three a wave; all fade to the edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    fading = np.exp(-(x**2 + y**2) / (2 * (0.43 * side) ** 2))
    filters = []
    for number in range(count):
        if number % 4 == 0:
            colour, wave = rng.standard_normal(3), np.ones_like(x)
        else:
            colour = 1 + 0.3 * rng.standard_normal(3)
            period = math.exp(rng.uniform(math.log(0.32 * side), math.log(1.3 * side)))
            turn, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
            along = x * math.cos(turn) + y * math.sin(turn)
            wave = np.cos(2 * math.pi * along / period + phase)
        both_frames = np.broadcast_to(wave * fading, (2, side, side))
        whole = (colour[:, None, None, None] * both_frames).reshape(-1)
        filters.append(_SEEN * whole / np.linalg.norm(whole))
    return np.stack(filters, axis=1).astype(np.float32)
