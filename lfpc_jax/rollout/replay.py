"""A trajectory run again from what was recorded, and every difference named.

What was sampled is taken from the record; all else is made anew: the prompt, the reading of each
turn, the crops cut from the original, what came back, how it ended, the rewards, and the
log-probabilities by one forward over the whole conversation. So a replay shows a changed picture,
prompt, parser or weight, and how far sampler and forward are apart, by class of token:

- `digits`: of a call's numbers,
- `after_crop`: other tokens of turns that begin after a crop came back,
- `text`: the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import STOP_STRING, Episode, Rules
from lfpc_jax.rollout.sampling import Sampling, logprobs
from lfpc_jax.rollout.stops import completes, stop_table
from lfpc_jax.rollout.vocabulary import allowed_ids, token_bytes
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Record, Trajectory

CLASSES = ("text", "digits", "after_crop")

Score = Callable[[Sequence[Trajectory], Record], Sequence[dict[str, float | None]]]

_BLOCK = 256


@dataclass(frozen=True)
class Replayed:
    """What a replay found: lines that name what came out differently, and by class of token the
    largest differences of log-probability, the sampler's distribution's and the policy's."""

    record: str
    rollout: int
    differences: tuple[str, ...]
    sampled: dict[str, float]
    policy: dict[str, float]


class Replayer:
    """Replays under the settings that the trajectories were made with."""

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
        self._lengths = Buckets((shapes.capacity,))
        self._logprobs = jax.jit(partial(_logprobs, cfg=cfg, sampling=rules.sampling))

    def replay(
        self,
        params: Tree,
        record: Record,
        trajectories: Sequence[Trajectory],
        rewards: Sequence[dict[str, float | None]] = (),
        scored: Score | None = None,
    ) -> list[Replayed]:
        """All trajectories of a record; their rewards too, where `scored` says how to score."""
        opening = self.dialogue.open(record)
        found = []
        for recorded in trajectories:
            episode = Episode(
                opening, recorded.rollout, self.rules, self.dialogue, self.shapes.capacity
            )
            lines = self._relive(episode, recorded)
            sampled = policy = dict.fromkeys(CLASSES, float("nan"))
            if not lines:
                sampled, policy = self._compare(params, episode, recorded)
            found.append(Replayed(record.id, recorded.rollout, tuple(lines), sampled, policy))
        if scored is None or not rewards:
            return found
        again = scored(trajectories, record)
        return [
            Replayed(
                one.record,
                one.rollout,
                (*one.differences, *_reward_lines(old, new)),
                one.sampled,
                one.policy,
            )
            for one, old, new in zip(found, rewards, again, strict=True)
        ]

    def _relive(self, episode: Episode, recorded: Trajectory) -> list[str]:
        """Feeds the recorded turns to a new episode; what came out differently."""
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
        for name in ("end", "answer", "original", "shown"):
            old, new = getattr(recorded, name), getattr(again, name)
            if old != new:
                lines.append(f"{name} was {old!r}, now {new!r}")
        if not np.array_equal(recorded.ids, again.ids):
            at = int(np.argmax(np.asarray(recorded.ids)[: len(again.ids)] != again.ids))
            lines.append(f"ids differ from {at} on")
        elif not np.array_equal(recorded.sampled, again.sampled):
            lines.append("other tokens count as sampled")
        for number, (old_turn, new_turn) in enumerate(zip(recorded.turns, again.turns)):
            if old_turn != new_turn:
                lines.append(f"turn {number} was {old_turn}, now {new_turn}")
        return lines

    def _compare(
        self, params: Tree, episode: Episode, recorded: Trajectory
    ) -> tuple[dict[str, float], dict[str, float]]:
        sampled, policy = self._forward(params, episode)
        classes = token_classes(recorded, self.dialogue)

        def largest(again: np.ndarray, old: np.ndarray) -> dict[str, float]:
            apart = np.abs(again - np.asarray(old))
            return {name: float(apart[mask].max(initial=0)) for name, mask in classes.items()}

        return largest(sampled, recorded.logprobs), largest(policy, recorded.policy_logprobs)

    def _forward(
        self, params: Tree, episode: Episode
    ) -> tuple[Float32[np.ndarray, "T"], Float32[np.ndarray, "T"]]:
        """Both log-probabilities of every id given those before it; the first id's are 0."""
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
        sampled, policy = (np.concatenate([[0], x])[:n].astype(np.float32) for x in both)
        return sampled, policy


def token_classes(trajectory: Trajectory, dialogue: Dialogue) -> dict[str, Bool[np.ndarray, "T"]]:
    """Masks over a trajectory's ids that together cover what was sampled, each token once."""
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
    """Of each id but the first, by blocks of logits."""
    embeddings = qwen.encode_images(params, images, cfg=cfg)
    hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)[0, :-1]
    padding = -len(hidden) % _BLOCK
    blocks = (
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, _BLOCK, hidden.shape[-1]),
        jnp.pad(jnp.asarray(tokens.ids)[0, 1:], (0, padding)).reshape(-1, _BLOCK),
    )

    def one(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = qwen.unembed(params, block[0], cfg=cfg)
        return logprobs(logits, block[1], allowed=allowed, sampling=sampling)

    sampled, policy = jax.lax.map(one, blocks)
    return sampled.reshape(-1)[: len(hidden)], policy.reshape(-1)[: len(hidden)]
