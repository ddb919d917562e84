"""A request's body, as a request to the engine: messages and pictures as ids and patches, and the
limits of its episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.requests import Request
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.serve.conversation import Chat, chat_opening, length, looking_opening
from lfpc_jax.serve.limits import Share
from lfpc_jax.serve.pictures import Allowed
from lfpc_jax.serve.refused import Refused, invalid
from lfpc_jax.serve.wanted import Wanted, read
from lfpc_jax.shapes import RolloutShapes


@dataclass(frozen=True)
class ReadRequest:
    """What is asked, the engine's request for it, and the tokens of its prompt."""

    wanted: Wanted
    request: Request
    tokens: int


@dataclass(frozen=True)
class Reader:
    """`dialogue` is that of the mode that looks, `later` has the budget of pictures after the
    first, and `rules` are the most that a client may ask for. `models` says of each name whether it
    looks."""

    dialogue: Dialogue
    later: ImageProcessor
    rules: Rules
    shapes: RolloutShapes
    models: Mapping[str, bool]
    allowed: Allowed

    @property
    def tokenizer(self) -> Tokenizer:
        return self.dialogue.tokenizer

    @property
    def chat(self) -> Chat:
        own = self.dialogue
        return Chat(own.tokenizer, own.chat, own.processor, Toolbox(()))

    @property
    def context(self) -> int:
        """The most ids of a request, prompt and answer."""
        return self.shapes.capacity

    def read(self, body: bytes, own: Share) -> ReadRequest:
        """Raises `Refused`. Memory is taken before it is needed."""
        wanted = read(body, self.models, temperature=self.rules.sampling.temperature)
        fetch = partial(self.allowed.open, take=own.take)
        dialogue: Dialogue = self.dialogue if wanted.looks else self.chat
        try:
            if isinstance(dialogue, Chat):
                messages, tools = wanted.messages, wanted.tools
                opening = chat_opening(dialogue, messages, tools, fetch, self.later)
            else:
                opening = looking_opening(dialogue, wanted.messages, wanted.longest_side, fetch)
        except Refused:
            raise
        except ValueError as error:
            raise invalid(str(error), "messages") from error
        view = opening.view
        own.keep(
            0
            if view is None
            else view.shown.nbytes + 3 * view.original.width * view.original.height
        )
        tokens = length(opening)
        room = min(self.shapes.capacity, len(opening.ids) + self.shapes.own_capacity) - tokens
        if room < 1:
            raise invalid(
                f"the prompt has {tokens} tokens; with an answer, {self.shapes.capacity} fit at "
                "most, of which some must follow the first picture",
                "messages",
                "context_length_exceeded",
            )
        rules = self._rules(wanted, room)
        return ReadRequest(
            wanted, Request(opening, wanted.seed, rules, dialogue, wanted.choices), tokens
        )

    def _rules(self, wanted: Wanted, room: int) -> Rules:
        most = wanted.tokens or room
        turn = min(most, self.rules.turn_tokens, room)
        if not wanted.looks:
            return Rules(max_turns=1, turn_tokens=turn, sampling=wanted.sampling)
        episode = min(most, self.rules.episode_tokens or most)
        return replace(
            self.rules, turn_tokens=turn, episode_tokens=episode, sampling=wanted.sampling
        )
