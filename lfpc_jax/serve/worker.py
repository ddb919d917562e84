"""The thread that the engine runs in, and what goes to it and comes from it.

Requests are admitted while fewer are in hand than slots and places of the queue; further ones are
refused at once. Events of a turn reach the event loop together. If the engine fails, the requests
in hand are told so, and the next begin with an empty cache. All other threads only add to `_asked`
and `_given_up`.

Programs that the engine can do without at first are compiled in a thread beside it, and used once
all are there. If one cannot be compiled, the log says so and none of them is used.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.preparing import Rest
from lfpc_jax.rollout.requests import Request, RequestRun
from lfpc_jax.rollout.said import said
from lfpc_jax.serve.refused import Refused, invalid
from lfpc_jax.trajectory import End, Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drew:
    """Tokens of the current turn."""

    choice: int
    ids: list[int]


@dataclass(frozen=True, eq=False)
class Replied:
    """A turn that called the tool is over; `crop` is what came back, if it did."""

    choice: int
    turn: Turn
    crop: UInt8[np.ndarray, "_ _ 3"] | None
    image: str = ""
    """The crop as a data URL, which is made where there is time for it."""


@dataclass(frozen=True)
class Over:
    """An episode has ended: why, with which answer, after how many ids in all and sampled."""

    choice: int
    end: End
    answer: str | None
    ids: int
    sampled: int


@dataclass(frozen=True)
class Unanswered:
    """The request will not be answered."""

    why: Refused


Event = Drew | Replied | Over | Unanswered


@dataclass(eq=False)
class Ticket:
    """A request in hand. Its events are read in the event loop."""

    request: Request
    events: "asyncio.Queue[Event]" = field(default_factory=asyncio.Queue)
    told: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """For each choice, how many of its ids, turns and crops were sent. Only the worker's thread
    uses it."""


class Worker:
    def __init__(self, engine: Engine, queue: int, rest: Rest | None = None) -> None:
        self.engine, self.most = engine, engine.shapes.slots + queue
        self._rest, self._compiled = rest, False
        self.in_hand: set[Ticket] = set()
        self.running = 0
        self.restarts = 0
        self.failing = False
        """Whether the engine has failed and answered nothing since."""
        self._asked: deque[Ticket] = deque()
        self._given_up: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._over = False
        self._tickets: dict[Request, Ticket] = {}
        self._events: list[tuple[Ticket, Event]] = []
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._compiler = threading.Thread(target=self._compile, name="compiler", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ in the event loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()
        self._compiler.start()

    def stop(self) -> None:
        with self._wake:
            self._over = True
            self._wake.notify()
        self._thread.join()
        if self._rest is not None:
            self._rest.stop()
        self._compiler.join()

    @property
    def programs_left(self) -> int:
        """How many programs are still to be compiled."""
        rest = self._rest  # the engine's thread forgets it
        return 0 if rest is None else rest.left

    def check_room(self) -> None:
        """Raises `Refused` if no request can be taken now."""
        if len(self.in_hand) >= self.most:
            raise Refused(
                429,
                f"{len(self.in_hand)} requests are in hand, which is all that fit; try again",
                code="server_busy",
                wait=1,
            )

    @contextmanager
    def answering(self, request: Request) -> Iterator[Ticket]:
        """A request's ticket. When the block is left before its end, it is given up."""
        self.check_room()
        ticket = Ticket(request)
        self.in_hand.add(ticket)
        self._tell(self._asked, ticket)
        try:
            yield ticket
        finally:
            self.in_hand.discard(ticket)
            self._tell(self._given_up, ticket)

    def _tell(self, into: deque[Ticket], ticket: Ticket) -> None:
        with self._wake:
            into.append(ticket)
            self._wake.notify()

    # ------------------------------------------------------------------ in the compiler's thread

    def _compile(self) -> None:
        if self._rest is None:
            return
        try:
            self._rest.compile()
        except Exception:
            log.exception("no program for smaller shapes is used; requests are padded to larger")
            return
        with self._wake:
            self._compiled = not self._rest.left
            self._wake.notify()

    # ------------------------------------------------------------------ in its own thread

    def _serve(self) -> None:
        while not self._over:
            try:
                with RequestRun(
                    self.engine, on_episode=self._on_episode, on_skipped=self._on_skipped
                ) as run:
                    self._run(run)
            except Exception as error:
                log.exception("the engine failed; the requests in hand are told, and it goes on")
                self._fail(f"the engine failed ({type(error).__name__}); its log says why")

    def _run(self, run: RequestRun) -> None:
        while True:
            with self._wake:
                while run.idle and not (
                    self._asked or self._given_up or self._over or self._compiled
                ):
                    self.running = 0
                    self._wake.wait()
                if self._over:
                    return
                if self._compiled and self._rest is not None:
                    self._rest.use()
                    self._rest, self._compiled = None, False
                asked, given_up = [*self._asked], [*self._given_up]
                self._asked.clear()
                self._given_up.clear()
            for ticket in asked:
                self._tickets[ticket.request] = ticket
                run.add(ticket.request)
            for ticket in given_up:
                if self._tickets.pop(ticket.request, None):
                    run.give_up(ticket.request)
            if not run.idle:
                run.turn()
            self.running = run.running
            self._deliver()

    def _deliver(self) -> None:
        if not self._events:
            return
        events, self._events = self._events, []
        assert self._loop is not None

        def deliver() -> None:
            for ticket, event in events:
                ticket.events.put_nowait(event)

        try:
            self._loop.call_soon_threadsafe(deliver)
        except RuntimeError:  # the loop is closed, and nobody listens
            self._over = True

    def _on_episode(self, request: Request, episode: Episode) -> None:
        ticket = self._tickets.get(request)
        if ticket is None:
            return
        choice = episode.rollout
        first = (len(episode.opening.ids), 0, 0)
        ids, turns, crops = ticket.told.get(choice, first)
        say = self._events.append
        if drawn := [n for n, own in zip(episode.ids[ids:], episode.sampled[ids:]) if own]:
            say((ticket, Drew(choice, drawn)))
        for turn in episode.turns[turns:]:
            crop = None
            if turn.crop is not None and crops < len(episode.crops):
                crop = episode.crops[crops]
                crops += 1
            say((ticket, Replied(choice, turn, crop)))
        ticket.told[choice] = len(episode.ids), len(episode.turns), crops
        if episode.end is not None:
            self.failing = False
            over = Over(choice, episode.end, said(episode), len(episode.ids), episode.spent)
            say((ticket, over))

    def _on_skipped(self, request: Request, reason: str) -> None:
        if ticket := self._tickets.pop(request, None):
            why = invalid(reason, "messages", "context_length_exceeded")
            self._events.append((ticket, Unanswered(why)))

    def _fail(self, reason: str) -> None:
        self.restarts, self.failing = self.restarts + 1, True
        why = Refused(500, reason, code="engine_failed")
        with self._wake:
            waiting = [*self._tickets.values(), *self._asked]
            self._asked.clear()
            self._tickets.clear()
            self._events = [(ticket, Unanswered(why)) for ticket in waiting]
        self._deliver()
        time.sleep(0.1)
