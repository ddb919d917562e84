"""What the slots are given: pictures, prompts, and what happens to rows."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8, UInt32

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.shapes import Buckets


def beginning(ids: Int32[np.ndarray, "T"], image_token: int) -> int:
    """How many ids a prompt has up to the end of its picture; all but the last without one."""
    [at] = np.nonzero(ids == image_token)
    return int(at[-1]) + 1 if len(at) else len(ids) - 1


@dataclass(frozen=True, eq=False)
class Visual:
    """A picture as the patches of its bucket. `name` is a digest of both, if it was wanted."""

    grid: tuple[int, int]
    patches: UInt8[np.ndarray, "W P C"]
    name: bytes = b""

    @classmethod
    def of(
        cls,
        picture: UInt8[np.ndarray, "_ _ 3"],
        processor: ImageProcessor,
        windows: Buckets,
        *,
        named: bool = False,
    ) -> "Visual":
        grid = processor.grid_of(picture)
        side = processor.window
        needed = -(-grid[0] // side) * -(-grid[1] // side)
        patches = processor.patchify(picture, windows.fit(needed, "windows of a picture"))
        if not named:
            return cls(grid, patches)
        digest = hashlib.blake2b(repr((grid, len(patches))).encode(), digest_size=16)
        digest.update(patches.data)
        return cls(grid, patches, digest.digest())


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt to be prefilled into row `row` of the prompts, all but its last id."""

    row: int
    ids: Int32[np.ndarray, "T"]
    positions: Int32[np.ndarray, "3 T"]
    visual: Visual | None

    def begins(self, image_token: int) -> int:
        """How many ids its beginning has: those up to the end of its picture, or all but the last
        without one."""
        return beginning(self.ids, image_token)

    def alike(self, image_token: int) -> bytes:
        """What prompts with the same beginning have in common."""
        named = b"" if self.visual is None else self.visual.name
        return named + self.ids[: self.begins(image_token)].tobytes()


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
    """A row that decodes: its prompt, how many ids of its own are written, and how it is sampled,
    if the rows of a run differ in that."""

    row: int
    prompt: int
    length: int
    sampling: Sampling | None = None


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
