"""A small random Qwen2.5-VL with its own tokenizer, to be trained from nothing.

    lfpc new-model OUT [--seed 0] [--width 128] [--layers 4] [--vision-width 64] [--vision-depth 3]

OUT is an ordinary Hugging Face folder in the published layout: patches of 14 pixels merged 2 x 2,
windows, M-RoPE, grouped queries, the published special tokens. The tokenizer knows the words of the
small world (lfpc synthesize --world micro) and spells every digit as a token. The system prompt and
the text around a call take one token each, so that episodes are short. The parameters are those of
`lfpc_jax/model/beginning.py`.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
from transformers import Qwen2_5_VLConfig

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.new_model import parser
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


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(write, args))


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
        params = beginning.first_parameters(cfg, args.seed)
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
    """The texts that the tokenizer is trained on: the frame of a conversation, questions and
    answers."""
    for index in range(_SPOKEN):
        planned = scene.plan(scene.MICRO, 0, "train", index)
        yield f"<|im_start|>system\nuser\nassistant\n{planned.question}"
        yield f", {planned.answer}"
        yield planned.answer


if __name__ == "__main__":
    sys.exit(main())
