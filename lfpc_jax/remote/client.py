"""Asks a chat server: with patience, side by side, and never for ever.

Failed requests are repeated after a wait that doubles, varies at random, and is never shorter than
the server's Retry-After. Refusals (any other 4xx, a redirect) are not repeated. No request waits
past the limit of its batch, and the rest of a batch is not asked once many requests in a row have
failed. The API key is read from the environment and appears in no message.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from lfpc_jax.remote.completion import Failed
from lfpc_jax.remote.request import NoReply, Reply, post

_IN_A_ROW = 16
"""After so many failed requests in a row the server is taken to be gone."""
NOT_ASKED = "not asked"
"""The cause of the failures of what was left then."""
OUT_OF_TIME = "out of time"

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """`reply_seconds` limits one request, `batch_seconds` one batch with its retries."""

    concurrent: int = 16
    attempts: int = 5
    first_wait: float = 1.0
    reply_seconds: float = 30.0
    batch_seconds: float = 300.0

    def check(self, whose: str) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{whose}: {name} is {value}; it must be above 0")


class RequestBatch:
    """What the requests of one batch share: its deadline, and how many in a row have failed and
    why. One that is not patient does not wait for a server that is not there."""

    def __init__(self, seconds: float, *, patient: bool = True) -> None:
        self.deadline, self.patient = time.monotonic() + seconds, patient
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._failed, self._last = 0, ""

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def refuse_if_gone(self) -> None:
        """Raises `Failed` once so many requests failed that the rest is given up."""
        with self._lock:
            gone = self._last if self._failed >= _IN_A_ROW else ""
        if gone:
            why = f": the {_IN_A_ROW} before it all came to nothing, the last with {gone}"
            raise Failed(NOT_ASKED, why, remedy=gone)

    def ended(self, failure: Failed | None) -> None:
        """A request got its answer, or was given up after this failure."""
        with self._lock:
            if failure is None:
                self._failed = 0
            elif failure.alike:
                self._failed += 1
                self._last = failure.cause


class Client:
    """A server's chat completions, at `base_url`, which ends in the API's version.
    `key_variable` names the environment variable that holds the API key; empty for none. `whose` is
    the name that messages and threads begin with.
    """

    def __init__(self, whose: str, base_url: str, key_variable: str, patience: Patience) -> None:
        self.url, self._whose, self._patience = completions(base_url), whose, patience
        self._variable = key_variable
        self._key = _read_key(whose, key_variable) if key_variable else ""

    def ask(self, body: Mapping[str, Any], read: Callable[[Reply], T], batch: RequestBatch) -> T:
        """What `read` makes of the reply, after repeated attempts if needed. Raises `Failed`, with
        the number of attempts among its details."""
        data, patience = json.dumps(body).encode(), self._patience
        pause, attempt = patience.first_wait, 0
        failure = Failed(OUT_OF_TIME, " before its turn", alike=False)
        while attempt < patience.attempts and batch.left > 0 and not batch.over.is_set():
            attempt += 1
            try:
                answer = read(self._post(data, min(batch.left, patience.reply_seconds)))
            except Failed as failed:
                failure = failed
                delay = max(failed.wait, pause * random.SystemRandom().uniform(0.5, 1.5))
                busy = failed.again and (batch.patient or failed.status is not None)
                if attempt == patience.attempts or not busy or delay > batch.left:
                    break
                batch.over.wait(delay)
                pause *= 2
            else:
                batch.ended(None)
                return answer
        batch.ended(failure)
        failure.detail += f" (attempt {attempt})" if attempt else ""
        raise failure

    def _post(self, body: bytes, seconds: float) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            return post(self.url, headers, body, seconds)
        except NoReply as error:
            raise Failed(error.cause, error.detail) from None

    def repeats_key(self, text: str) -> bool:
        return bool(self._key) and self._key in text

    def side_by_side(
        self, jobs: Sequence[Callable[[], T]], batch: RequestBatch, advance: Callable[[int], None]
    ) -> Iterator[T | Failed]:
        """What every job returns, or the `Failed` that it raised, in the order of the jobs. What is
        not done when the batch's time is over has failed."""
        if not jobs:
            return
        pool = ThreadPoolExecutor(min(self._patience.concurrent, len(jobs)), self._whose)
        futures = [pool.submit(job) for job in jobs]
        told = 0
        try:
            with suppress(TimeoutError):
                for _ in as_completed(futures, timeout=max(batch.left, 0)):
                    advance(1)
                    while told < len(futures) and futures[told].done():
                        result = _result(futures[told])
                        told += 1
                        yield result
        finally:
            batch.over.set()
            pool.shutdown(wait=False, cancel_futures=True)
        for future in futures[told:]:
            if future.done():
                result = _result(future)
                yield result
            else:
                yield Failed(OUT_OF_TIME)

    def explained(self, failed: Failed, model: str, remedies: Mapping[str, str]) -> str:
        """A failure with where it was and what to do; `{key}` in a remedy becomes where the API key
        is."""
        variable = self._variable
        key = f"in the environment variable {variable}" if variable else "(none was sent)"
        advice = remedies.get(failed.remedy, "").format(key=key)
        end = f"; {advice}" if advice else ""
        return f"{self.url}, model {model}: {failed.cause}{failed.detail}{end}"


def completions(base_url: str) -> str:
    """The address that is asked."""
    return base_url.rstrip("/") + "/chat/completions"


def remedies(setting: str, seconds: str) -> dict[str, str]:
    """What to do about the causes that any server may give, by the names of the settings of its
    address and of its patience."""
    return {
        "HTTP 401": "check the API key {key}",
        "HTTP 403": "check the API key {key}, and what it may use",
        "HTTP 404": f"check that {setting} ends in the API's version, as http://host:8000/v1 does, "
        "and that the server has this model",
        "no connection": "check that the server runs there",
        "no reply": f"check the server, or give it more time with {seconds}",
    }


def _result(future: Future[T]) -> T | Failed:
    if future.cancelled():
        return Failed(OUT_OF_TIME, " before its turn")
    error = future.exception()
    if isinstance(error, Failed):
        return error
    return future.result()


def _read_key(whose: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(
            f"{whose}: the environment variable {variable} holds no API key (it is empty, or not "
            "printable ASCII); put the key there, or set key_variable to '' if none is needed"
        )
    return key
