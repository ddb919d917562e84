"""Every static length. No other module decides one.

A program is compiled for a fixed shape, so each length that comes from data is rounded up to a
bucket. A length above the largest bucket raises an error; nothing is ever cut.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

ASPECT_LIMIT = 200
"""The largest ratio of an image's longer side to its shorter side, by Qwen's resize rule."""


@dataclass(frozen=True)
class Buckets:
    """The lengths that programs are compiled for, ascending."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.sizes, self.sizes[1:]))
        if not self.sizes or self.sizes[0] < 1 or not ascending:
            raise ValueError(
                f"buckets {self.sizes}: list at least one size, positive and strictly ascending"
            )

    def fit(self, n: int, what: str) -> int:
        """The smallest bucket that holds `n`; `what` names the length in an error."""
        for size in self.sizes:
            if n <= size:
                return size
        raise ValueError(
            f"{what}: {n} is more than the largest bucket of {self.sizes}; "
            "add a larger bucket, or lower the budget that this length comes from"
        )


def geometric(smallest: int, largest: int, ratio: float = 2.0) -> Buckets:
    """Buckets from `smallest`, each `ratio` times the one before, and last `largest`.

    A padded length is then less than `ratio` times the length itself, with few programs.
    """
    if not 1 <= smallest <= largest or ratio <= 1:
        raise ValueError(
            f"buckets from {smallest} to {largest} by {ratio}: "
            "need 1 <= smallest <= largest and a ratio over 1"
        )
    sizes = []
    size = smallest
    while size < largest:
        sizes.append(size)
        size = math.ceil(size * ratio)
    return Buckets((*sizes, largest))


