"""The engine's slots: NumPy in, NumPy out, the state and its compiled programs in between.

Each call fits what it is given into the buckets of `RolloutShapes` and runs one program or two.
Nothing here knows of turns, tools or queues.
"""

import itertools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8, UInt32

from lfpc_jax.arrays import Tree
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.processing.batch import empty_images, empty_tokens
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.programs import Beginnings, Drawn, Live, Programs, Rewinds, State, Turns
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.skipped import PromptTooLong
from lfpc_jax.shapes import Buckets, RolloutShapes, geometric
from lfpc_jax.trajectory import Tokens

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Visual:
    """A picture as the patches of its bucket."""

    grid: tuple[int, int]
    patches: UInt8[np.ndarray, "W P C"]

    @classmethod
    def of(
        cls, picture: UInt8[np.ndarray, "_ _ 3"], processor: ImageProcessor, windows: Buckets
    ) -> "Visual":
        grid = processor.grid_of(picture)
        side = processor.window
        needed = -(-grid[0] // side) * -(-grid[1] // side)
        return cls(grid, processor.patchify(picture, windows.fit(needed, "windows of a picture")))


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt to be prefilled into row `row` of the prompts, all but its last id."""

    row: int
    ids: Int32[np.ndarray, "T"]
    positions: Int32[np.ndarray, "3 T"]
    visual: Visual | None


@dataclass(frozen=True, eq=False)
class Beginning:
    """A rollout that begins in `row` of the slots, from row `prompt` of the prompts. `count` tokens
    of it were drawn before."""

    row: int
    prompt: int
    pending: int
    position: int
    budget: int
    key: UInt32[np.ndarray, "2"]
    count: int = 0


@dataclass(frozen=True)
class LiveRow:
    """A row that decodes: its prompt, and how many ids of its own are written."""

    row: int
    prompt: int
    length: int


@dataclass(frozen=True)
class Rewind:
    """A row that goes back to its first `length` ids of its own, when it had drawn `count` tokens.
    An extension must follow."""

    row: int
    length: int
    count: int


@dataclass(frozen=True, eq=False)
class Extension:
    """Ids to write onto `row`, the pending one first; the last becomes the pending one, at
    `position`."""

    row: int
    ids: Int32[np.ndarray, "T"]
    positions: Int32[np.ndarray, "3 T"]
    visual: Visual | None
    position: int
    budget: int


class Slots:
    """The slots and what runs on them. Call `load` first; `warm_up` compiles everything."""

    def __init__(
        self,
        cfg: ModelConfig,
        shapes: RolloutShapes,
        sampling: Sampling,
        *,
        stops: UInt8[np.ndarray, "states V"],
        allowed: np.ndarray,
        processor: ImageProcessor,
        unstacked: bool,
        mesh: Mesh | None = None,
        copies: bool = False,
    ) -> None:
        if not cfg.vision.window == processor.window == shapes.window:
            raise ValueError(
                f"attention windows of {cfg.vision.window} (model), {processor.window} (image "
                f"processor) and {shapes.window} (rollout shapes) tokens; they must be the same"
            )
        self.cfg = cfg
        self.shards = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self.shapes = shapes = shapes.sharded(self.shards)
        self.processor = processor
        self.sampling = sampling
        self.copies = copies
        self.programs = Programs(cfg, shapes, unstacked=unstacked, mesh=mesh, copies=copies)
        self._unstack = jax.jit(unstack) if unstacked else None
        self._stops, self._allowed = jnp.asarray(stops), jnp.asarray(allowed)
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by program
        self._params: Tree = None
        self.version: int | None = None
        self._state: State | None = None

    def shard_of_row(self, row: int) -> int:
        return row // (self.shapes.slots // self.shards)

    def shard_of_prompt(self, row: int) -> int:
        return row // (self.shapes.prefix_count // self.shards)

    @contextmanager
    def allocated(self) -> Iterator[None]:
        """The cache exists only inside this block, and all slots are free at its start."""
        assert self._state is None, "a run at a time"
        self._state = self.programs.empty()
        try:
            yield
        finally:
            self._state = None

    def load(self, params: Tree, version: int | None = None) -> None:
        """Takes stacked parameters without a copy, unless they must be unstacked."""
        self.version = version
        self._params = params if self._unstack is None else self._unstack(params)

    def unload(self) -> None:
        self._params = None

    @property
    def loaded(self) -> bool:
        return self._params is not None

    def prompt_buckets(self, ids: int, visual: Visual | None) -> tuple[int, int]:
        """The buckets of windows and text tokens for a prompt of so many ids, its image included. A
        prompt without an image runs beside an empty one of the smallest bucket."""
        seen = 0 if visual is None else visual.grid[0] * visual.grid[1]
        buckets = self.shapes.prompt_text
        if ids - seen > buckets.sizes[-1]:
            raise PromptTooLong(ids - seen, buckets.sizes)
        text = buckets.fit(ids - seen, "text tokens of a prompt")
        windows = self.shapes.image_windows.sizes[0] if visual is None else len(visual.patches)
        return windows, text

    def prefill(self, prompts: Sequence[Prompt]) -> None:
        """Encodes and prefills prompts that share both buckets."""
        windows, text = self.prompt_buckets(len(prompts[0].ids), prompts[0].visual)
        for lanes in self._dealt(
            prompts, lambda prompt: self.shard_of_prompt(prompt.row), self.shapes.prefill_rows
        ):
            self._prefill(lanes, windows, text)

    def _prefill(self, lanes: Mapping[int, Prompt], windows: int, text: int) -> None:
        R, of_shard = self.shapes.prefill_rows, self.shapes.prefix_count // self.shards
        tokens = empty_tokens(R, self.shapes.prompt_length(windows, text))
        rows = np.full(R, of_shard, np.int32)
        for lane, prompt in lanes.items():
            places = self._places(prompt.ids, prompt.visual)
            _write(tokens, lane, prompt.ids[:-1], prompt.positions[:, :-1], places[:-1])
            rows[lane] = prompt.row % of_shard
        visuals = {lane: prompt.visual for lane, prompt in lanes.items()}
        embeddings = self._encode(visuals, R, windows)
        self._state = self._timed("prefill", self._params, self._state, tokens, embeddings, rows)

    def begin(self, beginnings: Sequence[Beginning]) -> None:
        B, of_shard = self.shapes.slots, self.shapes.prefix_count // self.shards
        turns, continued = self._no_turns(B), np.zeros(B, np.int32)
        key, count = np.zeros((B, 2), np.uint32), np.zeros(B, np.int32)
        for b in beginnings:
            self._turn(turns, b.row, b.row, b.pending, b.position, b.budget)
            continued[b.row], key[b.row], count[b.row] = b.prompt % of_shard, b.key, b.count
        begun = Beginnings(turns, continued, key, count)
        self._state = self._timed("begin", self._state, begun)

    def rewind(self, rewinds: Sequence[Rewind]) -> None:
        B = self.shapes.slots
        back = Rewinds(*(np.full(B, n, np.int32) for n in (B // self.shards, 0, 0)))
        for r in rewinds:
            back.rows[r.row] = r.row % (B // self.shards)
            back.length[r.row], back.count[r.row] = r.length, r.count
        self._state = self._timed("rewind", self._state, back)

    def extend(self, extensions: Sequence[Extension]) -> None:
        """Writes extensions whose pictures share a bucket, or which have none."""
        windows = {0 if e.visual is None else len(e.visual.patches) for e in extensions}
        assert len(windows) == 1, "pictures of several buckets in one batch"
        for lanes in self._dealt(
            extensions, lambda e: self.shard_of_row(e.row), self.shapes.extend_rows
        ):
            self._extend(lanes, *windows)

    def _extend(self, lanes: Mapping[int, Extension], windows: int) -> None:
        R = self.shapes.extend_rows
        visuals = {lane: e.visual for lane, e in lanes.items()}
        embeddings = self._encode(visuals, R, windows) if windows else None
        length = self.shapes.observation_length(windows)
        # The last id becomes pending and is not written.
        pieces = max(-(-(len(e.ids) - 1) // length) for e in lanes.values())
        for piece in range(pieces):
            tokens, turns = empty_tokens(R, length), self._no_turns(R)
            for lane, e in lanes.items():
                start, stop = piece * length, min((piece + 1) * length, len(e.ids) - 1)
                if start >= stop:
                    continue
                cut = slice(start, stop)
                places = self._places(e.ids, e.visual)
                _write(tokens, lane, e.ids[cut], e.positions[:, cut], places[cut])
                budget = e.budget if stop == len(e.ids) - 1 else 0
                self._turn(turns, lane, e.row, int(e.ids[stop]), e.position, budget)
            self._state = self._timed(
                "extend", self._params, self._state, tokens, embeddings, turns
            )

    def decode(
        self, rows: Sequence[LiveRow], sampling: Sampling | None = None
    ) -> tuple[list[int], Drawn]:
        """Decodes one chunk for these rows, and returns the column of each row in what was drawn.
        `sampling` replaces the usual one."""
        longest = max(row.length for row in rows)
        if self.programs.in_place:
            longest = min(longest + self.shapes.chunk, self.spans.sizes[-1])
            of_shard, lanes = self.decode_rows.sizes[-1], {row.row: row for row in rows}
        else:
            by_shard = Counter(self.shard_of_row(row.row) for row in rows)
            of_shard = self.decode_rows.fit(max(by_shard.values()), "rows that decode")
            [lanes] = self._dealt(
                rows, lambda row: self.shard_of_row(row.row), of_shard * self.shards
            )
        span = self.spans.fit(longest, "ids of an episode")
        drawn = self._decode(lanes, of_shard, span, sampling or self.sampling)
        lane_of = {row.row: lane for lane, row in lanes.items()}
        return [lane_of[row.row] for row in rows], drawn

    def _decode(
        self, lanes: Mapping[int, LiveRow], of_shard: int, span: int, sampling: Sampling
    ) -> Drawn:
        R, P, M = of_shard * self.shards, self.shapes.prefix_count, self.shapes.members
        slots = self.shapes.slots // self.shards
        rows = np.full(R, slots, np.int32)
        if self.programs.in_place:
            rows[:] = np.arange(R) % slots
        members, places = np.full((P, M), of_shard, np.int32), np.zeros(R, np.int32)
        taken: Counter[int] = Counter()
        for lane, row in lanes.items():
            rows[lane] = row.row % slots
            number, taken[row.prompt] = taken[row.prompt], taken[row.prompt] + 1
            members[row.prompt, number] = lane % of_shard
            places[lane] = row.prompt % (P // self.shards) * M + number
        self._state, drawn = self._timed(
            "decode",
            self._params,
            self._state,
            self._stops,
            self._allowed,
            Live(rows, Members(members, places)),
            span,
            sampling,
        )
        return jax.device_get(drawn)

    @property
    def spans(self) -> Buckets:
        """Buckets for how many ids of a row a chunk of decode reads: one if its kernel reads each
        row as far as it reaches."""
        spans = replace(self.shapes, own=0).spans if self.copies else self.shapes.spans
        return Buckets(spans.sizes[-1:]) if self.programs.reaches else spans

    @cached_property
    def decode_rows(self) -> Buckets:
        """Buckets for how many rows of a shard a chunk of decode computes: those that are live, or
        all in place."""
        slots = self.shapes.slots // self.shards
        return geometric(slots if self.programs.in_place else -(-slots // 4), slots)

    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        replies: bool = True,
        also: Collection[Sampling] = (),
    ) -> int:
        """Runs every program once on empty inputs, and returns how many there are. `prompts` limits
        those for prompts to these windows and text tokens; without `replies` none for what follows
        a turn are run; decodes are also run for each sampling of `also`."""
        with self.allocated():
            self._warm_up(prompts, replies, {self.sampling, *also})
        self.programs.seal()
        return len(self.programs.traces)

    def _warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None,
        replies: bool,
        samplings: Collection[Sampling],
    ) -> None:
        shapes = self.shapes
        embeddings: jax.Array | None
        every = itertools.product(shapes.image_windows.sizes, shapes.prompt_text.sizes)
        for windows, text in every if prompts is None else sorted(prompts):
            embeddings = self._encode({}, shapes.prefill_rows, windows)
            tokens = empty_tokens(shapes.prefill_rows, shapes.prompt_length(windows, text))
            rows = np.full(shapes.prefill_rows, shapes.prefix_count // self.shards, np.int32)
            self._state = self._timed(
                "prefill", self._params, self._state, tokens, embeddings, rows
            )
        self.begin([])
        if replies:
            self.rewind([])
        for windows in (0, *shapes.crop_windows.sizes) if replies else ():
            embeddings = self._encode({}, shapes.extend_rows, windows) if windows else None
            tokens = empty_tokens(shapes.extend_rows, shapes.observation_length(windows))
            turns = self._no_turns(shapes.extend_rows)
            self._state = self._timed(
                "extend", self._params, self._state, tokens, embeddings, turns
            )
        for sampling in samplings:
            for of_shard, span in itertools.product(self.decode_rows.sizes, self.spans.sizes):
                self._decode({}, of_shard, span, sampling)

    def _dealt(
        self, items: Sequence[T], shard_of: Callable[[T], int], lanes: int
    ) -> Iterator[dict[int, T]]:
        """Items by their lanes in a batch, of which each shard has equally many, one after the
        other; several batches if they do not fit one."""
        of_shard = lanes // self.shards
        waiting: dict[int, deque[T]] = defaultdict(deque)
        for item in items:
            waiting[shard_of(item)].append(item)
        while any(waiting.values()):
            yield {
                shard * of_shard + number: queue.popleft()
                for shard, queue in waiting.items()
                for number in range(min(of_shard, len(queue)))
            }

    def _timed(self, name: str, *args: Any) -> Any:
        """What a program returns, once it is there; its seconds are added up."""
        begun = time.perf_counter()
        result = jax.block_until_ready(getattr(self.programs, name)(*args))
        self.seconds[name] += time.perf_counter() - begun
        return result

    def _no_turns(self, count: int) -> Turns:
        return no_turns(count, self.shapes.slots // self.shards)

    def _turn(
        self, turns: Turns, lane: int, row: int, pending: int, position: int, budget: int
    ) -> None:
        turns.rows[lane] = row % (self.shapes.slots // self.shards)
        turns.pending[lane], turns.position[lane], turns.budget[lane] = pending, position, budget

    def _places(self, ids: np.ndarray, visual: Visual | None) -> Int32[np.ndarray, "T"]:
        """The index of each id's image embedding among those of its picture; -1 at text."""
        places = np.full(len(ids), -1, np.int32)
        if visual is not None:
            places[ids == self.cfg.image_token] = self.processor.places(visual.grid)
        return places

    def _encode(self, visuals: Mapping[int, Visual | None], rows: int, windows: int) -> jax.Array:
        """The embeddings of pictures by their lanes, [R, N, D]."""
        images = empty_images(rows, windows, self.processor)
        for lane, visual in visuals.items():
            if visual is not None:
                images.pixels[lane], images.grid[lane] = visual.patches, visual.grid
        return self._timed("encode", self._params, images)


def _write(
    tokens: Tokens, row: int, ids: np.ndarray, positions: np.ndarray, places: np.ndarray
) -> None:
    n = len(ids)
    tokens.ids[row, :n] = ids
    tokens.positions[:, row, :n] = positions
    tokens.segments[row, :n] = 1
    tokens.places[row, :n] = places


def no_turns(count: int, slots: int) -> Turns:
    """Only padding: rows past the last of a shard's slots."""
    zeros = [np.zeros(count, np.int32) for _ in range(3)]
    return Turns(np.full(count, slots, np.int32), *zeros)
