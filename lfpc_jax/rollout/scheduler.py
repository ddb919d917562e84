"""The order in which episodes run: one run of the engine over its records.

The weights may be replaced between two turns of a run. Episodes that have begun go on under the new
ones, with what the old ones wrote into their caches; every token keeps the version that drew it.
Episodes that begin later begin from a prompt that the new weights prefilled.

Prompts are prepared and crops are cut in worker threads; the device waits for them only when no row
can decode. A slot that falls free is refilled at once, from a prompt that is in memory, in the
shard that the prompt is in.

If a record is to be rolled out with altered crops as well, its row goes back to the episode's first
call once the episode has ended, and goes on from there with another reply, once for each
alteration. The row then holds what sampling the altered episode from its prompt would have written,
and draws the same random numbers. An episode without a call is the altered one, too.
"""

import itertools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.rollout.asked import Asked, Scheduling
from lfpc_jax.rollout.dialogue import Dialogue, Opening, ToolReply
from lfpc_jax.rollout.episode import Episode, Rules, rollout_key
from lfpc_jax.rollout.finite import check_logprobs
from lfpc_jax.rollout.items import Beginning, Extension, LiveRow, Prompt, Rewind, Visual
from lfpc_jax.rollout.pending import AlteredGroup, Ended, Pending, PromptInMemory, Resumed
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.skipped import PromptTooLong
from lfpc_jax.rollout.slots import Slots
from lfpc_jax.rollout.stats import Stats
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Crop, Group, Record

_Opened = tuple[Opening, Visual | None]


