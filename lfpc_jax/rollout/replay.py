"""Recorded trajectories, run again and compared with their record.

Only the sampled ids are taken from the record. Everything else is computed again: the prompt, how
each turn is parsed, the crops, the replies, how the episode ended, the rewards, and the
log-probabilities, by one forward pass over the whole conversation. So a replay shows where a
picture, the prompt, the parser or the weights have changed since. Of a crop network's episode the
box and its crop are computed again, but the answer is the target model's and is taken from the
record. A replay also measures the difference
between the log-probabilities of the sampler and of a forward pass, by class of token:

- `digits`: tokens of a call, or of a crop network's box, that hold a digit,
- `after_crop`: other tokens of turns that begin after a crop came back,
- `text`: all others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32

from lfpc_jax.arrays import Tree
from lfpc_jax.model import qwen
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.processing.batch import collate
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.episode import STOP_STRING, Episode, Rules
from lfpc_jax.rollout.sampling import Sampling, logprobs
from lfpc_jax.rollout.stops import completes, stop_table
from lfpc_jax.rollout.vocabulary import allowed_ids, token_bytes
from lfpc_jax.shapes import RolloutShapes, geometric
from lfpc_jax.trajectory import Record, Trajectory

CLASSES = ("text", "digits", "after_crop")

ComputeRewards = Callable[[Sequence[Trajectory], Record], Sequence[dict[str, float | None]]]
"""The rewards of a record's trajectories by name, one mapping each, in order."""

_BLOCK = 256
_SHORTEST = 1024
"""Tokens: shorter conversations are padded to as many."""


@dataclass(frozen=True)
class Replayed:
    """One trajectory's replay: `differences` are lines that name what came out differently.

    `sampler` and `policy` hold, by class of token, the largest absolute difference of the
    log-probabilities in the distribution sampled from and in the policy. They are NaN where none
    were computed: without weights, or where the conversation itself came out differently.
    """

    record: str
    rollout: int
    differences: tuple[str, ...]
    sampler: dict[str, float]
    policy: dict[str, float]


class Replayer:
    """Replays trajectories under the settings that they were made with."""

    def __init__(
        self, cfg: ModelConfig, dialogue: Dialogue, shapes: RolloutShapes, rules: Rules
    ) -> None:
        self.cfg, self.dialogue, self.shapes, self.rules = cfg, dialogue, shapes, rules
        tokenizer, vocabulary = dialogue.tokenizer, cfg.text.vocab
        self._allowed = allowed_ids(tokenizer, vocabulary, banned=rules.banned)
        self._stops = stop_table(
            token_bytes(tokenizer, vocabulary),
            (STOP_STRING, *rules.stops),
            (tokenizer.im_end, tokenizer.endoftext),
        )
        self._lengths = geometric(min(_SHORTEST, shapes.capacity), shapes.capacity)
        self._logprobs = jax.jit(partial(_logprobs, cfg=cfg, sampling=rules.sampling))

    def replay(
        self,
        params: Tree | None,
        record: Record | Opening,
        trajectories: Sequence[Trajectory],
        rewards: Sequence[dict[str, float | None]] = (),
        compute: ComputeRewards | None = None,
        *,
        version: int | None = None,
    ) -> list[Replayed]:
        """Replays all trajectories of a record. Without `params` no log-probabilities are computed,
        nor, where the `version` of these is given, for episodes that others drew in part.
        With `compute` the recorded `rewards` are compared with those that it gives now.

        Raises what `Dialogue.open` raises for a record whose prompt cannot be made."""
        opening = record if isinstance(record, Opening) else self.dialogue.open(record)
        replays = [
            self._replay(params if _drawn_by(recorded, version) else None, opening, recorded)
            for recorded in trajectories
        ]
        if compute is None or not rewards:
            return replays
        return [
            replace(replay, differences=(*replay.differences, *_reward_lines(old, new)))
            for replay, old, new in zip(
                replays, rewards, compute(trajectories, opening.record), strict=True
            )
        ]

    def _replay(self, params: Tree | None, opening: Opening, recorded: Trajectory) -> Replayed:
        capacity = self.shapes.capacity
        episode = Episode(opening, recorded.rollout, self.rules, self.dialogue, capacity)
        lines = self._relive(episode, recorded)
        sampler = policy = dict.fromkeys(CLASSES, float("nan"))
        if params is not None and not lines:
            sampler, policy = self._compare(params, episode, recorded)
        return Replayed(opening.record.id, recorded.rollout, tuple(lines), sampler, policy)

    def _relive(self, episode: Episode, recorded: Trajectory) -> list[str]:
        """Feeds the recorded turns to a new episode, and names what comes out differently."""
        for turn in recorded.turns:
            if episode.end is not None:
                return [f"ended ({episode.end}) before turn {turn.start}:{turn.stop}"]
            if turn.start != len(episode.ids):
                return [f"turn begins at {turn.start}, now at {len(episode.ids)}"]
            span = slice(turn.start, turn.stop)
            arrays = (recorded.ids, recorded.logprobs, recorded.policy_logprobs)
            ids, logprobs, policy = (np.asarray(array[span]).tolist() for array in arrays)
            episode.drew(ids, logprobs, policy)
            request = episode.close_turn(stopped=completes(self._stops, ids))
            if request is not None:
                episode.take(self.dialogue.reply(request, episode.opening, episode.cut))
        if episode.end is None:
            return ["the last turn did not end the episode"]
        again = episode.trajectory()
        lines = []
        for name in ("end", *(["answer"] if self.dialogue.answers else []), "original", "shown"):
            old, new = getattr(recorded, name), getattr(again, name)
            if old != new:
                lines.append(f"{name} was {old!r}, now {new!r}")
        if not np.array_equal(recorded.ids, again.ids):
            lines.append(f"ids differ from {_first_difference(recorded.ids, again.ids)} on")
        elif not np.array_equal(recorded.sampled, again.sampled):
            lines.append("other tokens count as sampled")
        for number, (old_turn, new_turn) in enumerate(zip(recorded.turns, again.turns)):
            if old_turn != new_turn:
                lines.append(f"turn {number} was {old_turn}, now {new_turn}")
        return lines

    def _compare(
        self, params: Tree, episode: Episode, recorded: Trajectory
    ) -> tuple[dict[str, float], dict[str, float]]:
        sampler, policy = self._forward(params, episode)
        classes = token_classes(recorded, self.dialogue)

        def largest(now: np.ndarray, before: np.ndarray) -> dict[str, float]:
            distance = np.abs(now - np.asarray(before))
            return {name: float(distance[mask].max(initial=0)) for name, mask in classes.items()}

        return largest(sampler, recorded.logprobs), largest(policy, recorded.policy_logprobs)

    def _forward(
        self, params: Tree, episode: Episode
    ) -> tuple[Float32[np.ndarray, "T"], Float32[np.ndarray, "T"]]:
        """The sampler's and the policy's log-probability of every id, given the ids before it; the
        first id has 0."""
        processor = self.dialogue.processor
        view = episode.opening.view
        pictures = [*([] if view is None else [view.shown]), *episode.crops]
        windows = (*self.shapes.image_windows.sizes, *self.shapes.crop_windows.sizes)
        tokens, images = collate(
            [np.array(episode.ids, np.int32)],
            [pictures],
            processor=processor,
            image_token=self.cfg.image_token,
            length=self._lengths.fit(len(episode.ids), "ids of a trajectory"),
            windows=max(windows),
            images=max(len(pictures), self.rules.max_turns),
        )
        both = self._logprobs(params, tokens, images, jnp.asarray(self._allowed))
        n = len(episode.ids)
        sampler, policy = (np.concatenate([[0], x])[:n].astype(np.float32) for x in both)
        return sampler, policy


