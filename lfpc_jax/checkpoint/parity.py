"""Compares the logits that a folder gives here with those that it gives in transformers.

Both models read the same random prompts with 0 to 3 pictures. transformers prepares the pixels with
its image processor, so that the folder's mean and deviation are compared too. The resize is not,
since the pictures are made at their final size. Only one model is in memory at a time.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int32, UInt8

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import folder, huggingface
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config, qwen
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.processing.batch import collate
from lfpc_jax.shapes import windows_for
from lfpc_jax.trajectory import Images, Tokens

MOST_IMAGES = 3
_MOST_TEXT = 48
_MOST_SIDE = 10
"""In merged tokens: more than two windows, and not a multiple of a window."""


@dataclass(frozen=True)
class Probe:
    ids: Int32[np.ndarray, "T"]
    pictures: tuple[UInt8[np.ndarray, "_ _ 3"], ...]


@dataclass(frozen=True)
class Result:
    """The output of a model for a prompt; `vision` has every picture's tokens in raster order."""

    logits: Float32[np.ndarray, "T V"]
    vision: Float32[np.ndarray, "N D"]


@dataclass(frozen=True)
class Difference:
    tokens: int
    images: int
    max_abs_logit_diff: float
    max_abs_vision_diff: float
    argmax_agreement: float


def random_prompts(count: int, seed: int, cfg: ModelConfig) -> list[Probe]:
    """Text with 1, 2, 3, 0, 1, ... pictures of random size and noise."""
    rng = np.random.default_rng(seed)
    factor = cfg.vision.patch * cfg.vision.merge

    def text() -> np.ndarray:
        ids = rng.integers(0, cfg.text.vocab - 1, rng.integers(1, _MOST_TEXT))
        return ids + (ids >= cfg.image_token)  # any id but the placeholder

    def prompt(images: int) -> Probe:
        parts, pictures = [text()], []
        for _ in range(images):
            rows, columns = rng.integers(1, _MOST_SIDE + 1, 2)
            shape = (rows * factor, columns * factor, 3)
            pictures.append(rng.integers(0, 256, shape, dtype=np.uint8))
            parts += [np.full(rows * columns, cfg.image_token), text()]
        return Probe(np.concatenate(parts).astype(np.int32), tuple(pictures))

    return [prompt((i + 1) % (MOST_IMAGES + 1)) for i in range(count)]


def differences(
    path: str | Path,
    *,
    dtype: str,
    prompts: int,
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Difference]:
    """One row for each prompt. `advance` is called after every prompt that a model has read."""
    cfg = config.from_folder(path, dtype=dtype)
    opened = folder.open_folder(path, cfg)
    questions = random_prompts(prompts, seed, cfg)
    results: list[list[Result]] = []
    for run in (_theirs(opened.path, cfg, questions), _ours(opened, cfg, questions)):
        results.append([])
        for result in run:
            results[-1].append(result)
            advance(1)
    return [_difference(*row) for row in zip(questions, *results)]


def _difference(prompt: Probe, theirs: Result, ours: Result) -> Difference:
    def most(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).max(initial=0))

    agreement = np.mean(theirs.logits.argmax(-1) == ours.logits.argmax(-1))
    return Difference(
        tokens=len(prompt.ids),
        images=len(prompt.pictures),
        max_abs_logit_diff=most(theirs.logits, ours.logits),
        max_abs_vision_diff=most(theirs.vision, ours.vision),
        argmax_agreement=float(agreement),
    )


def _ours(opened: folder.HFFolder, cfg: ModelConfig, prompts: Sequence[Probe]) -> Iterator[Result]:
    """All prompts have one shape, so that there is one program; weights are sharded over all
    devices."""
    processor = cfg.vision.processor
    grids = [processor.grid_of(picture) for prompt in prompts for picture in prompt.pictures]

    mesh = make_mesh(fsdp=-1)
    params = huggingface.load(opened, cfg, dtype=cfg.dtype, mesh=mesh)
    for prompt in prompts:
        tokens, images = collate(
            [prompt.ids],
            [prompt.pictures],
            processor=processor,
            image_token=cfg.image_token,
            length=max(len(p.ids) for p in prompts),
            windows=max(windows_for(*grid, processor.window) for grid in grids),
            images=MOST_IMAGES,
        )
        with jax.set_mesh(mesh):
            logits, embeddings = _logits_and_embeddings(params, tokens, images, cfg=cfg)
        raster = tokens.image_index[0][tokens.image_index[0] >= 0]
        yield Result(
            np.asarray(logits)[: len(prompt.ids)], np.asarray(embeddings, dtype=np.float32)[raster]
        )


@partial(jax.jit, static_argnames="cfg")
def _logits_and_embeddings(
    params: Tree, tokens: Tokens, images: Images, *, cfg: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)
    return qwen.unembed(params, hidden, cfg=cfg)[0], embeddings


def _theirs(path: Path, cfg: ModelConfig, prompts: Sequence[Probe]) -> Iterator[Result]:
    try:
        import torch
    except ImportError as error:
        raise ValueError("check compares with transformers on torch: pip install torch") from error
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch_dtype = getattr(torch, cfg.dtype)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(path, dtype=torch_dtype).eval()
    process = _their_processor(path, cfg)
    for prompt in prompts:
        ids = torch.tensor(prompt.ids[None].astype(np.int64))
        inputs: dict[str, Any] = {"input_ids": ids}
        with torch.inference_mode():
            vision = np.zeros((0, cfg.text.width), np.float32)
            if prompt.pictures:
                inputs |= process(list(prompt.pictures), do_resize=False, return_tensors="pt")
                inputs["mm_token_type_ids"] = (ids == cfg.image_token).int()
                encoded = model.model.get_image_features(
                    inputs["pixel_values"], inputs["image_grid_thw"]
                )
                vision = torch.cat(list(encoded.pooler_output)).float().numpy()
            logits = model(**inputs, use_cache=False).logits[0].float().numpy()
        yield Result(logits, vision)
    del model
    gc.collect()


def _their_processor(path: Path, cfg: ModelConfig) -> Any:
    """transformers' image processor, as the folder describes it, or else as `cfg` does."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    if (path / "preprocessor_config.json").is_file() or (path / "processor_config.json").is_file():
        return Qwen2VLImageProcessorPil.from_pretrained(path)
    return Qwen2VLImageProcessorPil(
        patch_size=cfg.vision.patch,
        merge_size=cfg.vision.merge,
        temporal_patch_size=cfg.vision.temporal_patch,
        image_mean=cfg.vision.mean,
        image_std=cfg.vision.std,
    )
