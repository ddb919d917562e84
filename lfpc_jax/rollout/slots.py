"""The engine's slots: NumPy in, NumPy out, the state and its compiled programs in between.

Each call fits what it is given into the buckets of `RolloutShapes` and runs one program or two.
Nothing here knows of turns, tools or queues.
"""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from lfpc_jax.arrays import Tree
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.processing.batch import empty_images, empty_tokens
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.items import Beginning, Extension, LiveRow, Prompt, Rewind, Visual
from lfpc_jax.rollout.kept import KeptArrays, KeptRows
from lfpc_jax.rollout.lanes import dealt, no_turns, write
from lfpc_jax.rollout.programs import Programs
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.sampling_rows import RowSampling
from lfpc_jax.rollout.skipped import PromptTooLong
from lfpc_jax.rollout.state import Beginnings, Drawn, Live, Rewinds, State, Turns
from lfpc_jax.shapes import Buckets, RolloutShapes, geometric

KEPT_BYTES = 1 << 30
"""The most that is kept of embeddings in the host's memory, if beginnings are kept."""


class _Piece(NamedTuple):
    """The first `stop` ids of a prompt, for a row of their shard."""

    prompt: Prompt
    stop: int
    row: int


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
        self.embeddings: KeptArrays[bytes] = KeptArrays(KEPT_BYTES)
        self._kept: list[KeptRows[bytes]] = [
            KeptRows(shapes.kept // self.shards) for _ in range(self.shards)
        ]

    def shard_of_row(self, row: int) -> int:
        return row // (self.shapes.slots // self.shards)

    def shard_of_prompt(self, row: int) -> int:
        return row // (self.shapes.prefix_count // self.shards)

    @contextmanager
    def allocated(self) -> Iterator[None]:
        """The cache exists only inside this block, and all slots are free at its start."""
        assert self._state is None, "a run at a time"
        self._state = self.programs.empty()
        self._forget_beginnings()
        try:
            yield
        finally:
            self._state = None

    def load(self, params: Tree, version: int | None = None) -> None:
        """Takes stacked parameters without a copy, unless they must be unstacked."""
        self.version = version
        self.embeddings.clear()
        self._forget_beginnings()
        self._params = params if self._unstack is None else self._unstack(params)

    def unload(self) -> None:
        self._params = None

    def _forget_beginnings(self) -> None:
        for rows in self._kept:
            rows.clear()

    @property
    def loaded(self) -> bool:
        return self._params is not None

    def visual(self, picture: UInt8[np.ndarray, "_ _ 3"], windows: Buckets) -> Visual:
        named = self.shapes.kept > 0
        return Visual.of(picture, self.processor, windows, named=named)

    def prompt_buckets(self, ids: int, visual: Visual | None) -> tuple[int, int]:
        """The buckets of windows and text tokens for a prompt of so many ids, its image included,
        or for a beginning. Without an image it runs beside an empty one of the smallest bucket."""
        seen = 0 if visual is None else visual.grid[0] * visual.grid[1]
        buckets = self.shapes.prompt_text
        if ids - seen > buckets.sizes[-1]:
            raise PromptTooLong(ids - seen, buckets.sizes)
        text = buckets.fit(ids - seen, "text tokens of a prompt")
        windows = self.shapes.image_windows.sizes[0] if visual is None else len(visual.patches)
        return windows, text

    def prefill(self, prompts: Sequence[Prompt]) -> None:
        """Encodes and prefills prompts that share both buckets."""
        buckets = self.prompt_buckets(len(prompts[0].ids), prompts[0].visual)
        R, of_shard = self.shapes.prefill_rows, self.shapes.prefix_count // self.shards
        for lanes in dealt(
            prompts, lambda prompt: self.shard_of_prompt(prompt.row), R, self.shards
        ):
            if self.shapes.kept:
                self._compose(lanes)
                continue
            whole = {
                lane: _Piece(prompt, len(prompt.ids) - 1, prompt.row % of_shard)
                for lane, prompt in lanes.items()
            }
            self._prefill(whole, R, of_shard, buckets)

    def _compose(self, lanes: Mapping[int, Prompt]) -> None:
        """Makes prompts of beginnings, which are computed one a shard at a time unless they are
        kept. Whether they are changes nothing about the prompts."""
        R, P, Q = (count // self.shards for count in self._prompt_counts)
        token = self.cfg.image_token
        sources, rows = np.zeros(R * self.shards, np.int32), np.full(R * self.shards, P, np.int32)
        new: defaultdict[tuple[int, int], list[tuple[int, _Piece]]] = defaultdict(list)
        for shard, kept in enumerate(self._kept):
            mine = {lane: p for lane, p in lanes.items() if lane // R == shard}
            by_name = {prompt.alike(token): prompt for prompt in mine.values()}
            row_of, unknown = kept.of(by_name)
            for name in unknown:
                prompt = by_name[name]
                piece = _Piece(prompt, prompt.begins(token), row_of[name])
                new[self.prompt_buckets(piece.stop, prompt.visual)].append((shard, piece))
            for lane, prompt in mine.items():
                sources[lane], rows[lane] = row_of[prompt.alike(token)], prompt.row % P
        for buckets, pieces in new.items():
            for batch in dealt(pieces, lambda item: item[0], self.shards, self.shards):
                beginnings = {lane: piece for lane, (_, piece) in batch.items()}
                self._prefill(beginnings, self.shards, Q, buckets)
        self._state = self._timed("place", self._state, sources, rows)
        self._ask({lane: (p, p.begins(token), int(rows[lane])) for lane, p in lanes.items()}, P)

    def _ask(self, lanes: Mapping[int, tuple[Prompt, int, int]], padding: int) -> None:
        """Appends what follows the beginnings of prompts, each with its length and its row."""
        R, T = self.shapes.prefill_rows, self.shapes.observation_text
        numbers = [-(-(len(prompt.ids) - 1 - begins) // T) for prompt, begins, _ in lanes.values()]
        for number in range(max(numbers)):
            tokens, rows = empty_tokens(R, T), np.full(R, padding, np.int32)
            for lane, (prompt, begins, row) in lanes.items():
                start, stop = begins + number * T, len(prompt.ids) - 1
                if start < stop:
                    cut = slice(start, min(start + T, stop))
                    ids, rows[lane] = prompt.ids[cut], row
                    write(tokens, lane, ids, prompt.positions[:, cut], np.full(len(ids), -1))
            self._state = self._timed("ask", self._params, self._state, tokens, rows)

    @property
    def _prompt_counts(self) -> tuple[int, int, int]:
        """Prompts that are computed together, rows for prompts, and rows for beginnings."""
        return self.shapes.prefill_rows, self.shapes.prefix_count, self.shapes.kept

    def _prefill(
        self, lanes: Mapping[int, "_Piece"], R: int, padding: int, buckets: tuple[int, int]
    ) -> None:
        """Prefills pieces by their lanes, of R; `padding` is one past the last row of a shard."""
        tokens = empty_tokens(R, self.shapes.prompt_length(*buckets))
        rows = np.full(R, padding, np.int32)
        for lane, (prompt, stop, row) in lanes.items():
            index = self._image_index(prompt.ids, prompt.visual)
            write(tokens, lane, prompt.ids[:stop], prompt.positions[:, :stop], index[:stop])
            rows[lane] = row
        visuals = {lane: piece.prompt.visual for lane, piece in lanes.items()}
        embeddings = self._encode(visuals, R, buckets[0])
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
        for lanes in dealt(
            extensions, lambda e: self.shard_of_row(e.row), self.shapes.extend_rows, self.shards
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
                index = self._image_index(e.ids, e.visual)
                write(tokens, lane, e.ids[cut], e.positions[:, cut], index[cut])
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
            of_row = self.shard_of_row
            [lanes] = dealt(rows, lambda r: of_row(r.row), of_shard * self.shards, self.shards)
        span = self.spans.fit(longest, "ids of an episode")
        each = any(row.sampling is not None for row in rows)
        drawn = jax.device_get(self._decode(lanes, of_shard, span, sampling or self.sampling, each))
        lane_of = {row.row: lane for lane, row in lanes.items()}
        return [lane_of[row.row] for row in rows], drawn

    def _decode(
        self,
        lanes: Mapping[int, LiveRow],
        of_shard: int,
        span: int,
        sampling: Sampling,
        each: bool,
    ) -> Any:
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
        own = None
        if each:
            of_lane = {lane: row.sampling or sampling for lane, row in lanes.items()}
            own = RowSampling.of([of_lane.get(lane, sampling) for lane in range(R)])
        self._state, drawn = self._timed(
            "decode",
            self._params,
            self._state,
            self._stops,
            self._allowed,
            Live(rows, Members(members, places), own),
            span,
            sampling,
        )
        return drawn

    @property
    def spans(self) -> Buckets:
        """Buckets for how many ids of a row a chunk of decode reads: one if its kernel reads each
        row as far as it reaches."""
        spans = replace(self.shapes, own=0).spans if self.copies else self.shapes.spans
        return Buckets(spans.sizes[-1:]) if self.programs.reaches else spans

    @property
    def decode_rows(self) -> Buckets:
        """Buckets for how many rows of a shard a chunk of decode computes: those that are live, or
        all in place."""
        slots = self.shapes.slots // self.shards
        all_at_once = self.programs.in_place or self.shapes.single
        return geometric(slots if all_at_once else -(-slots // 4), slots)

    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        replies: bool = True,
        also: Collection[Sampling] = (),
        each: bool = False,
    ) -> int:
        """Runs every program once on empty inputs, and returns how many there are. `prompts` limits
        those for prompts to these windows and text tokens; without `replies` none for what follows
        a turn are run; decodes are also run for each sampling of `also`, or, with `each`, only for
        rows that have samplings of their own."""
        with self.allocated():
            self.run_empty(prompts, replies, {self.sampling, *also}, each)
        self.programs.seal()
        return len(self.programs.traces)

    def run_empty(
        self,
        prompts: Collection[tuple[int, int]] | None,
        replies: bool,
        samplings: Collection[Sampling],
        each: bool,
    ) -> None:
        """What `warm_up` runs, on slots that are allocated."""
        shapes = self.shapes
        if prompts is None:
            prompts = [*itertools.product(shapes.image_windows.sizes, shapes.prompt_text.sizes)]
        R, count = (
            (self.shards, shapes.kept)
            if shapes.kept
            else (shapes.prefill_rows, shapes.prefix_count)
        )
        seen = {windows for windows, _ in prompts}
        for windows in sorted(seen):
            self._encoded({}, R, windows)
        for buckets in sorted(prompts):
            self._prefill({}, R, count // self.shards, buckets)
        if shapes.kept:
            none = np.full(shapes.prefill_rows, shapes.prefix_count // self.shards, np.int32)
            tokens = empty_tokens(shapes.prefill_rows, shapes.observation_text)
            self._state = self._timed("place", self._state, np.zeros_like(none), none)
            self._state = self._timed("ask", self._params, self._state, tokens, none)
        self.begin([])
        if replies:
            self.rewind([])
        for windows in (0, *shapes.crop_windows.sizes) if replies else ():
            embeddings = self._encode({}, shapes.extend_rows, windows) if windows else None
            if windows and shapes.kept and windows not in seen:
                self._encoded({}, self.shards, windows)
            tokens = empty_tokens(shapes.extend_rows, shapes.observation_length(windows))
            turns = self._no_turns(shapes.extend_rows)
            self._state = self._timed(
                "extend", self._params, self._state, tokens, embeddings, turns
            )
        for sampling in [self.sampling] if each else samplings:
            for of_shard, span in itertools.product(self.decode_rows.sizes, self.spans.sizes):
                self._decode({}, of_shard, span, sampling, each)

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

    def _image_index(self, ids: np.ndarray, visual: Visual | None) -> Int32[np.ndarray, "T"]:
        """The index of each id's image embedding among those of its picture; -1 at text."""
        index = np.full(len(ids), -1, np.int32)
        if visual is not None:
            index[ids == self.cfg.image_token] = self.processor.image_index(visual.grid)
        return index

    def _encode(
        self, visuals: Mapping[int, Visual | None], rows: int, windows: int
    ) -> jax.Array | np.ndarray:
        """The embeddings of pictures by their lanes, [R, N, D]. If beginnings are kept, so are
        embeddings: each distinct picture is encoded by itself, and only if it is new."""
        if not self.shapes.kept:
            return self._encoded(visuals, rows, windows)
        wanted = {visual.name: visual for visual in visuals.values() if visual is not None}
        each = {name: self.embeddings.get(name) for name in wanted}
        new = [visual for name, visual in wanted.items() if each[name] is None]
        for first in range(0, len(new), self.shards):
            batch = new[first : first + self.shards]
            fresh = jax.device_get(self._encoded(dict(enumerate(batch)), self.shards, windows))
            for visual, embedding in zip(batch, fresh):
                each[visual.name] = embedding
                self.embeddings.put(visual.name, embedding)
        tokens = windows * self.processor.window**2
        together = np.zeros((rows, tokens, self.cfg.text.width), jnp.dtype(self.cfg.dtype))
        for lane, shown in visuals.items():
            if shown is not None:
                together[lane] = each[shown.name]
        return together

    def _encoded(self, visuals: Mapping[int, Visual | None], rows: int, windows: int) -> Any:
        images = empty_images(rows, windows, self.processor)
        for lane, visual in visuals.items():
            if visual is not None:
                images.pixels[lane], images.grid[lane] = visual.patches, visual.grid
        return self._timed("encode", self._params, images)