def _drawn_by(recorded: Trajectory, version: int | None) -> bool:
    return version is None or not recorded.versions or recorded.drawn_by(version)


def _first_difference(before: np.ndarray, now: np.ndarray) -> int:
    """The index at which two sequences first differ; if there is none, the shorter one's length."""
    both = min(len(before), len(now))
    unequal = np.flatnonzero(before[:both] != now[:both])
    return int(unequal[0]) if len(unequal) else both


def token_classes(trajectory: Trajectory, dialogue: Dialogue) -> dict[str, Bool[np.ndarray, "T"]]:
    """Masks over a trajectory's ids by class; every sampled token is in exactly one of them."""
    masks = {name: np.zeros(len(trajectory.ids), bool) for name in CLASSES}
    seen_crop = False
    for turn in trajectory.turns:
        for place in range(turn.start, turn.stop):
            written = dialogue.tokenizer.decode(trajectory.ids[place : place + 1])
            number = turn.call and any(character.isdigit() for character in written)
            name = "digits" if number else "after_crop" if seen_crop else "text"
            masks[name][place] = True
        seen_crop |= turn.crop is not None
    return masks


def _reward_lines(old: dict[str, float | None], new: dict[str, float | None]) -> list[str]:
    return [
        f"reward {name} was {old.get(name)}, now {new.get(name)}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]


def _logprobs(
    params: Tree, tokens: Any, images: Any, allowed: Any, *, cfg: ModelConfig, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """The log-probability of each id but the first, in the sampler's distribution and in the
    policy. Only the logits of a block of ids are in memory at a time."""
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)[0, :-1]
    padding = -len(hidden) % _BLOCK
    blocks = (
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, _BLOCK, hidden.shape[-1]),
        jnp.pad(jnp.asarray(tokens.ids)[0, 1:], (0, padding)).reshape(-1, _BLOCK),
    )

    def in_block(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = qwen.unembed(params, block[0], cfg=cfg)
        return logprobs(logits, block[1], allowed=allowed, sampling=sampling)

    sampler, policy = jax.lax.map(in_block, blocks)
    return sampler.reshape(-1)[: len(hidden)], policy.reshape(-1)[: len(hidden)]
