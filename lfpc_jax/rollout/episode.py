"""One episode's bookkeeping on the host: what was sampled, what was forced, and how it ends.

The text of a turn is decoded once, to be read; ids are never encoded from it. What the model
samples is limited in each turn and over all of them; its ids never exceed the capacity.
"""

import copy
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8, UInt32

from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.rollout.dialogue import Dialogue, Opening, ToolReply
from lfpc_jax.rollout.protocol import Action, Answer, Call, Nothing, Refusal
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.trajectory import Crop, End, Trajectory, Turn

STOP_STRING = "</tool_call>"

OLD_LIMIT = (
    "max_tokens, which limited what all turns of an episode sample together, is now two settings: "
    "turn_tokens for one turn and episode_tokens for all of them"
)


@dataclass(frozen=True)
class Rules:
    """What an episode may do. It samples at most `turn_tokens` in a turn and `episode_tokens` over
    all turns (0: as many as its context holds). An episode that either limit cuts off ends with
    `max_tokens`. A turn ends at `</tool_call>`, at <|im_end|> and at any of `stops`. `banned` names
    tokens that may not be sampled, in addition to the placeholders of vision."""

    max_turns: int = 5
    turn_tokens: int = 2048
    episode_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    banned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.max_turns, self.turn_tokens) < 1 or self.episode_tokens < 0:
            raise ValueError(
                f"{self}: max_turns and turn_tokens must be at least 1, episode_tokens at least 0 "
                "(as many as the context holds)"
            )

    @property
    def most_sampled(self) -> int:
        """The most tokens that any episode samples, if its context holds them."""
        return min(self.max_turns * self.turn_tokens, self.episode_tokens or sys.maxsize)


