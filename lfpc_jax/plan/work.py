"""The work of each compiled program in a training step: FLOPs, bytes and calls.

The length of episodes is an assumption (`episodes`). Bytes are the least that must pass through a
chip's memory: weights once a pass, gradients and optimizer state once. A decode step reads each
prompt that rows continue once, and of every row what it has after its prompt, on average half of
what it ends with. Activations are left out. A step's work is given in calls of the compiled size.
So if a program is compiled for the longest prompt, a shorter prompt counts as a fraction of a call.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import Base, Trainable
from lfpc_jax.plan import counts
from lfpc_jax.plan.episodes import PackedMiniBatch, PlannedEpisode
from lfpc_jax.plan.update import CROWDED, WIDE
from lfpc_jax.shapes import RolloutShapes, TrainShapes


@dataclass(frozen=True)
class Load:
    """One call on one chip, and how many calls a step has."""

    flops: float
    bytes: float
    calls: float


def rollout_loads(
    cfg: ModelConfig,
    shapes: RolloutShapes,
    episode: PlannedEpisode,
    *,
    episodes: int,
    prompts: int,
    groups: int,
    tensor: int,
    base: Base = "same",
) -> dict[str, Load]:
    """The work of `groups` copies of the model, each on `tensor` chips, which share all slots and
    rows."""
    B, P, R = shapes.slots, shapes.prefill_rows, shapes.extend_rows
    chips = groups * tensor
    image, crop = _usual(shapes.image_windows.sizes), _usual(shapes.crop_windows.sizes)
    widest = shapes.image_windows.sizes[-1]
    length = shapes.prompt_length(widest, shapes.prompt_text.sizes[-1])
    observed = shapes.observation_length(shapes.crop_windows.sizes[-1])
    prompt = episode.prompt(shapes)
    own = (episode.tokens(shapes) - prompt) / 2
    context = prompt + own
    weights = counts.text_bytes(cfg, base) / tensor
    token = counts.token_bytes(cfg) / groups / counts.heads_split(cfg, tensor)
    live_prompts = -(-B // shapes.members)
    windows = prompts * image + episodes * episode.crops * crop

    def text(tokens: int, context: float, logits: int) -> float:
        return counts.text_forward(cfg, tokens, context, logits=logits) / chips

    return {
        "encode": Load(
            counts.vision_forward(cfg, P * widest, widest) / chips,
            counts.vision_bytes(cfg) / tensor,
            windows / (P * widest),
        ),
        "prefill": Load(
            text(P * length, length / 2, 0),
            weights,
            prompts * prompt / (P * length),
        ),
        "begin": Load(0.0, 0.0, episodes / B),
        "extend": Load(
            text(R * observed, context, 0),
            weights + R * context * token,
            episodes * episode.crops / R,
        ),
        "decode": Load(
            text(B, context, B),
            weights + (live_prompts * prompt + B * own) * token,
            episodes * episode.sampled / B,
        ),
    }


def reshard_load(cfg: ModelConfig, tensor: int) -> Load:
    """The work for the largest array. A step lays out all arrays."""
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(spec.abstract(cfg, cfg.dtype))]
    largest = max(sizes) * jnp.dtype(cfg.dtype).itemsize / tensor
    return Load(0.0, largest, sum(sizes) / max(sizes))


def update_loads(
    cfg: ModelConfig,
    shapes: TrainShapes,
    layout: PackedMiniBatch,
    *,
    trainable: Trainable,
    mini_batches: int,
    epochs: int,
    scored: int,
    references: int,
    shards: int,
    tensor: int,
) -> dict[str, Load]:
    """The work of updates. In a step, `scored` mini-batches are scored with the policy before
    their updates, and `references` with a reference."""
    updates = mini_batches * epochs
    trains_tower = counts.trained_bytes(cfg, trainable, "vision") > 0
    encoded = scored + references if trains_tower else max(scored, references)
    frozen = trainable.lora is not None
    base = trainable.lora.base if trainable.lora else "same"
    text, tower = counts.text_bytes(cfg, base) / tensor, counts.vision_bytes(cfg) / tensor
    sizes = {name: counts.trained_bytes(cfg, trainable, name) / shards / tensor
             for name in ("text", "vision")}  # fmt: skip
    loads: dict[str, Load] = {}
    for places in shapes.all_places:
        usual = places == shapes.places
        calls = float(layout.rows - layout.crowded if usual else layout.crowded)
        work = counts.TextWork.of(cfg, shapes, places, layout.keys, frozen=frozen)
        name = "" if usual else f", {CROWDED}"
        loads |= {
            f"score{name}": Load(work.score / tensor, text, calls * (scored + references)),
            f"update{name}": Load(
                work.learn / tensor,
                (counts.passes(cfg.remat) - frozen) * text + 3 * sizes["text"],
                calls * updates,
            ),
        }
    for span in shapes.spans:
        usual = span == shapes.span
        calls = float(layout.pictures - layout.wide if usual else layout.wide)
        name = "" if usual else f", {WIDE}"
        forward = Load(counts.vision_forward(cfg, shapes.windows, span) / tensor, tower, 0.0)
        loads |= {
            f"score pictures{name}": replace(forward, calls=calls * encoded),
            f"update pictures{name}": replace(forward, calls=calls * updates),
            f"update pictures back{name}": Load(
                counts.vision_backward(cfg, shapes.windows, span, frozen=frozen) / tensor,
                (counts.passes(cfg.tower_remat or cfg.remat) - frozen) * tower
                + 3 * sizes["vision"],
                calls * updates * trains_tower,
            ),
        }
    loads["optimizer"] = Load(0.0, 7 * sum(sizes.values()), float(updates))
    return loads


def _usual(buckets: tuple[int, ...]) -> int:
    """The windows of a picture of full size that is not a strip; see `shapes.window_buckets`."""
    return buckets[-2] if len(buckets) > 1 else buckets[-1]
