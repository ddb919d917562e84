"""A model behind an OpenAI-compatible server, asked as an engine is: the crop loop runs here.

The dialogue, the tools, the crops and their alterations, the rules of an episode and what is stored
of it are those of `rollout/`. Only the model's turns come from the server, each as one request with
the whole conversation. What differs from an engine:

- Turns come as text. Their ids are the text encoded anew, which are the sampled ones unless the
  model spelled its text in an unusual way.
- Servers give no log-probabilities here: all are 0.
- A stop string is left out of the text by the server, so `</tool_call>` is put back where it ended
  the turn. Servers that do not say what ended a turn are taken to have stopped there if a call was
  opened; a call that the model itself left unclosed is then closed.
- The server prepares pictures itself. They are sent at the shown size, in whose pixels boxes are
  written; a server that resizes them again makes other prompts. Where it counts another number of
  prompt tokens than its model's folder gives, a warning says so, once.
- Seeds are sent, and mean what the server makes of them.

A question with a turn that came to nothing (no reply, an error, a refusal) has no answer.
"""

import copy
import json
import logging
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.remote.client import Client, Patience, RequestBatch, remedies
from lfpc_jax.remote.completion import Failed, ServerTurn, read_said
from lfpc_jax.remote.messages import data_url, with_pictures
from lfpc_jax.remote.request import Reply
from lfpc_jax.rollout.asked import Alters
from lfpc_jax.rollout.dialogue import Alter, Dialogue
from lfpc_jax.rollout.episode import STOP_STRING, Episode, Rules, rollout_key
from lfpc_jax.rollout.protocol import CALL, Refusal
from lfpc_jax.rollout.skipped import SkippedLog
from lfpc_jax.rollout.tools import Observation, Ready, refuse
from lfpc_jax.trajectory import Group, Record, Trajectory

log = logging.getLogger(__name__)

_REMEDIES = remedies("--endpoint", "--endpoint-seconds") | {
    "HTTP 400": "check that the model's context holds --image-tokens, --max-turns crops of "
    "--crop-tokens and --episode-tokens, and that the server takes as many pictures in a request",
    "HTTP 413": "the pictures are too large for the server: lower --image-tokens, or raise its "
    "limit",
}

_SEEDS = 1 << 31
"""Servers take seeds below this."""
_ENDS = ("<|im_end|>", "<|endoftext|>")
"""Texts at the end of a turn, from servers that do not leave out special tokens."""


@dataclass(frozen=True)
class Endpoint:
    """Where the model is. `url` ends in the API's version; `key_variable` names the environment
    variable that holds the API key, empty for none."""

    url: str
    model: str
    key_variable: str
    patience: Patience


class _Talk:
    """An episode, and its conversation as the server is sent it."""

    def __init__(self, episode: Episode, messages: list[dict[str, Any]]) -> None:
        self.episode, self.messages = episode, messages

    def going_on(self, dialogue: Dialogue) -> "_Talk":
        return _Talk(self.episode.going_on(dialogue), [*self.messages])

    def hear(self, request: Ready | Refusal) -> None:
        """Carries out what the last turn asked for, and adds what comes back."""
        episode = self.episode
        reply = episode.dialogue.reply(request, episode.opening, episode.cut)
        episode.take(reply)
        if isinstance(request, Refusal):
            self.messages += refuse(request)
            return
        assert reply.picture is not None, "a call without a picture"
        told = request.tool.render(Observation(reply.picture, reply.crop))
        self.messages += with_pictures(told, [reply.picture], data_url)


@dataclass(eq=False)
class AskedEndpoint:
    """Rolls out records as an engine does. Groups come as they end. `Patience.concurrent` records
    are asked about at a time, the rollouts of a record one after another."""

    endpoint: Endpoint
    dialogue: Dialogue
    rules: Rules
    _skipped: SkippedLog = field(init=False, default_factory=SkippedLog)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _told: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        to = self.endpoint
        self._client = Client("endpoint", to.url, to.key_variable, to.patience)

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]:
        every = self.run_altered(records, lambda _: {}, rollouts=rollouts, seed=seed)
        with closing(every):
            for _, group in every:
                yield group

    def run_altered(
        self, records: Iterable[Record], alters: Alters, *, rollouts: int, seed: int
    ) -> Generator[tuple[str, Group], None, None]:
        """As `Engine.run_altered`: an altered episode goes on from the first call of its own."""
        patience = self.endpoint.patience
        batch = RequestBatch(patience.batch_seconds)
        asker = _Asker(self, self.dialogue, self.rules, batch, rollouts, seed)
        pool = ThreadPoolExecutor(patience.concurrent, "endpoint")
        try:
            futures = {pool.submit(asker.groups, one, alters(one)): one for one in records}
            for future in as_completed(futures):
                try:
                    groups = future.result()
                except (Unusable, ValueError) as error:
                    self._skipped.tell([(futures[future].id, str(error))])
                    continue
                yield from groups
        finally:
            batch.over.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, body: Mapping[str, Any], batch: RequestBatch) -> ServerTurn:
        return self._client.ask({"model": self.endpoint.model, **body}, self._read, batch)

    def explained(self, failed: Failed) -> str:
        return self._client.explained(failed, self.endpoint.model, _REMEDIES)

    def compare(self, ours: int, theirs: int | None) -> None:
        """Warns, once, of a prompt that has another length on the server."""
        with self._lock:
            if theirs in (None, ours) or self._told:
                return
            self._told = True
        log.warning(
            "the server counts %d tokens of a prompt that has %d by the folder given as --model: "
            "it resizes pictures, has another chat template, or another model. Boxes may not mean "
            "what they should; check its limits of pixels (of vLLM --mm-processor-kwargs), and "
            "--model", theirs, ours,
        )  # fmt: skip

    def _read(self, reply: Reply) -> ServerTurn:
        said = read_said(reply)
        if any(map(self._client.repeats_key, (said.text, *(t for c in said.calls for t in c)))):
            raise Failed("key repeated", ": the turn holds the API key", again=False, alike=False)
        return said


