"""Every static length. Nothing else in the package decides one.

A program is compiled for a fixed shape, so each length that comes from data is rounded up to a
bucket. What is larger than the largest bucket is refused, never cut.
"""

import math
from dataclasses import dataclass
from functools import cached_property

ASPECT_LIMIT = 200
"""The longest an image may be for its height (or the reverse), by Qwen's resize rule."""


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
        """The smallest bucket that holds `n`; `what` names it should none do."""
        for size in self.sizes:
            if n <= size:
                return size
        raise ValueError(
            f"{what}: {n} is more than the largest bucket of {self.sizes}; "
            "add a larger bucket, or lower the budget that this length comes from"
        )


def geometric(smallest: int, largest: int, ratio: float = 2.0) -> Buckets:
    """Buckets from `smallest`, each `ratio` times the one before, closed by `largest`.

    Padding then costs less than `ratio` times what was asked for, with few programs.
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
    """Attention windows of an image, `window` merged tokens a side; edge windows count whole."""
    return -(-grid_rows // window) * -(-grid_cols // window)


def max_windows(max_tokens: int, window: int = 4) -> int:
    """The most windows that any image of at most `max_tokens` merged tokens can need.

    Thin strips waste the most. With R <= C merged tokens a side, Qwen's resize bounds C by R:
    - rounding to the nearest: the image has fewer than R + 1/2 rows, so C <= 200 (R + 1/2);
    - shrinking to a budget of at most T tokens: the real sides have a product of at most T and a
      ratio of at most 200, so C <= sqrt(200 T);
    - growing to the minimum: C < 200 R + 1.
    The bound is attained, or nearly: the last few columns of an odd R cannot be reached.

    It holds for grids within `max_tokens`. The rule itself breaks a budget T for strips of a ratio
    over T, whose short side cannot shrink below one token; `Buckets.fit` refuses those.
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
    """Windows that a picture of at most `max_tokens` needs if it is no strip."""
    side = math.isqrt(max_tokens - 1) // window + 1
    return side * (side + 1)


def window_buckets(max_tokens: int, window: int = 4) -> Buckets:
    """Windows for images of at most `max_tokens`: full pictures of a ratio under about 3:1, as most
    are, fill one bucket well; below it are halves for smaller pictures, above it are strips."""
    common, most = common_windows(max_tokens, window), max_windows(max_tokens, window)
    sizes = {-(-common // 4), -(-common // 2), common, 2 * common}
    return Buckets((*sorted(size for size in sizes if size < most), most))


@dataclass(frozen=True)
class RolloutShapes:
    """The lengths of the rollout engine's programs.

    `capacity` bounds an episode's ids, prompt and observations included; `prompt_text` the prompt's
    tokens beside its image; `image_tokens` and `crop_tokens` are the visual budgets of the shown
    image and of a crop. An observation's text beyond `observation_text` goes in further pieces.
    `prefill_rows` prompts and `extend_rows` observations go through their programs at once.
    `window` is the side of the vision tower's windows in merged tokens. Buckets of windows follow
    from the budgets, if they are not given.
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

    def __post_init__(self) -> None:
        counts = (self.slots, self.chunk, self.observation_text, self.prefill_rows)
        if min(*counts, self.extend_rows, self.image_tokens, self.crop_tokens) < 1:
            raise ValueError(f"{self}: every length and count must be at least 1")
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
                    f"{tokens} tokens can need {most} windows; end them there"
                )

    @cached_property
    def spans(self) -> Buckets:
        """How far into the cache a decode reads: while all rows are short, not to its end."""
        return geometric(-(-self.capacity // 4), self.capacity)

    @cached_property
    def image_windows(self) -> Buckets:
        return self.image_buckets or window_buckets(self.image_tokens, self.window)

    @cached_property
    def crop_windows(self) -> Buckets:
        return self.crop_buckets or window_buckets(self.crop_tokens, self.window)

    def prompt_length(self, windows: int, text: int) -> int:
        """Tokens of a prefill whose image and text lie in these buckets."""
        return min(windows * self.window**2, self.image_tokens) + text

    def observation_length(self, windows: int) -> int:
        """Tokens of one piece of an observation; 0 windows without a picture."""
        return min(windows * self.window**2, self.crop_tokens) + self.observation_text


@dataclass(frozen=True)
class TrainShapes:
    """The lengths of an update's micro-batch on each shard of the batch: `rows` rows of
    `row_tokens` tokens, and windows for the pictures that they show.

    The smallest bucket of `windows` is filled with several episodes, and lies in spans of `span`
    windows (0: one of all) that no picture crosses; a larger bucket, all of it one span, serves an
    episode that does not fit there. With `shared`, episodes of one record lie in a row behind one
    copy of their prompt.
    """

    row_tokens: int
    rows: int
    windows: Buckets
    span: int = 0
    shared: bool = False

    def __post_init__(self) -> None:
        if min(self.row_tokens, self.rows) < 1:
            raise ValueError(f"{self}: rows and row_tokens must be at least 1")
        if self.span and self.windows.sizes[0] % self.span:
            raise ValueError(f"{self}: the smallest bucket of windows is not whole spans")

    def span_of(self, windows: int) -> int:
        """The span in a bucket."""
        return self.span or windows if windows == self.windows.sizes[0] else windows

    @classmethod
    def of(
        cls,
        rollout: RolloutShapes,
        *,
        max_turns: int,
        rows: int,
        row_tokens: int = 0,
        windows: int = 0,
        shared: bool = False,
    ) -> "TrainShapes":
        """Room for any episode that such an engine can make. `windows` are filled in a
        micro-batch; 0 stands for an image and a crop of full size, no strips, for each row."""
        if min(rows, max_turns) < 1 or windows < 0:
            raise ValueError(
                f"train shapes: {rows} rows, {max_turns} turns, {windows} windows; there must be "
                "at least 1 row and 1 turn, and windows (0: as many as follow) not under 0"
            )
        row_tokens = row_tokens or rollout.capacity
        if row_tokens < rollout.capacity:
            raise ValueError(
                f"train shapes: rows of {row_tokens} tokens cannot hold an episode of "
                f"{rollout.capacity}; raise row_tokens, or lower the rollout's capacity"
            )
        crops = max_turns - 1
        worst = rollout.image_windows.sizes[-1] + crops * rollout.crop_windows.sizes[-1]
        budgets = rollout.image_tokens, rollout.crop_tokens
        usual = [common_windows(tokens, rollout.window) for tokens in budgets]
        filled = windows or rows * sum(usual)
        span = filled // max(1, filled // max(usual))
        filled -= filled % span
        if filled == span >= worst:
            return cls(row_tokens, rows, Buckets((filled,)), shared=shared)
        return cls(row_tokens, rows, Buckets((filled, max(worst, filled + 1))), span, shared)


def micro_batches_for(n: int) -> int:
    """The power of four that holds `n`: how many a program is compiled for. Those that only pad
    are skipped, so few programs are worth more than little padding."""
    return 4 ** -(-(n - 1).bit_length() // 2)
