"""The work of each compiled program in a training step: FLOPs, bytes and calls.

The length of episodes is an assumption: `PlannedEpisode`. Bytes are the least that must pass
through a chip's memory: weights once a pass, the cache once a token, gradients and optimizer state
once. Activations are left out. A step's work is given in calls of the compiled size. So if a
program is compiled for the longest prompt, a shorter prompt counts as a fraction of a call.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.plan import counts
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.shapes import RolloutShapes, TrainShapes


@dataclass(frozen=True)
class PlannedEpisode:
    """An episode as it is assumed for planning: how many tokens it samples, how many crops it looks
    at, and the text tokens of its prompt. Its pictures have full size and are not strips."""

    sampled: int = 400
    crops: int = 1
    prompt_text: int = 400

    def tokens(self, shapes: RolloutShapes) -> int:
        """The ids of an episode."""
        observed = self.crops * shapes.observation_length(shapes.crop_windows.sizes[-1])
        return self.prompt(shapes) + self.sampled + observed

    def prompt(self, shapes: RolloutShapes) -> int:
        return shapes.image_tokens + self.prompt_text


def planned_episode(config: TrainConfig, sampled: int | None, crops: int | None) -> PlannedEpisode:
    """The episode to plan for. The config's rules and context must allow it. None takes the usual
    value, as far as the rules allow."""
    rules, usual = config.rules, PlannedEpisode()
    limits = (
        ("--sampled", sampled, rules.most_sampled, "turn_tokens, episode_tokens and max_turns"),
        ("--crops", crops, rules.max_turns - 1, "max_turns"),
    )
    for flag, given, most, settings in limits:
        if given is not None and not 0 <= given <= most:
            raise ValueError(
                f"{flag} {given}: an episode has at most {most}, by rollout.{settings}; plan for "
                "what can be, or raise them"
            )
    episode = PlannedEpisode(
        min(usual.sampled, rules.most_sampled) if sampled is None else sampled,
        min(usual.crops, rules.max_turns - 1) if crops is None else crops,
    )
    r = config.rollout
    observed = episode.crops * (r.crop_tokens + r.observation_text)
    left = r.capacity - r.image_tokens - episode.prompt_text - observed
    if episode.sampled > left and (sampled, crops) != (None, None):
        raise ValueError(
            f"--sampled {episode.sampled} with --crops {episode.crops}: rollout.capacity "
            f"{r.capacity} holds {max(left, 0)} beside the prompt's "
            f"{r.image_tokens + episode.prompt_text} ids and the crops' {observed}; plan for what "
            "can be, or raise it"
        )
    return episode


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
) -> dict[str, Load]:
    """The work of `groups` copies of the model, each on `tensor` chips, which share all slots and
    rows."""
    B, P, R = shapes.slots, shapes.prefill_rows, shapes.extend_rows
    chips = groups * tensor
    image, crop = _usual(shapes.image_windows.sizes), _usual(shapes.crop_windows.sizes)
    widest = shapes.image_windows.sizes[-1]
    length = shapes.prompt_length(widest, shapes.prompt_text.sizes[-1])
    observed = shapes.observation_length(shapes.crop_windows.sizes[-1])
    usual = episode.tokens(shapes)
    context = (episode.prompt(shapes) + usual) / 2
    weights = counts.text_bytes(cfg) / tensor
    place = counts.cache_bytes(cfg)
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
            prompts * episode.prompt(shapes) / (P * length),
        ),
        "place": Load(0.0, 2 * B * length * place / chips, episodes / B),
        "extend": Load(
            text(R * observed, context, 0),
            weights + R * context * place / chips,
            episodes * episode.crops / R,
        ),
        "decode": Load(
            text(B, context, B),
            weights + B * context * place / chips,
            episodes * episode.sampled / B,
        ),
    }


def reshard_load(cfg: ModelConfig, tensor: int) -> Load:
    """The work for the largest array. A step lays out all arrays."""
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(spec.abstract(cfg, cfg.dtype))]
    largest = max(sizes) * jnp.dtype(cfg.dtype).itemsize / tensor
    return Load(0.0, largest, sum(sizes) / max(sizes))


def micro_batches(
    shapes: TrainShapes,
    rollout: RolloutShapes,
    episode: PlannedEpisode,
    *,
    episodes: int,
    shards: int,
) -> float:
    """How many micro-batches of a mini-batch of so many episodes hold anything. A shard is full
    when its rows of tokens are, or its windows; the shown image of a group is there once."""
    by_tokens = shapes.rows * (shapes.row_tokens // episode.tokens(rollout))
    crops = episode.crops * _usual(rollout.crop_windows.sizes)
    room = shapes.windows.sizes[0] - _usual(rollout.image_windows.sizes)
    by_windows = room // crops if crops else by_tokens
    return max(1.0, episodes / (shards * max(1, min(by_tokens, by_windows))))


def update_loads(
    cfg: ModelConfig,
    shapes: TrainShapes,
    *,
    compiled: int,
    real: float,
    mini_batches: int,
    epochs: int,
    logprob_passes: int,
    shards: int,
    tensor: int,
) -> dict[str, Load]:
    """The work of programs compiled for so many micro-batches, of which `real` hold anything. The
    windows counted are those of the usual bucket, and rows are assumed to be full. The
    log-probabilities of each are computed `logprob_passes` times before its updates."""
    windows = shapes.windows.sizes[0]
    tokens, context = shapes.rows * shapes.row_tokens, shapes.row_tokens / 2
    text = counts.text_forward(cfg, tokens, context)
    whole = shapes.span_of(windows)
    seen = counts.vision_forward(cfg, windows, whole)
    backward = counts.update(cfg, tokens=tokens, context=context, windows=windows, whole=whole)
    narrow = (counts.text_bytes(cfg) + counts.vision_bytes(cfg)) / tensor
    held = 2 * narrow / shards  # float32
    passes = 4 if cfg.remat == "full" else 3
    calls = mini_batches * real / compiled
    return {
        "score": Load(compiled * (text + seen) / tensor, compiled * narrow, calls * logprob_passes),
        "update": Load(
            compiled * backward / tensor,
            compiled * (passes * narrow + 3 * held) + 7 * held,
            calls * epochs,
        ),
    }


def _usual(buckets: tuple[int, ...]) -> int:
    """The windows of a picture of full size that is not a strip; see `shapes.window_buckets`."""
    return buckets[-2] if len(buckets) > 1 else buckets[-1]
