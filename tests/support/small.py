"""A small model that calls the zoom tool, and what the engine needs around it.

Its weights are random but for a push from each token to those that may follow it, so that episodes
have calls (good and bad), crops and answers, and every log-probability still depends on all before.
"""

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import PIL.Image
from transformers import Qwen2_5_VLConfig

from lfpc_jax.checkpoint import huggingface
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.tools import Toolbox, respond, system_prompt
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Picture, Record
from support import scratch

CROPS = ImageProcessor(min_pixels=784).with_tokens(16)
ZOOM = Zoom(CROPS, aspect_limit=8.0)
TOOLBOX = Toolbox((ZOOM,))
SHAPES = RolloutShapes(
    slots=4,
    chunk=8,
    capacity=352,
    image_tokens=32,
    crop_tokens=16,
    prompt_text=Buckets((48,)),
    observation_text=48,
    image_buckets=Buckets((8,)),
    crop_buckets=Buckets((4,)),
    single=True,
)
"""With one bucket of everything: a tenth of the programs."""
BUCKETS = replace(SHAPES, single=False)


HEAD = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": ['
LEFT, TOP = ("2, ", "40, ", "77, ", "1000, "), ("3.5, ", "41, ", "66, ", "-9, ")
RIGHT = ("60, ", "101, ", "140, ", "NaN, ")
BOTTOM = ("50]}}</tool_call>", "88]}}</tool_call>", "112]}}</tool_call>", "99]}</tool_call>")
ANSWERS = ("<answer>red</answer>", "<answer>blue", "</answer>", "thinking", "word")
END = "<|im_end|>"
RESPONSE = tuple(part["text"] for part in respond()[0]["content"])
"""What is around every response; it and the system prompts are a token each, to keep rows short."""

FOLLOWS = [
    (("\n",), (HEAD, "thinking", *ANSWERS[:2])),
    (("thinking",), ("thinking", "word", HEAD, "<answer>red</answer>", END)),
    (("word",), ("thinking", HEAD)),
    ((HEAD,), LEFT),
    (LEFT, TOP),
    (TOP, RIGHT),
    (RIGHT, BOTTOM),
    (("<answer>blue",), ("</answer>", HEAD)),
    (("<answer>red</answer>", "</answer>"), (END, HEAD)),
]


@functools.cache
def folder() -> Path:
    path = scratch.folder("small-tokenizer-")
    texts = [system_prompt(TOOLBOX), "Which colour is it? red blue"] * 5
    said = (HEAD, *LEFT, *TOP, *RIGHT, *BOTTOM, *ANSWERS)
    whole = (*said, *(system_prompt(box) for box in (TOOLBOX, Toolbox(()))), *RESPONSE)
    write_tokenizer(path, texts, 1000, ImageProcessor(min_pixels=784), whole=whole)
    return path


@functools.cache
def dialogue(toolbox: Toolbox = TOOLBOX) -> Dialogue:
    tokenizer = Tokenizer.from_folder(folder())
    processor = ImageProcessor(min_pixels=784).with_tokens(SHAPES.image_tokens)
    return Dialogue(tokenizer, ChatTemplate.from_folder(folder(), tokenizer), processor, toolbox)


@functools.cache
def config(**changes) -> ModelConfig:
    tokenizer = dialogue().tokenizer
    cfg = ModelConfig(
        TextConfig(2, 256, 8, 2, 96, 1000, mrope_section=(4, 6, 6)),
        VisionConfig(2, 32, 2, 48, 256, (1,)),
        tied=False,
        image_token=tokenizer.image_pad,
        dtype="float32",
    )
    return replace(cfg, **changes)


@functools.cache
def params(seed: int = 0, push: float = 12.0):
    return pushed(dialogue().tokenizer, FOLLOWS, seed, push)


def pushed(tokenizer: Tokenizer, follows, seed: int = 0, push: float = 12.0):
    """Weights with a push from each token to those that may follow it."""
    rng = np.random.default_rng((12, seed))  # under 12, seed 0 does all that an episode can

    def initial(param: spec.Param) -> jax.Array:
        """In NumPy, which compiles nothing; stacked matrices large enough for about a nat of noise
        in every logit, out of attention, layers and pictures."""
        noise = (0.06 if param.stack else 0.02) * rng.standard_normal(param.array_shape)
        rest = np.full(param.array_shape, param.init == "ones")
        return jax.numpy.asarray(noise if param.init == "normal" else rest, np.float32)

    tree = jax.tree.map(initial, spec.spec_tree(config()), is_leaf=spec.is_param)
    vocabulary, width = tree["embed"].shape
    embed = rng.standard_normal((vocabulary, width)).astype(np.float32)
    unembed = 0.03 * rng.standard_normal((vocabulary, width)).astype(np.float32)

    def ids(texts):
        return [tokenizer.encode(text).item() for text in texts]

    for before, after in follows:
        for token in ids(before):
            for following in ids(after):
                unembed[following] += push * embed[token] / width
    return tree | {"embed": jax.numpy.asarray(embed), "unembed": jax.numpy.asarray(unembed)}


def hf_config(cfg: ModelConfig | None = None, ids: Tokenizer | None = None) -> Qwen2_5_VLConfig:
    """The same model to transformers, or another one with its tokenizer."""
    cfg, ids = cfg or config(), ids or dialogue().tokenizer
    text, vision = cfg.text, cfg.vision
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": text.vocab,
            "hidden_size": text.width,
            "intermediate_size": text.mlp,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": text.eps,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_theta,
                "mrope_section": list(text.mrope_section),
            },
            "bos_token_id": None,
            "eos_token_id": ids.im_end,
            "pad_token_id": ids.endoftext,
        },
        vision_config={
            "depth": vision.depth,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp,
            "num_heads": vision.heads,
            "out_hidden_size": vision.out,
            "fullatt_block_indexes": list(vision.full_layers),
            "tokens_per_second": 2,
        },
        image_token_id=ids.image_pad,
        video_token_id=ids.video_pad,
        vision_start_token_id=ids.vision_start,
        vision_end_token_id=ids.vision_end,
        tie_word_embeddings=cfg.tied,
    )


def hf_folder(path: Path) -> Path:
    """The model as a Hugging Face folder with its tokenizer."""
    return write_folder(path, folder(), params(), config())


def write_folder(path: Path, tokenizer: Path, weights, cfg: ModelConfig) -> Path:
    assets = path.with_name(f"{path.name}-assets")
    shutil.copytree(tokenizer, assets)
    hf_config(cfg, Tokenizer.from_folder(tokenizer)).save_pretrained(assets)
    origin = Origin(dtypes=("float32",))
    huggingface.save(weights, path, cfg=cfg, assets_from=assets, origin=origin)
    return path


def picture(seed: int, width: int = 160, height: int = 120) -> Picture:
    rng = np.random.default_rng(seed)
    image = PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    path = Path(tempfile.gettempdir()) / f"small-{seed}-{width}x{height}.png"
    if not path.exists():
        image.save(path)
    return Picture(path=str(path))


def record(seed: int, **changes) -> Record:
    one = Record(id=f"r{seed}", question=f"Which colour is {seed}?", answer="red",
                 picture=picture(seed))  # fmt: skip
    return replace(one, **changes)