def with_limits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on disk under today's names. The former `max_tokens` limited an episode; limiting
    every turn to as many changes nothing."""
    now = dict(settings)
    if "max_tokens" in now:
        limit = now.pop("max_tokens")
        now |= {"turn_tokens": limit, "episode_tokens": limit}
    return now


def rollout_key(seed: int, record: str, rollout: int) -> UInt32[np.ndarray, "2"]:
    """A random key for each rollout, which depends on nothing that runs beside it."""
    name = f"{seed}\0{record}\0{rollout}".encode("utf-8", "surrogatepass")
    return np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), np.uint32)


@dataclass(eq=False)
class Episode:
    """A rollout in progress. `position` is that of its newest id; `spent` counts the tokens that it
    has sampled."""

    opening: Opening
    rollout: int
    rules: Rules
    dialogue: Dialogue
    capacity: int
    ids: list[int] = field(init=False)
    sampled: list[bool] = field(init=False)
    logprobs: list[float] = field(init=False)
    policy: list[float] = field(init=False)
    position: int = field(init=False)
    spent: int = 0
    versions: list[tuple[int, int]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    crops: list[UInt8[np.ndarray, "_ _ 3"]] = field(default_factory=list)
    answer: str | None = None
    end: End | None = None
    _turn_start: int = field(init=False)
    _request: Ready | Refusal | None = None

    def __post_init__(self) -> None:
        self.ids, self.sampled, self.logprobs, self.policy = [], [], [], []
        self._append(self.opening.ids.tolist())
        self.position = self.opening.position
        self._turn_start = len(self.ids)

    @property
    def budget(self) -> int:
        """How many tokens the current turn may still sample."""
        return min(self._tokens_left, self.capacity - len(self.ids))

    @property
    def _tokens_left(self) -> int:
        """How many the rules still allow, whether or not they fit."""
        in_turn = len(self.ids) - self._turn_start
        return min(self.rules.turn_tokens - in_turn, self._episode_left)

    @property
    def _episode_left(self) -> int:
        return (self.rules.episode_tokens or sys.maxsize) - self.spent

    @property
    def cut(self) -> tuple[Crop, ...]:
        """The crops so far, as the model asked for them."""
        return tuple(turn.crop for turn in self.turns if turn.crop is not None)

    def drew(
        self,
        ids: list[int],
        logprobs: list[float],
        policy: list[float],
        version: int | None = None,
    ) -> None:
        """Adds sampled tokens; `version` is that of the weights that drew them."""
        self.ids += ids
        self.logprobs += logprobs
        self.policy += policy
        self.sampled += [True] * len(ids)
        self.spent += len(ids)
        self.position += len(ids)
        if version is not None and ids:
            before, count = self.versions.pop() if self.versions else (version, 0)
            if before != version:
                self.versions.append((before, count))
                count = 0
            self.versions.append((version, count + len(ids)))

    def close_turn(self, *, stopped: bool) -> Ready | Refusal | None:
        """Reads the turn that has just ended; `stopped` is false if its budget cut it off. Returns
        what must be replied to, or None if the episode has ended."""
        action = self.dialogue.read(self._turn_text())
        request: Ready | Action = action
        if isinstance(action, Call):
            request = self.dialogue.validate(action, self.opening)
        if isinstance(action, Answer):
            self.answer = action.text
        end = self._end_after(request, stopped)
        if end is not None:
            self._finish(end, request)
            return None
        assert isinstance(request, Ready | Refusal)
        self._request = request
        return request

    def _end_after(self, request: Ready | Action, stopped: bool) -> End | None:
        if not stopped:
            return "max_tokens" if self._tokens_left <= 0 else "context_full"
        if isinstance(request, Ready) and request.tool.ends:
            return "proposed"
        if isinstance(request, Answer):
            return "answered"
        if isinstance(request, Nothing):
            return "no_action"
        if len(self.turns) + 1 == self.rules.max_turns:
            return "max_turns"
        return "max_tokens" if self._episode_left <= 0 else None

    def take(
        self, reply: ToolReply
    ) -> tuple[Int32[np.ndarray, "T"], Int32[np.ndarray, "3 T"]] | None:
        """Begins the next turn with a reply, or the first with what follows the opening. Returns
        the ids to write, the pending one first, and their positions; or None if they do not fit, in
        which case the episode has ended without any of them."""
        forced = reply.ids.tolist()
        end = self.dialogue.tokenizer.im_end
        if self._request is not None and self.ids[-1] != end:
            forced = [end, *forced]
        if len(self.ids) + len(forced) >= self.capacity:
            self._finish("context_full", self._request)
            return None
        if self._request is not None:
            self._add_turn(self._request, reply.crop)
        if reply.picture is not None:
            self.crops.append(reply.picture)
        written = np.array([self.ids[-1], *forced], np.int32)
        positions, following = mrope_positions(
            written, reply.grids, self.dialogue.tokenizer.image_pad, self.position
        )
        self._append(forced)
        self.position = following - 1
        self._turn_start = len(self.ids)
        return written, positions

    def going_on(self, dialogue: Dialogue) -> "Episode":
        """A copy that goes on from here by itself, in another dialogue."""
        other = copy.copy(self)
        other.dialogue = dialogue
        other.ids, other.sampled = [*self.ids], [*self.sampled]
        other.logprobs, other.policy = [*self.logprobs], [*self.policy]
        other.versions, other.turns, other.crops = [*self.versions], [*self.turns], [*self.crops]
        return other

    def trajectory(self) -> Trajectory:
        assert self.end is not None, "the episode still runs"
        view = self.opening.view
        return Trajectory(
            record=self.opening.record.id,
            rollout=self.rollout,
            ids=np.array(self.ids, np.int32),
            sampled=np.array(self.sampled, bool),
            logprobs=np.array(self.logprobs, np.float32),
            policy_logprobs=np.array(self.policy, np.float32),
            original=(0, 0) if view is None else view.frame.original,
            shown=(0, 0) if view is None else view.frame.shown,
            turns=tuple(self.turns),
            end=self.end,
            answer=self.answer,
            versions=tuple(self.versions),
        )

    def _append(self, forced: list[int]) -> None:
        self.ids += forced
        self.sampled += [False] * len(forced)
        self.logprobs += [0.0] * len(forced)
        self.policy += [0.0] * len(forced)

    def _turn_text(self) -> str:
        """The current turn without the special token that may have ended it."""
        tokenizer = self.dialogue.tokenizer
        ids = self.ids[self._turn_start :]
        if ids and ids[-1] in (tokenizer.im_end, tokenizer.endoftext):
            ids = ids[:-1]
        return tokenizer.decode(np.array(ids, np.int32))

    def _finish(self, end: End, request: Ready | Action | None) -> None:
        """Ends the episode with a turn that meant `request`, or before any turn began."""
        if end == "proposed" and isinstance(request, Ready):
            self._add_turn(request, request.tool.crop(request.parsed))
        elif request is not None:
            self._add_turn(request, None)
        self.end = end

    def _add_turn(self, request: Ready | Action, crop: Crop | None) -> None:
        match request:
            case Refusal(cause=fault):
                called = True
            case Answer(fault=fault):
                called = bool(fault)
            case _:
                called, fault = isinstance(request, Ready), ""
        text = self._turn_text()
        self.turns.append(Turn(self._turn_start, len(self.ids), text, called, crop, fault))
