"""The engine's slots: NumPy in, NumPy out, the state and its compiled programs in between.

Each call fits what it is given into the buckets of `RolloutShapes` and runs one program or two.
Nothing here knows of turns, tools or queues.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8, UInt32

from lfpc_jax.arrays import Tree
from lfpc_jax.model.cache import Cache
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.processing.batch import empty_images, empty_tokens
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.programs import Beginnings, Drawn, Programs, State, Turns
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.skipped import PromptTooLong
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Tokens


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
class Prefix:
    """Prompts without their last tokens, as rows of a cache."""

    cache: Cache
    prompts: int


@dataclass(frozen=True, eq=False)
class Beginning:
    """A rollout that begins in `row` of the slots, from row `source` of a prefix."""

    row: int
    source: int
    pending: int
    position: int
    budget: int
    key: UInt32[np.ndarray, "2"]


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
    ) -> None:
        if not cfg.vision.window == processor.window == shapes.window:
            raise ValueError(
                f"attention windows of {cfg.vision.window} (model), {processor.window} (image "
                f"processor) and {shapes.window} (rollout shapes) tokens; they must be the same"
            )
        self.cfg = cfg
        self.shapes = shapes
        self.processor = processor
        self.sampling = sampling
        self.programs = Programs(cfg, shapes, unstacked=unstacked, mesh=mesh)
        self._unstack = jax.jit(unstack) if unstacked else None
        self._stops, self._allowed = jnp.asarray(stops), jnp.asarray(allowed)
        self._params: Tree = None
        self._state: State | None = None

    @contextmanager
    def allocated(self) -> Iterator[None]:
        """The cache exists only inside this block, and all slots are free at its start."""
        assert self._state is None, "a run at a time"
        self._state = self.programs.empty()
        try:
            yield
        finally:
            self._state = None

    def load(self, params: Tree) -> None:
        """Takes stacked parameters without a copy, unless they must be unstacked."""
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

    def prefill(self, prompts: Sequence[tuple[np.ndarray, np.ndarray, Visual | None]]) -> Prefix:
        """Encodes and prefills prompts, given by ids and positions. They share both buckets, and
        there are at most `prefill_rows`."""
        rows = self.shapes.prefill_rows
        assert 1 <= len(prompts) <= rows, (len(prompts), rows)
        windows, text = self.prompt_buckets(len(prompts[0][0]), prompts[0][2])
        tokens = empty_tokens(rows, self.shapes.prompt_length(windows, text))
        for row, (ids, positions, visual) in enumerate(prompts):
            places = self._places(ids, visual, row)
            _write(tokens, row, ids[:-1], positions[:, :-1], places[:-1])
        embeddings = self._encode([visual for *_, visual in prompts], rows, windows)
        return Prefix(self.programs.prefill(self._params, tokens, embeddings), len(prompts))

    def place(self, prefix: Prefix, beginnings: Sequence[Beginning]) -> None:
        padded = pad_beginnings(beginnings, self.shapes.slots)
        self._state = self.programs.place(self._state, prefix.cache, padded)

    def extend(self, extensions: Sequence[Extension]) -> None:
        """Writes at most `extend_rows` extensions, whose pictures share a bucket or which have
        none."""
        R = self.shapes.extend_rows
        assert 1 <= len(extensions) <= R, (len(extensions), R)
        visuals = [e.visual for e in extensions if e.visual is not None]
        assert len(visuals) in (0, len(extensions)), "pictures and none in one batch"
        windows = len(visuals[0].patches) if visuals else 0
        embeddings = self._encode(visuals, R, windows) if visuals else None
        length = self.shapes.observation_length(windows)
        # The last id becomes pending and is not written.
        pieces = max(-(-(len(e.ids) - 1) // length) for e in extensions)
        for piece in range(pieces):
            tokens = empty_tokens(R, length)
            turns = no_turns(R, self.shapes.slots)
            for row, e in enumerate(extensions):
                start, stop = piece * length, min((piece + 1) * length, len(e.ids) - 1)
                if start >= stop:
                    continue
                cut = slice(start, stop)
                places = self._places(e.ids, e.visual, row)
                _write(tokens, row, e.ids[cut], e.positions[:, cut], places[cut])
                last = stop == len(e.ids) - 1
                turns.rows[row] = e.row
                turns.pending[row] = e.ids[stop]
                turns.position[row] = e.position
                turns.budget[row] = e.budget if last else 0
            self._state = self.programs.extend(self._params, self._state, tokens, embeddings, turns)

    def decode(self, longest: int, sampling: Sampling | None = None) -> Drawn:
        """Decodes one chunk for all live rows, none of which has more than `longest` ids.
        `sampling` replaces the usual one."""
        span = self.shapes.spans.fit(
            min(longest + self.shapes.chunk, self.shapes.capacity), "ids of an episode"
        )
        self._state, drawn = self.programs.decode(
            self._params, self._state, self._stops, self._allowed, span, sampling or self.sampling
        )
        return jax.device_get(drawn)

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
            embeddings = self._encode([], shapes.prefill_rows, windows)
            tokens = empty_tokens(shapes.prefill_rows, shapes.prompt_length(windows, text))
            cache = self.programs.prefill(self._params, tokens, embeddings)
            self.place(Prefix(cache, 0), [])
        for windows in (0, *shapes.crop_windows.sizes) if replies else ():
            embeddings = self._encode([], shapes.extend_rows, windows) if windows else None
            tokens = empty_tokens(shapes.extend_rows, shapes.observation_length(windows))
            turns = no_turns(shapes.extend_rows, shapes.slots)
            self._state = self.programs.extend(self._params, self._state, tokens, embeddings, turns)
        for sampling, span in itertools.product(samplings, shapes.spans.sizes):
            self.decode(span - shapes.chunk, sampling)

    def _places(self, ids: np.ndarray, visual: Visual | None, row: int) -> Int32[np.ndarray, "T"]:
        """The index of each id's image embedding in a batch of images; -1 at text."""
        places = np.full(len(ids), -1, np.int32)
        if visual is not None:
            first = row * len(visual.patches) * self.processor.window**2
            places[ids == self.cfg.image_token] = first + self.processor.places(visual.grid)
        return places

    def _encode(self, visuals: Sequence[Visual | None], rows: int, windows: int) -> jax.Array:
        images = empty_images(rows, windows, self.processor)
        for row, visual in enumerate(visuals):
            if visual is not None:
                images.pixels[row], images.grid[row] = visual.patches, visual.grid
        return self.programs.encode(self._params, images)


def _write(
    tokens: Tokens, row: int, ids: np.ndarray, positions: np.ndarray, places: np.ndarray
) -> None:
    n = len(ids)
    tokens.ids[row, :n] = ids
    tokens.positions[:, row, :n] = positions
    tokens.segments[row, :n] = 1
    tokens.places[row, :n] = places


def no_turns(count: int, slots: int) -> Turns:
    """Only padding: rows past the last slot."""
    zeros = [np.zeros(count, np.int32) for _ in range(3)]
    return Turns(np.full(count, slots, np.int32), *zeros)


def pad_beginnings(beginnings: Sequence[Beginning], slots: int) -> Beginnings:
    """As arrays, padded with rows past the last slot."""
    padded = Beginnings(
        turns=no_turns(slots, slots),
        sources=np.zeros(slots, np.int32),
        number=np.int32(len(beginnings)),
        key=np.zeros((slots, 2), np.uint32),
    )
    for place, beginning in enumerate(beginnings):
        padded.turns.rows[place] = beginning.row
        padded.turns.pending[place] = beginning.pending
        padded.turns.position[place] = beginning.position
        padded.turns.budget[place] = beginning.budget
        padded.sources[place] = beginning.source
        padded.key[place] = beginning.key
    return padded
