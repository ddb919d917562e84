"""The records that packages hand to each other.

Letters: B rows, T tokens, N tokens that count, I images, W windows, P patches of a window, C values
of a patch, R rows of windows, S spans.

JAX also builds its trees with shardings, shapes or tracers in place of arrays. So the shapes of
their fields are stated but not checked.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float64, UInt8

from lfpc_jax.arrays import Array, Box4, Nests, Size


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Images:
    """Images that have the same bucket of windows, window-major, as bytes.

    `grid` counts rows and columns of merged tokens; a padding image is (0, 0). Windows are in
    raster order, and patches lie in a window where they lie in the picture. So `grid` alone tells
    which patches of a window at the edge are padding.
    """

    pixels: Array  # uint8 [I, W, P, C]
    grid: Array  # int32 [I, 2]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedImages:
    """A micro-batch of pictures: rows of windows, one for each shard, cut into spans. A span may
    hold several pictures of any sizes.

    For each window, `picture` is the number of its picture in the row (from 1; 0 is padding),
    `grid` is that picture's grid, and `window` is the window's number in the picture.
    """

    pixels: Array  # uint8 [R, S, W, P, C]
    picture: Array  # int32 [R, S, W]
    grid: Array  # int32 [R, S, W, 2]
    window: Array  # int32 [R, S, W]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Rows of tokens. Several episodes may share a row, each as a segment; segment 0 is padding.

    `image_index` is -1 at text. At an image placeholder it is the index of the embedding that
    belongs there: among all that `encode_images` returns or, in updates, among those of the shard
    that the row is on (see `grpo/packing.py`).

    `prefix` names the segment that a token attends to beside its own, such as a shared prompt.
    Where there is none, it is the token's own segment. Without `prefix`, no segment attends to
    another.
    """

    ids: Array  # int32 [B, T]
    positions: Array  # int32 [3, B, T]
    segments: Array  # int32 [B, T]
    image_index: Array  # int32 [B, T]
    prefix: Array | None = None  # int32 [B, T]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """A micro-batch of rows of packed episodes, and what the loss needs for the tokens that count.

    `at` are the indices of these tokens in their row. They are the sampled tokens; no others have
    logits. Where a row has fewer than N, the rest is 0, with weight 0.

    `weights` says how much a token counts. Weights sum to 1 over the mini-batch; groups without
    variance are left out but keep their share, so the sum may be below 1.

    `sampler` are log-probabilities of the distribution that tokens were drawn from, `old` of the
    policy before the step, `reference` of the policy that a KL term stays near. Without `old`, the
    policy itself takes its place. `fresh` marks the tokens of episodes that the policy before the
    step drew alone; the others may be less likely to it than they were to their sampler. Without
    `fresh`, all are.
    """

    tokens: Tokens
    at: Array  # int32 [B, N]
    weights: Array  # float32 [B, N]
    advantages: Array  # float32 [B, N]
    sampler: Array  # float32 [B, N]
    old: Array | None = None  # float32 [B, N]
    reference: Array | None = None  # float32 [B, N]
    fresh: Array | None = None  # bool [B, N]


End = Literal["answered", "proposed", "no_action", "max_turns", "max_tokens", "context_full"]
"""Why an episode ended; `proposed` with a call whose tool ends episodes, as a crop network's box
does."""


Metric = Literal["rules", "vqa", "anls", "anls_half"]
"""How an answer is scored: right or wrong by `rewards.answers` (and a judge), or a number in 0..1
by one of the formulas of `rewards.graded`."""


@dataclass(frozen=True)
class Picture:
    """An original image, still encoded: a file, or the file's bytes. A record without a picture has
    neither. It is opened only where it is used."""

    path: str | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Record:
    """A question about one original image.

    With `options` (texts, in the order A, B, ...) the answer is a letter. `longest_side` is the
    image gap: the shown image is first downsampled to it; None shows all that the token budget
    allows. `metric` says how answers are scored. "rules" compare with `answer` alone; the other
    metrics compare with all `references`, of which `answer` is then the one that stands for all.
    """

    id: str
    question: str
    answer: str
    picture: Picture
    options: tuple[str, ...] = ()
    targets: Nests = ()
    longest_side: int | None = None
    dataset: str = ""
    category: str = ""
    references: tuple[str, ...] = ()
    metric: Metric = "rules"

    @property
    def graded(self) -> bool:
        """Whether an answer may be partly right."""
        return self.metric != "rules"

    def entry(self) -> dict[str, Any]:
        """All fields but the picture, which is empty, as files and digests hold them. `references`
        and `metric` are left out where they have their defaults, so that what was written before
        they were there stays as it was."""
        entry = asdict(replace(self, picture=Picture()))
        if not self.references:
            del entry["references"]
        if not self.graded:
            del entry["metric"]
        return entry


@dataclass(frozen=True)
class Crop:
    """A crop that a call gave: `written` is the box in the model's convention, `box` the
    one that was cut, after clamping and growing, which is scored."""

    written: Box4
    box: Box4


@dataclass(frozen=True)
class Turn:
    """A turn of the model, `ids[start:stop]` of its trajectory.

    `text` leaves out the token that ended the turn, if that is a special token. `call` says that
    the turn asked for a tool. A call has a `crop` if one came back, and a `fault` if it was
    refused: the cause. It has neither if the tool gives no crops, or if the episode ended before
    the crop came back.
    """

    start: int
    stop: int
    text: str
    call: bool = False
    crop: Crop | None = None
    fault: str = ""


@dataclass(frozen=True)
class Trajectory:
    """A whole episode: every id that the model saw or sampled, in order.

    `logprobs` are of the distribution that was sampled from. `policy_logprobs` are of the policy,
    at the same temperature but without top-k and top-p (see rollout/sampling.py). Both are 0 where
    nothing was sampled. `answer` is the answer of the last turn, or None. Sizes are (0, 0) if the
    record has no picture. The arrays are read-only views of those given.

    The answer to a crop network's box is the target model's. `likelihood` is then the target's
    log-likelihood of the record's answer, if it was computed. `unanswered` says why the target
    could not be asked; such an episode has no reward.

    `versions` are runs of sampled tokens in their order, each as the version of the weights that
    drew them (how many updates these had had) and their number. A run of 0 tokens is the prompt's,
    where other weights drew all tokens than those that computed it. Without versions, none are
    known: in demonstrations, and in archives of before.
    """

    record: str
    rollout: int
    ids: Array  # int32 [T]
    sampled: Array  # bool [T]
    logprobs: Array  # float32 [T]
    policy_logprobs: Array  # float32 [T]
    original: Size
    shown: Size
    turns: tuple[Turn, ...]
    end: End
    answer: str | None
    likelihood: float | None = None
    unanswered: str = ""
    versions: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("ids", "sampled", "logprobs", "policy_logprobs"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    def drawn_by(self, version: int | None) -> bool:
        """Whether weights of this version alone drew its tokens, from a prompt of their own."""
        return {of for of, _ in self.versions} == {version}


@dataclass(frozen=True, eq=False)
class Group:
    """The episodes of a record, with rewards and advantages once they are known.

    `image` is the record's picture as the model saw it, and `crops` are the crops of each
    trajectory. A group that was read from an archive has neither. `rewards` holds every
    trajectory's rewards by name, unweighted, and their weighted sum as `total`; a reward that could
    not be computed is None. `advantages` are NaN where the total is None. Both are added with
    `dataclasses.replace`.
    """

    record: Record
    trajectories: tuple[Trajectory, ...]
    image: UInt8[np.ndarray, "height width 3"] | None = None
    crops: tuple[tuple[UInt8[np.ndarray, "_ _ 3"], ...], ...] = ()
    rewards: tuple[dict[str, float | None], ...] = ()
    advantages: Float64[np.ndarray, "G"] | None = None

    def __post_init__(self) -> None:
        for name in ("crops", "rewards", "advantages"):
            values = getattr(self, name)
            if values is not None and len(values) not in (0, len(self.trajectories)):
                raise ValueError(
                    f"record {self.record.id!r}: {len(values)} {name} for "
                    f"{len(self.trajectories)} trajectories; give one for each, or none"
                )