def windows_for(grid_rows: int, grid_cols: int, window: int = 4) -> int:
    """The number of attention windows of an image, each `window` merged tokens on a side. Windows
    that the image fills only partly count too."""
    return -(-grid_rows // window) * -(-grid_cols // window)


def max_windows(max_tokens: int, window: int = 4) -> int:
    """The most windows that any image of at most `max_tokens` merged tokens can need.

    Thin strips need the most. For R rows and C >= R columns of merged tokens, Qwen's resize bounds
    C in terms of R:
    - if it rounds to the nearest size, the image has fewer than R + 1/2 rows: C <= 200 (R + 1/2);
    - if it shrinks to a budget of at most T tokens, the sides before rounding have a product of at
      most T and a ratio of at most 200: C <= sqrt(200 T);
    - if it grows to the minimum: C < 200 R + 1.
    Images reach the bound, or miss it by a few columns if R is odd.

    The bound holds for grids within `max_tokens`. The resize rule exceeds a budget T for strips
    with a ratio over T, since their short side cannot shrink below one token; `Buckets.fit`
    refuses those.
    """
    shrunk = math.isqrt(ASPECT_LIMIT * max_tokens)
    return max(
        windows_for(
            rows,
            min(max_tokens // rows, max(ASPECT_LIMIT * rows + ASPECT_LIMIT // 2, shrunk)),
            window,
        )
        for rows in range(1, math.isqrt(max_tokens) + 1)
    )


def common_windows(max_tokens: int, window: int = 4) -> int:
    """The windows that a picture of at most `max_tokens` needs if it is not a strip."""
    side = math.isqrt(max_tokens - 1) // window + 1
    return side * (side + 1)


def window_buckets(max_tokens: int, window: int = 4) -> Buckets:
    """Buckets of windows for images of at most `max_tokens`. Most pictures have the full budget and
    a ratio of sides under about 3:1; they fill one bucket well. A half and a quarter of that bucket
    serve smaller pictures, and larger ones serve strips."""
    common, most = common_windows(max_tokens, window), max_windows(max_tokens, window)
    sizes = {-(-common // 4), -(-common // 2), common, 2 * common}
    return Buckets((*sorted(size for size in sizes if size < most), most))


def _check_least(shapes: object, what: str, least: int, *names: str) -> None:
    """Raises ValueError with the lengths and counts that are smaller than they may be."""
    small = {name: getattr(shapes, name) for name in names if getattr(shapes, name) < least}
    if small:
        listed = ", ".join(f"{name} {value}" for name, value in small.items())
        raise ValueError(f"{what}: {listed}; at least {least}")


@dataclass(frozen=True)
class RolloutShapes:
    """The lengths of the rollout engine's programs.

    `slots` conversations are decoded at the same time, `chunk` tokens in each call of the program.
    `capacity` is the most ids of an episode, prompt and observations included. `prompt_text` bounds
    the prompt's tokens beside its image. `image_tokens` and `crop_tokens` are the visual budgets of
    the shown image and of a crop. An observation with more text than `observation_text` is
    processed in several pieces. The prefill program takes `prefill_rows` prompts at once, the
    extend program `extend_rows` observations. `window` is the side of the vision tower's windows in
    merged tokens. Buckets of windows follow from the budgets if they are not given.

    `prefixes` prompts are in memory at once (0: one for every slot). At most `members` rollouts
    continue one of them, and their queries meet it as one product. `own` is the most ids that an
    episode has after its prompt (0: as many as the capacity).

    With `kept`, prompts are computed in two parts: a beginning up to the picture's end, and the
    text behind it. So many beginnings stay in memory, for prompts that begin alike.

    With `single`, decode has one bucket of rows and of spans (see `largest`).
    """

    slots: int = 8
    chunk: int = 16
    capacity: int = 4096
    image_tokens: int = 1024
    crop_tokens: int = 1024
    prompt_text: Buckets = Buckets((512,))
    observation_text: int = 64
    prefill_rows: int = 1
    extend_rows: int = 1
    window: int = 4
    image_buckets: Buckets | None = None
    crop_buckets: Buckets | None = None
    prefixes: int = 0
    members: int = 8
    own: int = 0
    kept: int = 0
    single: bool = False

    def __post_init__(self) -> None:
        counts = ("slots", "prefill_rows", "extend_rows", "members")
        lengths = ("chunk", "image_tokens", "crop_tokens", "observation_text")
        _check_least(self, "rollout shapes", 1, *counts, *lengths)
        _check_least(self, "rollout shapes", 0, "prefixes", "own", "kept")
        if 0 < self.kept < self.prefill_rows:
            raise ValueError(
                f"rollout shapes: {self.kept} beginnings are kept, but {self.prefill_rows} prompts "
                "are computed together; keep at least as many (or 0 to compute prompts whole)"
            )
        if self.prompt_text.sizes[-1] + self.image_tokens > self.capacity:
            raise ValueError(
                f"rollout shapes: a prompt of {self.image_tokens} image and "
                f"{self.prompt_text.sizes[-1]} text tokens does not fit the capacity of "
                f"{self.capacity}; raise capacity, or lower image_tokens or prompt_text"
            )
        for name, windows, tokens in (
            ("image_buckets", self.image_windows, self.image_tokens),
            ("crop_buckets", self.crop_windows, self.crop_tokens),
        ):
            if windows.sizes[-1] < (most := max_windows(tokens, self.window)):
                raise ValueError(
                    f"rollout shapes: {name} end at {windows.sizes[-1]}, but a narrow picture of "
                    f"{tokens} tokens can need {most} windows; make the last bucket {most}"
                )

    def sharded(self, shards: int) -> "RolloutShapes":
        """These shapes, with every count of rows rounded up to what so many copies of the model
        share equally."""

        def rounded(count: int) -> int:
            return -(-count // shards) * shards

        return replace(
            self,
            slots=rounded(self.slots),
            prefill_rows=rounded(self.prefill_rows),
            extend_rows=rounded(self.extend_rows),
            prefixes=rounded(self.prefixes),
            kept=rounded(self.kept),
        )

    def largest(self) -> "RolloutShapes":
        """These shapes with one bucket of everything, the largest. Its programs are few and hold
        whatever the others do, with more padding; memory is the same."""

        def last(buckets: Buckets) -> Buckets:
            return Buckets(buckets.sizes[-1:])

        return replace(
            self,
            prompt_text=last(self.prompt_text),
            image_buckets=last(self.image_windows),
            crop_buckets=last(self.crop_windows),
            single=True,
        )

    @cached_property
    def prefix_count(self) -> int:
        return self.prefixes or self.slots

    @cached_property
    def prefix_capacity(self) -> int:
        """The most ids of a prompt."""
        return self.prompt_length(self.image_windows.sizes[-1], self.prompt_text.sizes[-1])

    @cached_property
    def own_capacity(self) -> int:
        return min(self.own or self.capacity, self.capacity)

    @cached_property
    def spans(self) -> Buckets:
        """Buckets for how many of a row's own ids a chunk of decode reads: as many as the longest
        row has."""
        longest = self.own_capacity
        return Buckets((longest,)) if self.single else geometric(-(-longest // 4), longest)

    @cached_property
    def image_windows(self) -> Buckets:
        return self.image_buckets or window_buckets(self.image_tokens, self.window)

    @cached_property
    def crop_windows(self) -> Buckets:
        return self.crop_buckets or window_buckets(self.crop_tokens, self.window)

    def prompt_length(self, windows: int, text: int) -> int:
        """The tokens of a prefill whose image and text have these buckets."""
        return min(windows * self.window**2, self.image_tokens) + text

    def observation_length(self, windows: int) -> int:
        """The tokens of a piece of an observation; `windows` is 0 without a picture."""
        return min(windows * self.window**2, self.crop_tokens) + self.observation_text


@dataclass(frozen=True)
class TrainShapes:
    """The lengths of an update's micro-batches on each shard of the batch.

    A micro-batch of rows has `rows` rows of `row_tokens` tokens. A row has places for `places`
    tokens that count; a micro-batch in which a row has more of them has places for every token of
    a row. With `shared`, episodes of a record follow one copy of their prompt in a row.

    A micro-batch of pictures has `windows` windows. They are divided into spans of `span` windows
    that no picture crosses. A picture that does not fit in a span, as a strip, lies in a
    micro-batch that is a single span.
    """

    row_tokens: int
    rows: int
    places: int
    windows: int
    span: int
    shared: bool = False

    def __post_init__(self) -> None:
        every = ("row_tokens", "rows", "places", "windows", "span")
        _check_least(self, "update shapes", 1, *every)
        if self.places > self.row_tokens:
            raise ValueError(
                f"update shapes: {self.places} places in rows of {self.row_tokens} tokens; a row "
                "has no more places than tokens; lower places"
            )
        if self.windows % self.span:
            raise ValueError(
                f"update shapes: {self.windows} windows in spans of {self.span}; windows must be a "
                "multiple of the span"
            )

    @property
    def spans(self) -> tuple[int, ...]:
        """The spans that a micro-batch of pictures may have, the usual first."""
        return tuple(dict.fromkeys((self.span, self.windows)))

    @property
    def all_places(self) -> tuple[int, ...]:
        """The places that a row may have, the usual first."""
        return tuple(dict.fromkeys((self.places, self.row_tokens)))

    @classmethod
    def of(
        cls,
        rollout: RolloutShapes,
        *,
        max_turns: int,
        rows: int,
        row_tokens: int = 0,
        places: int = 0,
        windows: int = 0,
        shared: bool = False,
    ) -> "TrainShapes":
        """Shapes that hold any episode of such an engine. 0 `row_tokens` are the engine's capacity,
        0 `places` a quarter of the row, and 0 `windows` are enough for an image and a crop of full
        size. A micro-batch of pictures has as many windows as its largest picture needs, or more.
        """
        if min(rows, max_turns) < 1 or min(windows, places) < 0:
            raise ValueError(
                f"train shapes: {rows} rows, {max_turns} turns, {places} places, {windows} "
                "windows; rows and turns must be at least 1, and places and windows at least 0 "
                "(0: computed from the budgets)"
            )
        row_tokens = row_tokens or rollout.capacity
        if row_tokens < rollout.capacity:
            raise ValueError(
                f"train shapes: rows of {row_tokens} tokens cannot hold an episode of "
                f"{rollout.capacity}; raise row_tokens, or lower the rollout's capacity"
            )
        if places > row_tokens:
            raise ValueError(
                f"train shapes: {places} places in rows of {row_tokens} tokens; lower places, or "
                "raise row_tokens"
            )
        buckets = [rollout.image_windows, *[rollout.crop_windows] * (max_turns > 1)]
        budgets = [rollout.image_tokens, *[rollout.crop_tokens] * (max_turns > 1)]
        usual = [common_windows(tokens, rollout.window) for tokens in budgets]
        span = max(usual)
        needed = max(windows or sum(usual), *(sizes.sizes[-1] for sizes in buckets), span)
        return cls(
            row_tokens,
            rows,
            places or -(-row_tokens // 4),
            -(-needed // span) * span,
            span,
            shared,
        )


def scoring_shapes(
    lengths: Sequence[tuple[int, int]],
    windows: Sequence[int],
    *,
    keys: float,
    shared: bool,
    shards: int,
) -> TrainShapes:
    """The shapes that score episodes of one record, with micro-batches of a single row and span.
    `lengths` are the tokens of each episode, those that can be shared and all, and `windows` those
    of each distinct picture. Rows are short enough for every one of the `shards` to have one.

    Longer rows hold fewer copies of the prompt, but attention looks at more of the row in vain. If
    a token's products with the weights cost as much as its attention to `keys` keys, a prompt of P
    tokens is best in rows of about P + sqrt(P^2 + P keys); half of attention is its softmax, which
    moves memory (docs/log.md).
    """
    prompt = max(begins for begins, _ in lengths) if shared else 0
    longest = max(length for _, length in lengths)
    rest = [length - (begins if shared else 0) for begins, length in lengths]
    best = 2 ** round(math.log2(max(prompt + math.sqrt(prompt**2 + prompt * keys), 128)))
    unit = max(64, best // 8)
    on_shard = prompt + min(sum(rest), -(-len(rest) // shards) * max(rest))
    row_tokens = -(-min(max(best, 2 * longest), on_shard) // unit) * unit
    span = max(4, -(-max(windows, default=0) // 4) * 4)
    return TrainShapes(row_tokens, 1, row_tokens, span, span, shared)


def scoring_micro_batches(
    shapes: TrainShapes,
    windows: Sequence[int],
    *,
    rows: int,
    counting: int,
    tokens: int,
    shards: int,
) -> TrainShapes:
    """Shapes from `scoring_shapes` with micro-batches for so many `rows`, of which none has more
    than `counting` tokens that count. On each shard, a micro-batch of rows has up to `tokens`
    tokens, or one row. One of pictures has up to a window for each 128 `tokens`, or one span, and
    at most an eighth of its spans are padding."""
    on_shard = -(-rows // shards)
    row_batches = -(-on_shard // max(1, tokens // shapes.row_tokens))
    # The full image is on every shard, a crop on one.
    spans = 1 + -(-(spans_for(windows, shapes.span) - 1) // shards)
    picture_batches = -(-spans // max(1, tokens // 128 // shapes.span))
    each = -(-spans // picture_batches)
    unit = max(1, 2 ** (each.bit_length() - 4))
    return replace(
        shapes,
        rows=-(-on_shard // row_batches),
        places=min(2 ** (counting - 1).bit_length(), shapes.row_tokens),
        windows=-(-each // unit) * unit * shapes.span,
    )


def spans_for(windows: Sequence[int], span: int) -> int:
    """The spans that hold pictures of so many windows, the largest first, each in the first span
    that has room for it."""
    left: list[int] = []
    for size in sorted(windows, reverse=True):
        at = next((at for at, free in enumerate(left) if free >= size), None)
        if at is None:
            left.append(span - size)
        else:
            left[at] -= size
    return max(1, len(left))


def micro_batches_for(n: int) -> int:
    """For how many micro-batches of pictures embeddings have room, to hold those of `n`: a power of
    two, or one and a half times one. Only the programs that move embeddings depend on it."""
    power = 2 ** max(0, (n - 1).bit_length())
    return power // 4 * 3 if power >= 4 and n <= power // 4 * 3 else power
