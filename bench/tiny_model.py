"""A small random Qwen2.5-VL as an ordinary Hugging Face folder, to try the commands on.

    python bench/tiny_model.py FOLDER [--seed 0]

Four text and four vision layers, 4 M parameters, the published vocabulary's special ids; no
tokenizer. Needs no PyTorch.
"""

import argparse
import tempfile
from pathlib import Path

import jax
from transformers import Qwen2_5_VLConfig

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.model import config, spec

HF_CONFIG = Qwen2_5_VLConfig(
    text_config={
        "vocab_size": 4096,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [4, 6, 6],
        },
        "bos_token_id": 4080,
        "eos_token_id": 4081,
    },
    vision_config={
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 192,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
    },
    image_token_id=4090,
    video_token_id=4091,
    vision_start_token_id=4088,
    vision_end_token_id=4089,
    tie_word_embeddings=False,
    architectures=["Qwen2_5_VLForConditionalGeneration"],
    dtype="float32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as assets:
        HF_CONFIG.save_pretrained(assets)
        cfg = config.from_folder(assets)
        params = spec.init(jax.random.key(args.seed), cfg, dtype="float32")
        huggingface.save(
            params,
            args.folder,
            cfg=cfg,
            assets_from=assets,
            origin=Origin(dtypes=("float32",)),
            overwrite=True,
        )
    total = sum(x.size for x in jax.tree.leaves(params))
    print(f"wrote {args.folder}: {total / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