@dataclass(frozen=True, eq=False)
class _Asker:
    """One run of an `AskedEndpoint`: how episodes go, and the batch that its requests are of."""

    asked: AskedEndpoint
    dialogue: Dialogue
    rules: Rules
    batch: RequestBatch
    rollouts: int
    seed: int

    def groups(self, record: Record, alters: Mapping[str, Alter]) -> list[tuple[str, Group]]:
        """A record's group, and its altered ones by name. Raises `Unusable` and ValueError as
        `Dialogue.open` does."""
        opening = self.dialogue.open(record)
        shown = [] if opening.view is None else [opening.view.shown]
        opened = with_pictures(self.dialogue.messages(record), shown, data_url)
        every: dict[str, list[Trajectory]] = {name: [] for name in ("", *alters)}
        for number in range(self.rollouts):
            episode = Episode(opening, number, self.rules, self.dialogue, sys.maxsize)
            for name, trajectory in self._rollout(_Talk(episode, [*opened]), alters).items():
                every[name].append(trajectory)
        return [(name, Group(record, tuple(episodes))) for name, episodes in every.items()]

    def _rollout(self, talk: _Talk, alters: Mapping[str, Alter]) -> dict[str, Trajectory]:
        """The episode, and its altered ones by name. Without a call, all of them are the same."""
        try:
            self.batch.refuse_if_gone()
            request = self._turn(talk)
            while isinstance(request, Refusal):
                talk.hear(request)
                request = self._turn(talk)
        except Failed as failed:
            return dict.fromkeys(("", *alters), self._unanswered(talk.episode, failed))
        if request is None:
            return dict.fromkeys(("", *alters), talk.episode.trajectory())
        others = {
            name: talk.going_on(replace(self.dialogue, alter=alter))
            for name, alter in alters.items()
        }
        return {name: self._rest(one, request) for name, one in ({"": talk} | others).items()}

    def _rest(self, talk: _Talk, request: Ready | Refusal | None) -> Trajectory:
        try:
            while request is not None:
                talk.hear(request)
                request = self._turn(talk)
        except Failed as failed:
            return self._unanswered(talk.episode, failed)
        return talk.episode.trajectory()

    def _turn(self, talk: _Talk) -> Ready | Refusal | None:
        """One turn of the model. Returns what must be replied to, None if the episode ended."""
        episode, budget = talk.episode, talk.episode.budget
        sampling = self.rules.sampling
        [key, _] = rollout_key(self.seed, episode.opening.record.id, episode.rollout).tolist()
        body = {
            "messages": talk.messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": (key + len(episode.turns)) % _SEEDS,
            "max_tokens": budget,
            "stop": [STOP_STRING],
        }
        said = self.asked.ask(body, self.batch)
        self.asked.compare(len(episode.ids), said.prompt)
        text, cut_off = _written(said), said.cut_off
        tokenizer = self.dialogue.tokenizer
        if token := tokenizer.reserved_in(text):
            why = f": the turn spells the special token {token}"
            raise Failed("unusable turn", why, again=False, alike=False)
        ids = tokenizer.encode(text).tolist()
        if not cut_off and not text.endswith(STOP_STRING):
            ids.append(tokenizer.im_end)
        if len(ids) > budget:  # the server did not keep to it
            ids, cut_off = ids[:budget], True
        episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
        request = episode.close_turn(stopped=not cut_off)
        if cut_off:  # fewer tokens than were allowed: the server's context is full
            fewer = said.sampled is not None and said.sampled < budget
            episode.end = "context_full" if fewer else "max_tokens"
        talk.messages.append({"role": "assistant", "content": text})
        return request

    def _unanswered(self, episode: Episode, failed: Failed) -> Trajectory:
        """An episode with a turn that came to nothing, which is never stored."""
        nothing = copy.copy(episode)
        nothing.end, nothing.answer = "no_action", None
        return replace(nothing.trajectory(), unanswered=self.asked.explained(failed))


def _written(said: ServerTurn) -> str:
    """The turn as the model wrote it, up to where an engine would have stopped it."""
    text = said.text.encode(errors="replace").decode()  # JSON may hold half a character
    for end in _ENDS:
        text = text.removesuffix(end)
    if said.calls and CALL not in text:
        name, arguments = said.calls[0]
        return f'{text}{CALL}{{"name": {json.dumps(name)}, "arguments": {arguments}}}{STOP_STRING}'
    before, closed, _ = text.partition(STOP_STRING)
    opened = CALL in text and not said.cut_off
    if closed or said.stop == STOP_STRING or (opened and said.stop is None):
        return before + STOP_STRING
    return text
