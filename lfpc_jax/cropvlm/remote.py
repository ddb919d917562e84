"""A target model behind an OpenAI-compatible server: vLLM, SGLang, OpenAI and others.

It is asked what a local target is asked: the same messages, and the same pictures within the same
budgets, of which a token is 28 x 28 pixels, as for Qwen2.5-VL (324 tokens have the area of a square
of 504). Pictures are sent as PNG, without loss. What a server does with them is its own affair.

At temperature 0 nothing is drawn, so the seed of a run changes no answer: every request has the
same. Answers are kept on disk, by all that decides them, and are not asked for again; failures are
never kept. `remote/client.py` says how patiently the server is asked. A request that came to
nothing is a fault and no answer: no connection, no reply in time, an error, a refusal, no text. A
text that was cut off at `answer_tokens` is the model's own answer and is scored as it stands, as a
local target's is; empty, if nothing but thoughts was written. Servers give no log-likelihoods of a
text that they did not write.

`answers` never raises for what the server does. `check` does; call it before anything depends on
the target. The API key is read from the environment. It appears in no message, fault or file, and
neither does any text of the server but its answers. An answer that repeats the key is a fault.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Conversation, Pixels, Showing, read_answer
from lfpc_jax.cropvlm.target import NOT_SHOWN, Likelihood, Question, Said
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.remote.client import OUT_OF_TIME, Client, RequestBatch, remedies
from lfpc_jax.remote.completion import Failed, how_it_ended, read_completion
from lfpc_jax.remote.messages import data_url, png, with_pictures
from lfpc_jax.remote.request import Reply, check_url
from lfpc_jax.remote.store import Store
from lfpc_jax.rewards.judge import Bar, no_bar
from lfpc_jax.rollout.dialogue import Dialogue, View
from lfpc_jax.trajectory import Box4, Picture, Record

_SEED = 0
_TOGETHER = 256
"""`Patience.batch_seconds` is for so many answers; a call for more has proportionally more."""
_CHARACTERS = 256
"""No token is longer, so an answer has at most so many times its tokens."""
_REMEDIES = remedies("target.url", "target.patience.reply_seconds") | {
    "HTTP 400": "check that the model takes as many pictures in a message as are shown, and as "
    "many tokens",
    "HTTP 413": "the pictures are too large for the server: lower target.image_tokens and "
    "target.crop_tokens, or raise its limit",
}

logger = logging.getLogger(__name__)


def check_settings(settings: TargetSettings, flag: str = "") -> None:
    """Raises ValueError for what cannot be asked of a server. `flag` is what stands before the name
    of a setting where a command sets it."""
    check_url(settings.url, "target.url")
    settings.patience.check("target.patience")
    if settings.presentation == "zoom":
        raise ValueError(
            f"target.presentation zoom with target.url {settings.url}: the zoom tool's "
            "conversation is for models that were trained on it here; set "
            f"{flag}target.presentation both"
        )
    if not settings.cache:
        raise ValueError(
            f"target.cache is empty with target.url {settings.url}: a server's answers are kept, "
            f"so that none is paid for twice; name a folder, as {flag}target.cache FOLDER"
        )


class TargetFailed(ValueError):
    """The target gives no answers. The message says where it is, why, and what to do."""


class RemoteTarget:
    """Any number of processes may share the folder in which answers are kept. `bar` shows the
    progress of a call."""

    dialogue: Dialogue

    def __init__(self, settings: TargetSettings, bar: Bar = no_bar) -> None:
        check_settings(settings)
        self.settings, self._bar = settings, bar
        self._client = Client("target", settings.url, settings.key_variable, settings.patience)
        self._store = Store(settings.cache, "answer", str)
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[str]] = {}
        self.dialogue = showing_without_text(settings)

    def __str__(self) -> str:
        return f"{self._client.url}, model {self.settings.model}"

    @property
    def identity(self) -> dict[str, Any]:
        """Where it is and how it is asked; the address holds no password (see `check_url`)."""
        names = ("url", "model", "presentation", "image_tokens", "crop_tokens", "answer_tokens")
        asked = {name: getattr(self.settings, name) for name in names}
        return asked | {"prompt": self._showing.wording}

    def check(self) -> None:
        """Asks for the colour of a red picture, within `reply_seconds` and never from the cache.
        Raises `TargetFailed` if there is no answer, or if it does not say red."""
        batch = RequestBatch(self.settings.patience.reply_seconds, patient=False)
        red = np.full((224, 224, 3), (255, 0, 0), np.uint8)
        picture = Picture(data=png(red))
        record = Record(
            "check", "What colour is this picture? Answer with one word.", "red", picture
        )
        conversation = _Shown(self._showing, record).conversation((0.0, 0.0, 112.0, 112.0))
        try:
            answer = self._ask(conversation, batch)
        except Failed as failed:
            raise TargetFailed(f"the target gives no answers: {self._explained(failed)}") from None
        if "red" not in answer.casefold():
            raise TargetFailed(
                f"the target does not see its pictures: {self} was asked for the colour of a red "
                f"one, and its {len(answer)} characters do not say red; take a vision model, or "
                "check how the server passes pictures on"
            )

    # ---------------------------------------------------------------- answers

    def answers(
        self, questions: Sequence[Question], *, seed: int = 0
    ) -> Iterator[tuple[Said, ...]]:
        """For each question, in order, an answer for each of its boxes. What is in the cache, or
        asked twice, costs one request at most. `seed` changes nothing."""
        self._store.refresh()
        count, showing = sum(len(question.boxes) for question in questions), self._showing
        batch = RequestBatch(self.settings.patience.batch_seconds * max(1, -(-count // _TOGETHER)))
        jobs = []
        for question in questions:
            shown = _Shown(showing, question.record)
            jobs += [partial(self._said, shown, box, batch) for box in question.boxes]
        with self._bar("asking the target", count) as advance:
            said = self._client.side_by_side(jobs, batch, advance)
            for question in questions:
                yield tuple(self._told(next(said)) for _ in question.boxes)

    def likelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[Likelihood, ...]]:
        raise ValueError(
            f"target.url {self.settings.url}: servers give no log-likelihoods of a text that they "
            "did not write; take a local target, as target.path MODEL, or reward accuracy"
        )

    @property
    def _showing(self) -> Showing:
        assert isinstance(self.dialogue, Showing), self.dialogue
        return self.dialogue

    def _said(self, shown: "_Shown", box: Box4 | None, batch: RequestBatch) -> Said:
        try:
            conversation = shown.conversation(box)
        except (Unusable, ValueError) as error:
            return Said(fault=f"{NOT_SHOWN}: {error}")
        key = self._key(conversation)
        with self._lock:
            kept = self._store.get(key)
            if kept is not None:
                return Said(read_answer(kept), cached=True)
            theirs = self._under_way.get(key)
            if theirs is None:
                ours = self._under_way[key] = Future[str]()
        if theirs is not None:
            try:
                return Said(read_answer(theirs.result(max(batch.left, 0))), cached=True)
            except TimeoutError:
                raise Failed(OUT_OF_TIME) from None
        try:
            batch.refuse_if_gone()
            answer = self._ask(conversation, batch)
            self._keep(key, answer, shown.record)
            ours.set_result(answer)
        except BaseException as error:
            ours.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._under_way[key]
        return Said(read_answer(answer))

    def _ask(self, conversation: Conversation, batch: RequestBatch) -> str:
        messages = with_pictures(conversation.messages, conversation.pictures, data_url)
        body = self._parameters() | {"messages": messages}
        return self._client.ask(body, self._read, batch)

    def _read(self, reply: Reply) -> str:
        if how_it_ended(reply) == "declined":
            raise Failed("declined", ": the model would not answer", again=False, alike=False)
        answer = read_completion(reply, empty_if_cut_off=True).content
        if len(answer) > _CHARACTERS * self.settings.answer_tokens:
            raise Failed("too long", f": {len(answer)} characters", again=False, alike=False)
        if self._client.repeats_key(answer):
            raise Failed("key repeated", ": the answer holds the API key", again=False, alike=False)
        return answer.encode(errors="replace").decode()  # JSON may hold half a character

    def _parameters(self) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "temperature": 0,
            "seed": _SEED,
            "max_tokens": self.settings.answer_tokens,
        }

    def _key(self, conversation: Conversation) -> str:
        """A digest of all that decides an answer. Of pictures these are the pixels: another
        version of the PNG encoder asks nothing again."""
        asked = {"url": self._client.url, **self._parameters()}
        asked["messages"] = with_pictures(conversation.messages, conversation.pictures, _digest)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def _keep(self, key: str, answer: str, record: Record) -> None:
        try:
            self._store.add(key, answer, {"record": record.id, "question": record.question})
        except OSError as error:
            folder = self.settings.cache
            logger.warning("target: an answer could not be kept in %s: %s", folder, error)

    def _told(self, said: Said | Failed) -> Said:
        if isinstance(said, Said):
            return said
        return Said(fault=f"{said.cause}: {self._explained(said)}")

    def _explained(self, failed: Failed) -> str:
        return self._client.explained(failed, self.settings.model, _REMEDIES)


class _Shown:
    """A record, whose picture is opened once for all its boxes."""

    def __init__(self, showing: Showing, record: Record) -> None:
        self.record, self._showing = record, showing
        self._lock = threading.Lock()
        self._view: tuple[View | None] | None = None

    def conversation(self, box: Box4 | None) -> Conversation:
        with self._lock:
            if self._view is None:
                self._view = (self._showing.view(self.record),)
        return self._showing.conversation(self.record, box, *self._view)


def showing_without_text(settings: TargetSettings) -> Showing:
    """What a target on a server is shown, whose tokenizer nobody here has."""
    tokenizer = _NoTokenizer()
    return Showing.within(settings, tokenizer, ChatTemplate("", tokenizer), ImageProcessor())


class _NoTokenizer(Tokenizer):
    """Stands for the server's. Pictures and messages are made without one."""

    __eq__, __hash__, __repr__ = object.__eq__, object.__hash__, object.__repr__

    def __init__(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ValueError(
            "the target's tokenizer is on its server; take a local target, as target.path MODEL"
        )


def _digest(picture: Pixels) -> str:
    return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()
