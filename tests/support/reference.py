"""transformers' own Qwen2.5-VL: small random models, random prompts, and what it makes of them.

Nothing here reads the package's model code, so that a test against it proves something.
"""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
VOCAB = 320
IMAGE = 300


@dataclass(frozen=True)
class Prompt:
    ids: np.ndarray
    pictures: list[np.ndarray]


def random_config(seed: int, *, tied: bool, **text) -> Qwen2_5_VLConfig:
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.choice([1, 2]))
    heads = kv_heads * int(rng.choice([1, 2, 3]))
    head = int(rng.choice([16, 24, 32]))
    third = head // 2 // 3
    depth = int(rng.integers(2, 6))
    full = sorted(rng.choice(depth, int(rng.integers(1, depth)), replace=False).tolist())
    vision_heads = int(rng.choice([1, 2, 4]))
    fields = {
        "vocab_size": VOCAB,
        "hidden_size": heads * head,
        "intermediate_size": int(rng.integers(40, 100)),
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5])),
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(rng.choice([1e4, 1e6])),
            "mrope_section": [head // 2 - 2 * third, third, third],
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | text
    return Qwen2_5_VLConfig(
        text_config=fields,
        vision_config={
            "depth": depth,
            "hidden_size": vision_heads * int(rng.choice([8, 16, 20])),
            "intermediate_size": int(rng.integers(20, 60)),
            "num_heads": vision_heads,
            "out_hidden_size": fields["hidden_size"],
            "fullatt_block_indexes": full,
            "window_size": int(rng.choice([56, 112])),
            "tokens_per_second": 2,
        },
        image_token_id=IMAGE,
        video_token_id=IMAGE + 1,
        vision_start_token_id=IMAGE + 2,
        vision_end_token_id=IMAGE + 3,
        tie_word_embeddings=tied,
    )


def random_model(
    config: Qwen2_5_VLConfig, seed: int, scale: float = 0.08
) -> Qwen2_5_VLForConditionalGeneration:
    """Random everywhere: norms about one and biases about zero, none of them at a default."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                torch.randn_like(parameter) * scale + ("norm" in name or "ln_q" in name)
            )
    return model


def rounded_and_in_bfloat16(
    model: Qwen2_5_VLForConditionalGeneration,
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLForConditionalGeneration]:
    """The model in float32 with weights that bfloat16 can hold, and the same model in bfloat16.

    Rotary frequencies stay float32, as in a loaded model; `model.bfloat16()` alone rounds them.
    """
    low = copy.deepcopy(model).bfloat16()
    high = copy.deepcopy(low).float()
    for cast in (low, high):
        for name, buffer in model.named_buffers():
            cast.get_submodule(name.rpartition(".")[0]).register_buffer(
                name.rpartition(".")[2], buffer.clone(), persistent=False
            )
    return high, low


def random_prompt(rng: np.random.Generator, images: int, *, most: int = 9) -> Prompt:
    """Text with pictures of `images` random grids of up to `most` merged tokens a side."""

    def text() -> np.ndarray:
        return rng.integers(3, IMAGE, rng.integers(1, 9))

    parts, pictures = [text()], []
    for _ in range(images):
        rows, columns = rng.integers(1, most + 1, 2)
        pictures.append(rng.integers(0, 256, (rows * 28, columns * 28, 3), dtype=np.uint8))
        parts += [[IMAGE + 2], np.full(rows * columns, IMAGE), [IMAGE + 3], text()]
    return Prompt(np.concatenate(parts).astype(np.int32), pictures)


def patches(picture: np.ndarray) -> torch.Tensor:
    """A resized picture as transformers' processor lays it out, in float32."""
    rows, columns = picture.shape[0] // 28, picture.shape[1] // 28
    x = ((picture / 255 - MEAN) / STD).astype(np.float32)
    x = x.reshape(rows, 2, 14, columns, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    x = np.repeat(x[:, :, :, :, :, None], 2, axis=5)
    return torch.tensor(x.reshape(rows * columns * 4, -1))


def model_inputs(prompts: Sequence[Prompt], length: int) -> dict[str, torch.Tensor]:
    """Right-padded inputs of transformers' forward."""
    ids = np.zeros((len(prompts), length), np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = prompt.ids
        mask[row, : len(prompt.ids)] = 1
    inputs = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "mm_token_type_ids": torch.tensor((ids == IMAGE).astype(np.int32)),
    }
    pictures = [picture for prompt in prompts for picture in prompt.pictures]
    if pictures:
        inputs["pixel_values"] = torch.cat([patches(p) for p in pictures])
        inputs["image_grid_thw"] = torch.tensor(
            [[1, p.shape[0] // 14, p.shape[1] // 14] for p in pictures]
        )
    return inputs


@torch.no_grad()
def logits(model: Qwen2_5_VLForConditionalGeneration, prompts, length: int) -> np.ndarray:
    return model(**model_inputs(prompts, length), use_cache=False).logits.float().numpy()


@torch.no_grad()
def vision(model: Qwen2_5_VLForConditionalGeneration, prompts, length: int) -> np.ndarray:
    """Embeddings of all pictures' merged tokens, in order."""
    inputs = model_inputs(prompts, length)
    out = model.model.visual(
        inputs["pixel_values"].to(model.dtype), grid_thw=inputs["image_grid_thw"]
    )
    return out.pooler_output.float().numpy()


def published_name(key: str) -> str:
    """A key of transformers' modules as the published files spell it."""
    return key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def rope_index(
    rows: list[np.ndarray], grids: list[tuple[int, int]], image: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions [3, B, T] and deltas [B] of right-padded rows; `grids` are merged."""
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = functools.partial(
        Qwen2_5_VLModel.get_vision_position_ids, model
    )
    length = max(map(len, rows))
    ids = torch.tensor(np.stack([np.pad(row, (0, length - len(row))) for row in rows])).long()
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    patches = torch.tensor([(1, 2 * r, 2 * c) for r, c in grids]) if grids else None
    positions, deltas = Qwen2_5_VLModel.get_rope_index(
        model, ids, (ids == image).int(), image_grid_thw=patches, attention_mask=mask
    )
    return positions.numpy(), deltas.numpy()[:, 0]
