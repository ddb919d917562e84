"""The rollout engine: many crop-tool conversations at once over a fixed number of slots.

    engine = Engine(cfg, dialogue, shapes, rules)
    engine.load(params)
    for group in engine.run(records, rollouts=8, seed=0): ...

Prompts are prepared and crops are cut in worker threads; the device waits for them only when no row
can decode. A slot that falls free is refilled at once. What an episode samples depends on the
parameters, the seed, its record and its number alone, and never on slots, chunks or neighbours.
Records that cannot be shown are listed in `stats.skipped`, logged by cause, and left out. Logits
that are not finite raise `LogitsNotFinite`.

Groups come out as they end, so their order depends on lengths; the episodes in each are in order.
Several processes each run an engine of their own over `own_share` of the records.
"""

import itertools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.dialogue import Dialogue, Opening, ToolReply
from lfpc_jax.rollout.episode import STOP_STRING, Episode, Rules, rollout_key
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.skipped import PromptTooLong, SkippedLog
from lfpc_jax.rollout.slots import Beginning, Extension, Prefix, Slots, Visual
from lfpc_jax.rollout.stops import stop_table
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.rollout.vocabulary import allowed_ids, token_bytes
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Crop, Group, Record

T = TypeVar("T")
OnEpisode = Callable[[Episode], None]
OnSkipped = Callable[[Record | Opening, str], None]
_Opened = tuple[Opening, Visual | None]


class LogitsNotFinite(ValueError):
    """The model's own probability of a token that it drew is NaN or infinite. A weight, a key in
    the cache or an activation is not finite, and whatever the model writes is noise."""


@dataclass
class Stats:
    """Counts over all runs of an engine. A row-step is one slot for one step of decode."""

    slots: int
    steps: int = 0
    sampled: int = 0
    prompts: int = 0
    rollouts: int = 0
    replies: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    longest_refused: int = 0  # text tokens of the longest prompt that was too long

    @property
    def occupancy(self) -> float:
        """The share of row-steps that sampled a token."""
        return self.sampled / (self.slots * self.steps) if self.steps else 0.0


def own_share(records: Iterable[T]) -> Iterator[T]:
    """The records, or groups of them, of this process, out of a list that all processes have in the
    same order."""
    return itertools.islice(records, jax.process_index(), None, jax.process_count())


class Engine:
    """Rolls out records on a fixed number of slots. `refill` and `share_prefix` are turned off only
    to measure what they are worth."""

    def __init__(
        self,
        cfg: ModelConfig,
        dialogue: Dialogue,
        shapes: RolloutShapes,
        rules: Rules,
        *,
        mesh: Mesh | None = None,
        unstacked: bool | None = None,
        workers: int = 2,
        refill: bool = True,
        share_prefix: bool = True,
    ) -> None:
        tokenizer, vocabulary = dialogue.tokenizer, cfg.text.vocab
        if tokenizer.image_pad != cfg.image_token:
            raise ValueError(
                f"the tokenizer's <|image_pad|> is {tokenizer.image_pad}, the model's image token "
                f"{cfg.image_token}; take both from one folder"
            )
        self.dialogue, self.shapes, self.rules = dialogue, shapes, rules
        self.workers, self.refill, self.share_prefix = workers, refill, share_prefix
        self.stats, self.skipped_log = Stats(shapes.slots), SkippedLog()
        self.slots = Slots(
            cfg,
            shapes,
            rules.sampling,
            stops=stop_table(
                token_bytes(tokenizer, vocabulary),
                (STOP_STRING, *rules.stops),
                (tokenizer.im_end, tokenizer.endoftext),
            ),
            allowed=allowed_ids(tokenizer, vocabulary, banned=rules.banned),
            processor=dialogue.processor,
            unstacked=tuning().unstacked if unstacked is None else unstacked,
            mesh=mesh,
        )

    def load(self, params: Tree) -> None:
        """Sets the parameters to sample from, with layers stacked."""
        self.slots.load(params)

    @property
    def loaded(self) -> bool:
        """Whether it has parameters to sample from."""
        return self.slots.loaded

    def unload(self) -> None:
        """Lets go of the parameters, so that their memory is free."""
        self.slots.unload()

    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        also: Collection[Sampling] = (),
        follows: bool = False,
    ) -> int:
        """Compiles every program, so that none compiles during a run, and returns how many there
        are. `prompts`, pairs of windows and text tokens (`Dialogue.size`, in their buckets), limits
        the programs for prompts to these. Runs that sample as `also` says are prepared too, and
        with `follows` those of openings that go on in several ways."""
        replies = follows or self.rules.max_turns > 1
        return self.slots.warm_up(prompts, replies=replies, also=also)

    def run(
        self,
        records: Iterable[Record | Opening],
        *,
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None = None,
        on_skipped: OnSkipped | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Group]:
        """Rolls out every record `rollouts` times (an opening with `follow`, as many times for each
        of these), and yields groups as they end. `on_episode` is called with every episode that has
        sampled, has been replied to, or has ended, and `on_skipped` with what cannot be shown and
        the reason. `sampling` replaces that of the rules."""
        start = time.perf_counter()
        with ThreadPoolExecutor(self.workers, "rollout") as pool, self.slots.allocated():
            told = on_episode or (lambda _: None), on_skipped or (lambda *_: None)
            yield from _Run(self, records, rollouts, seed, *told, pool, sampling).groups()
        self.stats.seconds += time.perf_counter() - start