class Scheduler:
    """One run. A row is free, live (it decodes), or waits for its reply."""

    def __init__(
        self,
        slots: Slots,
        dialogue: Dialogue,
        rules: Rules,
        how: Scheduling,
        stats: Stats,
        pool: ThreadPoolExecutor,
        asked: Asked,
    ) -> None:
        self.slots, self.dialogue, self.rules = slots, dialogue, rules
        self.how, self.stats, self.pool = how, stats, pool
        self.rollouts, self.sampling = asked.rollouts, asked.sampling
        self.on_episode, self.on_skipped = asked.on_episode, asked.on_skipped
        self.alters = asked.alters
        self.skipped: list[tuple[str, str]] = []
        self.left: Counter[int] = Counter()  # by seed: records that have neither ended nor failed
        self.version = slots.version
        self.records = iter(asked.records)
        self.rows: dict[int, Episode] = {}
        self.live: set[int] = set()
        self.replies: dict[Future[tuple[ToolReply, Visual | None]], int] = {}
        self.openings: deque[tuple[Record | Opening, int, Future[_Opened]]] = deque()
        self.prompts: list[PromptInMemory] = []
        self.prompt_of: dict[Episode, PromptInMemory] = {}
        self.free_prompts = set(range(self.shapes.prefix_count))
        self.groups_left: dict[Episode, Pending] = {}
        self.resumed: dict[Episode, deque[Resumed]] = {}  # by the episode that has the row
        self.ready: list[Pending] = []

    @property
    def shapes(self) -> RolloutShapes:
        """Those of the slots, which may have more buckets later (see `preparing`)."""
        return self.slots.shapes

    def groups(self) -> Iterator[Ended]:
        try:
            while True:
                yield from self.turn()
                if self.idle:
                    return
        finally:
            self.close()

    def turn(self) -> list[Ended]:
        """Begins and goes on with what can be, and returns groups that have ended. Only if none
        have is a chunk decoded, or waited for prompts or crops."""
        if self.version != self.slots.version:
            self._renew()
        self._reply()
        self._refill()
        if self.ready:
            ended, self.ready = self.ready, []
            return [Ended(group.seed, group.name, self._finished(group)) for group in ended]
        if self.live:
            self._decode()
        elif pending := [f for f in self._futures() if not f.done()]:
            begun = time.perf_counter()
            wait(pending, return_when=FIRST_COMPLETED)
            self.stats.parts["waiting"] += time.perf_counter() - begun
        return []

    @property
    def idle(self) -> bool:
        """Whether all records that it was given have ended."""
        return not (self.rows or self.prompts or self.openings or self.ready)

    def close(self) -> None:
        for future in self._futures():
            future.cancel()

    def _futures(self) -> list[Future]:
        return [*self.replies, *(future for *_, future in self.openings)]

    def _renew(self) -> None:
        """After new weights: episodes that wait begin from prompts that are prefilled anew."""
        self.version = self.slots.version
        for prompt in self.prompts:
            if prompt.row is None:
                continue
            if prompt.running:
                anew = PromptInMemory(prompt.group, prompt.waiting)
                prompt.waiting = deque()
                self.prompts[self.prompts.index(prompt)] = anew
            else:
                self.free_prompts.add(prompt.row)
                prompt.row = None

    # Prompts into free slots

    def _refill(self) -> None:
        """Begins episodes in the slots that are free, each in the shard that its prompt is in."""
        self._open_ahead()
        if self.rows and not self.how.refill:
            return
        free = self._free_slots()
        while any(free) and self._prompt_ready():
            beginnings = list(self._beginnings(free))
            if beginnings:
                self.slots.begin(beginnings)
                self.stats.rollouts += len(beginnings)
                self.prompts = [prompt for prompt in self.prompts if prompt.waiting]
                self._open_ahead()
            elif not (self._prefill(free) or self._split(free)):
                return

    def _free_slots(self) -> list[deque[int]]:
        """The free slots of each shard."""
        free: list[deque[int]] = [deque() for _ in range(self.slots.shards)]
        for row in sorted(set(range(self.shapes.slots)) - set(self.rows)):
            free[self.slots.shard_of_row(row)].append(row)
        return free

    def _beginnings(self, free: list[deque[int]]) -> Iterator[Beginning]:
        """Episodes of prompts that are in memory, into slots of the prompts' shards."""
        for prompt in self.prompts:
            if prompt.row is not None:
                rows = free[self.slots.shard_of_prompt(prompt.row)]
                while rows and prompt.waiting:
                    yield self._beginning(rows.popleft(), prompt, prompt.waiting.popleft())

    def _open_ahead(self) -> None:
        """Keeps as many records opened, or being opened, as may be needed next."""
        ahead = self.how.opened + self.shapes.prefill_rows
        wanted = ahead - len(self.openings)
        for record, seed in itertools.islice(self.records, max(wanted, 0)):
            self.left[seed] += 1
            self.openings.append((record, seed, self.pool.submit(self._open, record)))

    def _open(self, record: Record | Opening) -> _Opened:
        opening = record if isinstance(record, Opening) else self.dialogue.open(record)
        shapes = self.shapes
        visual = None
        if opening.view is not None:
            visual = Visual.of(
                opening.view.shown,
                self.slots.processor,
                shapes.image_windows,
                named=bool(shapes.kept),
            )
        self.slots.prompt_buckets(len(opening.ids), visual)  # refuses a prompt that is too long
        if len(opening.ids) >= shapes.capacity:
            raise ValueError(
                f"a prompt of {len(opening.ids)} ids leaves no room in the capacity of "
                f"{shapes.capacity}"
            )
        return opening, visual

    def _prompt_ready(self) -> bool:
        """Moves opened records to the prompts, in order, and no more than the next prefill takes,
        since each holds its original. Returns whether a prompt has episodes that wait."""
        most = self.shapes.prefill_rows
        while len(self.prompts) < most and self.openings and self.openings[0][-1].done():
            record, seed, future = self.openings.popleft()
            try:
                opening, visual = future.result()
            except (Unusable, ValueError) as error:
                name = record.record.id if isinstance(record, Opening) else record.id
                self.skipped.append((name, str(error)))
                self.stats.skipped.append((name, str(error)))
                if isinstance(error, PromptTooLong):
                    self.stats.longest_refused = max(self.stats.longest_refused, error.text)
                self.left[seed] -= 1
                self.on_skipped(record, str(error))
                self._open_ahead()  # or the run would end where all that are open are skipped
                continue
            self._add(opening, visual, seed)
        return bool(self.prompts)

    def _add(self, opening: Opening, visual: Visual | None, seed: int) -> None:
        most = min(self.shapes.capacity, len(opening.ids) + self.shapes.own_capacity)
        episodes = self._episodes(opening, most)
        group = Pending(opening, visual, episodes, seed)
        group.altered = [
            AlteredGroup(
                opening,
                visual,
                [*episodes],
                seed,
                name,
                dialogue=replace(self.dialogue, alter=alter),
            )
            for name, alter in self.alters(opening.record).items()
        ]
        self.groups_left |= dict.fromkeys(episodes, group)
        together = self.shapes.members if self.how.share_prefix else 1
        for first in range(0, len(episodes), together):
            self.prompts.append(PromptInMemory(group, deque(episodes[first : first + together])))

    def _episodes(self, opening: Opening, most: int) -> list[Episode]:
        return [
            Episode(opening, number, self.rules, self.dialogue, most)
            for number in range(self.rollouts * max(1, len(opening.follow)))
        ]

    def _prefill(self, free: list[deque[int]]) -> bool:
        """Prefills the first prompt that is not in memory, and those behind it that fit the same
        program, in the shards with the most slots that would be free. Returns whether any was."""
        room = [len(rows) for rows in free]
        batch: list[PromptInMemory] = []
        for prompt in [prompt for prompt in self.prompts if prompt.row is None]:
            if len(batch) == self.shapes.prefill_rows:
                break
            if batch and prompt.bucket(self.slots) != batch[0].bucket(self.slots):
                break
            row = self._prompt_row(room)
            if row is None:
                break
            prompt.row = row
            self.free_prompts.remove(row)
            room[self.slots.shard_of_prompt(row)] -= len(prompt.waiting)
            batch.append(prompt)
        if batch:
            self.slots.prefill([self._prompt(prompt) for prompt in batch])
            self.stats.prompts += len(batch)
        return bool(batch)

    def _split(self, free: list[deque[int]]) -> bool:
        """Where all prompts are in memory, some episodes that wait for a full shard begin in
        another, in which their prompt is prefilled again. Returns whether any will."""
        row = self._prompt_row([len(rows) for rows in free])
        if self.openings or row is None or any(prompt.row is None for prompt in self.prompts):
            return False
        crowded = max(self.prompts, key=lambda prompt: len(prompt.waiting))
        room = len(free[self.slots.shard_of_prompt(row)])
        moved = [crowded.waiting.pop() for _ in range(min(room, len(crowded.waiting)))]
        self.prompts.append(PromptInMemory(crowded.group, deque(reversed(moved))))
        return True

    def _prompt_row(self, room: list[int]) -> int | None:
        """A free row of the prompts in the shard with the most room, if any has some."""
        shard_of = self.slots.shard_of_prompt
        rows = [row for row in self.free_prompts if room[shard_of(row)] > 0]
        return min(rows, key=lambda row: (-room[shard_of(row)], row), default=None)

    @staticmethod
    def _prompt(prompt: PromptInMemory) -> Prompt:
        assert prompt.row is not None
        opening = prompt.group.opening
        return Prompt(prompt.row, opening.ids, opening.positions, prompt.group.visual)

    def _beginning(self, row: int, prompt: PromptInMemory, episode: Episode) -> Beginning:
        assert prompt.row is not None
        self.rows[row], self.prompt_of[episode] = episode, prompt
        prompt.running += 1
        opening = episode.opening
        if self.version is not None:
            episode.versions.append((self.version, 0))
        if opening.follow:
            each = len(prompt.group.episodes) // len(opening.follow)
            follow = opening.follow[episode.rollout // each]
            self._follow(row, follow)
        else:
            self.live.add(row)
        return Beginning(
            row=row,
            prompt=prompt.row,
            pending=episode.ids[-1],
            position=episode.position,
            budget=0 if opening.follow else episode.budget,
            key=rollout_key(prompt.group.seed, opening.record.id, episode.rollout),
        )

    # Turns

    def _decode(self) -> None:
        live = sorted(self.live)
        columns, drawn = self.slots.decode([self._live_row(row) for row in live], self.sampling)
        steps = int(drawn.steps)
        self.stats.steps += steps
        self.stats.idle["replies"] += steps * (len(self.rows) - len(live))
        self.stats.idle["ended"] += steps * len(live) - int(drawn.numbers[columns].sum())
        for row, column in zip(live, columns):
            n, episode = int(drawn.numbers[column]), self.rows[row]
            check_logprobs(drawn.policy[:n, column], episode)
            told = (drawn.ids, drawn.logprobs, drawn.policy)
            ids, logprobs, policy = (values[:n, column].tolist() for values in told)
            episode.drew(ids, logprobs, policy, self.version)
            self.stats.sampled += n
            if not drawn.live[column]:
                self._close_turn(row, stopped=bool(drawn.stopped[column]))
            self.on_episode(episode)

    def _live_row(self, row: int) -> LiveRow:
        episode = self.rows[row]
        prompt = self.prompt_of[episode].row
        assert prompt is not None
        written = len(episode.ids) - 1
        after = len(episode.opening.ids) - 1
        return LiveRow(row, prompt, written if self.slots.copies else written - after)

    def _close_turn(self, row: int, *, stopped: bool) -> None:
        self.live.remove(row)
        episode = self.rows[row]
        request = episode.close_turn(stopped=stopped)
        if request is None:
            self._end(row)
            return
        if isinstance(request, Ready):
            self._alter(row, request)
        self._ask(row, request)

    def _ask(self, row: int, request: Ready | Refusal) -> None:
        episode = self.rows[row]
        asked = request, episode.opening, episode.cut
        self.replies[self.pool.submit(self._prepare, episode.dialogue, *asked)] = row

    def _prepare(
        self,
        dialogue: Dialogue,
        request: Ready | Refusal,
        opening: Opening,
        earlier: Sequence[Crop],
    ) -> tuple[ToolReply, Visual | None]:
        return self._seen(dialogue.reply(request, opening, earlier))

    def _alter(self, row: int, request: Ready) -> None:
        """At its first call an episode is copied for each alteration."""
        episode = self.rows[row]
        group = self.groups_left[episode]
        if not group.altered or episode in self.resumed:
            return
        length = self._live_row(row).length
        self.resumed[episode] = deque()
        for altered in group.altered:
            copied = episode.going_on(altered.dialogue)
            altered.episodes[group.episodes.index(episode)] = copied
            self.groups_left[copied] = altered
            self.resumed[episode].append(Resumed(copied, request, length))

    def _resume(self, row: int, ended: Episode) -> bool:
        """Goes back in the row of an episode that has ended to where an altered one goes on.
        Returns whether one was left."""
        left = self.resumed.pop(ended, None)
        if not left:
            return False
        after = left.popleft()
        self.resumed[after.episode] = left
        self.prompt_of[after.episode] = self.prompt_of.pop(ended)
        self.rows[row] = after.episode
        self.stats.rollouts += 1
        self.slots.rewind([Rewind(row, after.length, after.episode.spent)])
        self._ask(row, after.request)
        return True

    def _seen(self, reply: ToolReply) -> tuple[ToolReply, Visual | None]:
        """A reply with the patches of its picture."""
        if reply.picture is None:
            return reply, None
        return reply, self.slots.visual(reply.picture, self.shapes.crop_windows)

    def _reply(self) -> None:
        """Writes the replies that are ready onto their rows, those of one bucket together."""
        batches: dict[int, list[Extension]] = defaultdict(list)
        more: dict[int, Callable[[], ToolReply]] = {}
        for future in [future for future in self.replies if future.done()]:
            row = self.replies.pop(future)
            episode = self.rows[row]
            reply, visual = future.result()
            written = episode.take(reply)
            if written is None:
                self._end(row)
            else:
                budget = episode.budget if reply.then is None else 0
                extension = Extension(row, *written, visual, episode.position, budget)
                batches[0 if visual is None else len(visual.patches)].append(extension)
                if reply.then is not None:
                    more[row] = reply.then
            self.on_episode(episode)
        for extensions in batches.values():
            self.slots.extend(extensions)
            self.live |= {extension.row for extension in extensions} - more.keys()
            self.stats.replies += len(extensions)
        for row, then in more.items():
            self._follow(row, then)

    def _follow(self, row: int, reply: Callable[[], ToolReply]) -> None:
        self.replies[self.pool.submit(lambda: self._seen(reply()))] = row

    def _end(self, row: int) -> None:
        episode = self.rows.pop(row)
        assert episode.end is not None
        self.stats.ends[episode.end] += 1
        self.stats.faults.update(turn.fault for turn in episode.turns if turn.fault)
        if not self._resume(row, episode):
            prompt = self.prompt_of.pop(episode)
            prompt.running -= 1
            if not (prompt.running or prompt.waiting):
                assert prompt.row is not None
                self.free_prompts.add(prompt.row)
        group = self.groups_left.pop(episode)
        self.ready += [each for each in (group, *group.altered) if each.ended]

    def _finished(self, group: Pending) -> Group:
        if not group.name:
            self.left[group.seed] -= 1
        view = group.opening.view
        return Group(
            group.opening.record,
            tuple(episode.trajectory() for episode in group.episodes),
            image=None if view is None else view.shown,
            crops=tuple(tuple(episode.crops) for episode in group.episodes),
        )
