"""The episodes that a plan assumes, and what the packer makes of a mini-batch of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from lfpc_jax.grpo.packing import Filling, Item, MiniBatch, Row, SeenPicture, deal, fill, lay_out
from lfpc_jax.model import attention_splash
from lfpc_jax.model.attention import select
from lfpc_jax.model.attention_splash import LANES, needed_blocks
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.shapes import RolloutShapes, TrainShapes
from lfpc_jax.trajectory import Trajectory


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
    value, as far as the rules allow, and if neither is given, as far as the context has room."""
    rules, usual, r = config.rules, PlannedEpisode(), config.rollout
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
        min(usual.prompt_text, max(r.prompt_text)),
    )
    each = r.crop_tokens + r.observation_text
    observed = episode.crops * each
    left = r.capacity - r.image_tokens - episode.prompt_text - observed
    if episode.sampled > left and (sampled, crops) == (None, None):
        room = left + observed
        fewer = min(episode.crops, max(0, room - 1) // each)
        return replace(episode, crops=fewer, sampled=min(episode.sampled, room - fewer * each))
    if episode.sampled > left:
        raise ValueError(
            f"--sampled {episode.sampled} with --crops {episode.crops}: rollout.capacity "
            f"{r.capacity} holds {max(left, 0)} beside the prompt's "
            f"{r.image_tokens + episode.prompt_text} ids and the crops' {observed}; plan for what "
            "can be, or raise it"
        )
    return episode


# ---------------------------------------------------------------- a mini-batch


@lru_cache(maxsize=4)
def planned_items(
    episode: PlannedEpisode,
    cfg: ModelConfig,
    shapes: RolloutShapes,
    *,
    groups: int,
    rollouts: int,
) -> tuple[Item, ...]:
    """Such episodes, `groups` times `rollouts`, with placeholders for ids and pictures without
    pixels."""
    turns = episode.crops + 1
    sampled = [episode.sampled * (turn + 1) // turns - episode.sampled * turn // turns
               for turn in range(turns)]  # fmt: skip
    image = _picture_ids(shapes.image_tokens, cfg)
    crop = _picture_ids(shapes.crop_tokens, cfg)
    parts = [image, [0] * episode.prompt_text, [1] * sampled[0]]
    for after in sampled[1:]:
        parts += [crop, [0] * shapes.observation_text, [1] * after]
    counts = np.concatenate([np.asarray(part) == 1 for part in parts])
    ids = np.concatenate(parts).astype(np.int32)
    prompt = episode.prompt(shapes)
    return tuple(
        _item(f"{group}", rollout, ids, counts, prompt, cfg)
        for group in range(groups)
        for rollout in range(rollouts)
    )


def seen_items(run: RunFolder, cfg: ModelConfig, *, groups: int) -> tuple[Item, ...]:
    """The episodes that a run kept, the newest first, repeated until there are `groups` groups."""
    archive = Archive(run.trajectories)
    parts = [part for part in archive.parts() if part.startswith("step-")]
    parts.sort(key=lambda part: -int(part.removeprefix("step-")))
    kept = []
    for part in parts:
        kept += [group for group in archive.read(part) if group.trajectories]
        if len(kept) >= groups:
            break
    if not kept:
        raise ValueError(
            f"--lengths {run.path}: its folder has no episodes of a step under trajectories/; name "
            "a run that has made some steps, or leave the flag out"
        )
    items = []
    for number in range(groups):
        for each in kept[number % len(kept)].trajectories:
            first = int(np.argmax(each.sampled)) if each.sampled.any() else len(each.ids)
            items.append(
                _item(f"{number}", each.rollout, np.asarray(each.ids), each.sampled, first, cfg)
            )
    return tuple(items)


def mean_episode(items: Sequence[Item], shapes: RolloutShapes) -> PlannedEpisode:
    """The episode to assume for rollouts, where a mini-batch is known."""
    return PlannedEpisode(
        round(np.mean([item.counting for item in items])),
        round(np.mean([max(0, len(item.pictures) - 1) for item in items])),
        max(0, round(np.mean([item.prompt for item in items])) - shapes.image_tokens),
    )


def _picture_ids(tokens: int, cfg: ModelConfig) -> list[int]:
    """Placeholders of a picture that is about square, and text for the tokens that it leaves."""
    rows = math.isqrt(tokens)
    placeholders = rows * (tokens // rows)
    return [cfg.image_token] * placeholders + [0] * (tokens - placeholders)


def _item(
    record: str,
    rollout: int,
    ids: np.ndarray,
    counts: np.ndarray,
    prompt: int,
    cfg: ModelConfig,
) -> Item:
    """The prompt's picture is the same in all episodes of a record."""
    zeros = np.zeros(len(ids), np.float32)
    trajectory = Trajectory(
        record, rollout, ids, counts, zeros, zeros, (0, 0), (0, 0), (), "answered", None
    )
    pictures = []
    for start, tokens in _blocks(ids == cfg.image_token):
        key = (record, start) if start < prompt else (record, rollout, start)
        pictures.append(SeenPicture(key, _empty_picture(tokens, cfg.vision.processor)))
    return Item(trajectory, tuple(pictures), 0.0, counts.astype(np.float32), prompt)


def _blocks(placeholders: np.ndarray) -> list[tuple[int, int]]:
    """Where each run of placeholders starts, and how long it is."""
    edges = np.flatnonzero(np.diff(placeholders, prepend=False, append=False))
    return [(int(start), int(stop - start)) for start, stop in edges.reshape(-1, 2)]


def _empty_picture(tokens: int, processor: ImageProcessor) -> np.ndarray:
    """A picture of so many tokens, as square as can be, without memory for its pixels."""
    rows = next(rows for rows in range(math.isqrt(tokens), 0, -1) if tokens % rows == 0)
    sides = (rows * processor.factor, tokens // rows * processor.factor, 3)
    return np.broadcast_to(np.uint8(0), sides)


# ---------------------------------------------------------------- laid out


@dataclass(frozen=True)
class PackedMiniBatch:
    """What the packer makes of a mini-batch: micro-batches of rows, of which `crowded` have places
    for all tokens, and of pictures, of which `wide` are one span. `copies` is how often a prompt is
    computed, `keys` with how many keys an attention kernel computes scores for a token."""

    rows: int
    crowded: int
    pictures: int
    wide: int
    filling: Filling
    copies: float
    keys: float

    @property
    def fill(self) -> float:
        return self.filling.tokens / self.filling.all_tokens

    @property
    def windows_fill(self) -> float:
        return self.filling.windows / max(1, self.filling.all_windows)


@lru_cache(maxsize=64)
def filled_rows(items: tuple[Item, ...], row_tokens: int, *, shared: bool) -> tuple[Row, ...]:
    """The rows that hold the items. They depend on nothing else of their shapes."""
    return tuple(fill(items, TrainShapes(row_tokens, 1, 1, 1, 1, shared)))


@lru_cache(maxsize=16)
def layout_of(
    items: tuple[Item, ...],
    shapes: TrainShapes,
    cfg: ModelConfig,
    *,
    shards: int,
    platform: str,
    tensor: int = 1,
) -> PackedMiniBatch:
    """Lays out what one process packs: its items for its shards."""
    rows = filled_rows(items, shapes.row_tokens, shared=shapes.shared)
    groups = len({item.trajectory.record for item in items})
    copies = sum(len(row.groups) for row in rows) / groups if shapes.shared else len(items) / groups
    processor = cfg.vision.processor
    made = lay_out(deal(rows, shards), shapes, processor, image_token=cfg.image_token)
    return PackedMiniBatch(
        rows=len(made.rows),
        crowded=sum(rows.at.shape[1] > shapes.places for rows in made.rows),
        pictures=len(made.bins),
        wide=sum(bins[0].span > shapes.span for bins in made.bins),
        filling=made.filling,
        copies=copies,
        keys=_keys(made, shapes, cfg, platform, tensor),
    )


def _keys(
    made: MiniBatch, shapes: TrainShapes, cfg: ModelConfig, platform: str, tensor: int
) -> float:
    """How many keys the kernel computes scores with for a token, in the mean. Those of GPUs and
    CPUs compute the visible blocks, which are counted as if they had 128 queries and keys."""
    chosen = select(
        cfg.kernel,
        platform=platform,
        length=shapes.row_tokens,
        dtype=cfg.dtype,
        continued=shapes.shared,
    )
    segments = np.concatenate([rows.tokens.segments for rows in made.rows])
    prefix = None
    if shapes.shared:
        prefix = np.concatenate([rows.tokens.prefix for rows in made.rows])
    if chosen.kernel == "splash":
        group = cfg.text.heads // math.lcm(cfg.text.kv_heads, tensor)
        return attention_splash.keys_computed(segments, prefix, group=group)
    if chosen.kernel == "xla" and platform != "cpu":
        return shapes.row_tokens * 9 / 16  # the keys before each eighth of a row, whatever they are
    tokens, more = segments.size, ((0, 0), (0, -shapes.row_tokens % LANES))
    segments, prefix = np.pad(segments, more), None if prefix is None else np.pad(prefix, more)
    needed = needed_blocks(segments, prefix, LANES, LANES, causal=True, xp=np)
    return float(needed.sum()) * LANES**2 / tokens