def _check_finite(policy: np.ndarray, episode: Episode) -> None:
    """Raises where a row's log-probabilities of the tokens that it drew are not finite, which they
    are if a logit of any allowed token is NaN or plus infinity."""
    sound = np.isfinite(policy)
    if not sound.all():
        drawn = sum(episode.sampled) + int(np.argmin(sound)) + 1
        raise LogitsNotFinite(
            f"record {episode.opening.record.id!r}, rollout {episode.rollout}, sampled token "
            f"{drawn}: the model's logits are not finite, so what it says is noise; go back to an "
            "earlier checkpoint with a lower learning rate, or compute in float32 (its own weights "
            "were finite when they were loaded)"
        )


@dataclass(eq=False)
class _Pending:
    """A record's episodes, those that have not begun included."""

    opening: Opening
    visual: Visual | None
    episodes: list[Episode]

    @property
    def ended(self) -> bool:
        return all(episode.end is not None for episode in self.episodes)


@dataclass(eq=False)
class _Prompt:
    """A prompt that is prefilled once, and the episodes that begin from it."""

    group: _Pending
    episodes: deque[Episode]
    prefix: Prefix | None = None
    source: int = 0


class _Run:
    """One call of `Engine.run`. A row is free, live (it decodes), or waits for its reply."""

    def __init__(
        self,
        engine: Engine,
        records: Iterable[Record | Opening],
        rollouts: int,
        seed: int,
        on_episode: OnEpisode,
        on_skipped: OnSkipped,
        pool: ThreadPoolExecutor,
        sampling: Sampling | None,
    ) -> None:
        self.sampling, self.on_skipped = sampling, on_skipped
        self.skipped: list[tuple[str, str]] = []
        self.engine, self.slots, self.stats = engine, engine.slots, engine.stats
        self.rollouts, self.seed, self.on_episode, self.pool = rollouts, seed, on_episode, pool
        self.records = iter(records)
        self.rows: dict[int, Episode] = {}
        self.live: set[int] = set()
        self.replies: dict[Future[tuple[ToolReply, Visual | None]], int] = {}
        self.openings: deque[tuple[Record | Opening, Future[_Opened]]] = deque()
        self.prompts: deque[_Prompt] = deque()
        self.groups_left: dict[Episode, _Pending] = {}
        self.ready: list[_Pending] = []

    def groups(self) -> Iterator[Group]:
        try:
            while True:
                self._reply()
                self._refill()
                while self.ready:
                    yield self._finished(self.ready.pop())
                if self.live:
                    self._decode()
                elif pending := [f for f in self._futures() if not f.done()]:
                    wait(pending, return_when=FIRST_COMPLETED)
                elif not (self.rows or self.prompts or self.openings):
                    return
        finally:
            self.engine.skipped_log.tell(self.skipped)
            for future in self._futures():
                future.cancel()

    def _futures(self) -> list[Future]:
        return [*self.replies, *(future for _, future in self.openings)]

    # Prompts into free slots

    def _refill(self) -> None:
        self._open_ahead()
        if self.rows and not self.engine.refill:
            return
        free = deque(sorted(set(range(self.engine.shapes.slots)) - set(self.rows)))
        while free and self._prompt_ready():
            prompt = self.prompts[0]
            if prompt.prefix is None:
                self._prefill()
            beginnings = []
            while free and prompt.episodes:
                beginnings.append(
                    self._beginning(free.popleft(), prompt.source, prompt.episodes.popleft())
                )
            assert prompt.prefix is not None
            self.slots.place(prompt.prefix, beginnings)
            self.stats.rollouts += len(beginnings)
            if not prompt.episodes:
                self.prompts.popleft()
            self._open_ahead()

    def _open_ahead(self) -> None:
        """Keeps as many records opened, or being opened, as may be needed next."""
        ahead = self.engine.workers + self.engine.shapes.prefill_rows
        wanted = ahead - len(self.openings)
        for record in itertools.islice(self.records, max(wanted, 0)):
            self.openings.append((record, self.pool.submit(self._open, record)))

    def _open(self, record: Record | Opening) -> _Opened:
        opening = record if isinstance(record, Opening) else self.engine.dialogue.open(record)
        shapes = self.engine.shapes
        visual = None
        if opening.view is not None:
            visual = Visual.of(opening.view.shown, self.slots.processor, shapes.image_windows)
        self.slots.prompt_buckets(len(opening.ids), visual)  # refuses a prompt that is too long
        if len(opening.ids) >= shapes.capacity:
            raise ValueError(
                f"a prompt of {len(opening.ids)} ids leaves no room in the capacity of "
                f"{shapes.capacity}"
            )
        return opening, visual

    def _prompt_ready(self) -> bool:
        """Moves opened records to the prompts, in order, and no more than the next prefill takes,
        since each holds its original. Returns whether there is a prompt."""
        most = self.engine.shapes.prefill_rows
        while len(self.prompts) < most and self.openings and self.openings[0][1].done():
            record, future = self.openings.popleft()
            try:
                opening, visual = future.result()
            except (Unusable, ValueError) as error:
                name = record.record.id if isinstance(record, Opening) else record.id
                self.skipped.append((name, str(error)))
                self.stats.skipped.append((name, str(error)))
                if isinstance(error, PromptTooLong):
                    self.stats.longest_refused = max(self.stats.longest_refused, error.text)
                self.on_skipped(record, str(error))
                self._open_ahead()  # or the run would end where all that are open are skipped
                continue
            self._add(opening, visual)
        return bool(self.prompts)

    def _add(self, opening: Opening, visual: Visual | None) -> None:
        e = self.engine
        episodes = [
            Episode(opening, number, e.rules, e.dialogue, e.shapes.capacity)
            for number in range(self.rollouts * max(1, len(opening.follow)))
        ]
        group = _Pending(opening, visual, episodes)
        self.groups_left |= dict.fromkeys(episodes, group)
        shares = [episodes] if e.share_prefix else [[episode] for episode in episodes]
        self.prompts += [_Prompt(group, deque(share)) for share in shares]

    def _prefill(self) -> None:
        """Prefills the first prompt, and those right behind it that fit the same program."""

        def bucket(prompt: _Prompt) -> tuple[int, int]:
            return self.slots.prompt_buckets(len(prompt.group.opening.ids), prompt.group.visual)

        first = bucket(self.prompts[0])
        most = self.engine.shapes.prefill_rows
        batch = list(
            itertools.takewhile(
                lambda prompt: prompt.prefix is None and bucket(prompt) == first,
                itertools.islice(self.prompts, most),
            )
        )
        opened = [(p.group.opening, p.group.visual) for p in batch]
        prefix = self.slots.prefill([(o.ids, o.positions, visual) for o, visual in opened])
        for source, prompt in enumerate(batch):
            prompt.prefix, prompt.source = prefix, source
        self.stats.prompts += len(batch)

    def _beginning(self, row: int, source: int, episode: Episode) -> Beginning:
        self.rows[row] = episode
        opening = episode.opening
        if opening.follow:
            follow = opening.follow[episode.rollout // self.rollouts]
            self.replies[self.pool.submit(lambda: self._seen(follow()))] = row
        else:
            self.live.add(row)
        return Beginning(
            row=row,
            source=source,
            pending=episode.ids[-1],
            position=episode.position,
            budget=0 if opening.follow else episode.budget,
            key=rollout_key(self.seed, opening.record.id, episode.rollout),
        )

    # Turns

    def _decode(self) -> None:
        longest = max(len(self.rows[row].ids) for row in self.live)
        drawn = self.slots.decode(longest, self.sampling)
        self.stats.steps += int(drawn.steps)
        for row in sorted(self.live):
            n, episode = int(drawn.numbers[row]), self.rows[row]
            _check_finite(drawn.policy[:n, row], episode)
            columns = (drawn.ids, drawn.logprobs, drawn.policy)
            episode.drew(*(column[:n, row].tolist() for column in columns))
            self.stats.sampled += n
            if not drawn.live[row]:
                self._close_turn(row, stopped=bool(drawn.stopped[row]))
            self.on_episode(episode)

    def _close_turn(self, row: int, *, stopped: bool) -> None:
        self.live.remove(row)
        episode = self.rows[row]
        request = episode.close_turn(stopped=stopped)
        if request is None:
            self._end(row)
        else:
            asked = request, episode.opening, episode.cut
            self.replies[self.pool.submit(self._prepare, *asked)] = row

    def _prepare(
        self, request: Ready | Refusal, opening: Opening, earlier: Sequence[Crop]
    ) -> tuple[ToolReply, Visual | None]:
        return self._seen(self.engine.dialogue.reply(request, opening, earlier))

    def _seen(self, reply: ToolReply) -> tuple[ToolReply, Visual | None]:
        """A reply with the patches of its picture."""
        if reply.picture is None:
            return reply, None
        windows = self.engine.shapes.crop_windows
        return reply, Visual.of(reply.picture, self.slots.processor, windows)

    def _reply(self) -> None:
        """Writes the replies that are ready onto their rows, those of one bucket together."""
        batches: dict[int, list[Extension]] = defaultdict(list)
        for future in [future for future in self.replies if future.done()]:
            row = self.replies.pop(future)
            episode = self.rows[row]
            reply, visual = future.result()
            written = episode.take(reply)
            if written is None:
                self._end(row)
            else:
                extension = Extension(row, *written, visual, episode.position, episode.budget)
                batches[0 if visual is None else len(visual.patches)].append(extension)
            self.on_episode(episode)
        at_once = self.engine.shapes.extend_rows
        for extensions in batches.values():
            for first in range(0, len(extensions), at_once):
                self.slots.extend(extensions[first : first + at_once])
            self.live |= {extension.row for extension in extensions}
            self.stats.replies += len(extensions)

    def _end(self, row: int) -> None:
        episode = self.rows.pop(row)
        assert episode.end is not None
        self.stats.ends[episode.end] += 1
        self.stats.faults.update(turn.fault for turn in episode.turns if turn.fault)
        group = self.groups_left.pop(episode)
        if group.ended:
            self.ready.append(group)

    def _finished(self, group: _Pending) -> Group:
        view = group.opening.view
        return Group(
            group.opening.record,
            tuple(episode.trajectory() for episode in group.episodes),
            image=None if view is None else view.shown,
            crops=tuple(tuple(episode.crops) for episode in group.episodes),
        )
