"""The synthetic world as a set of records, each made when it is asked for.

The paper names this as future work: scenes whose answer is in the original and not in the
downsampled view, with nested boxes around everything that must be seen. Records carry their picture
as JPEG bytes without chroma subsampling, at a quality that keeps waves of three pixels. For a scene
as pixels, use `scene.plan` and `canvas.paint`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import PIL.Image

from lfpc_jax.data import canvas
from lfpc_jax.data.scene import Scene, Split, WorldSettings, plan
from lfpc_jax.trajectory import Picture, Record

_QUALITY = 95
DATASET = "world"


@dataclass(frozen=True)
class World(Sequence[Record]):
    """The first `length` scenes of a split. Nothing is kept: each is drawn when it is asked for."""

    settings: WorldSettings
    seed: int
    split: Split
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        scene = self.scene(index)
        return record_of(scene, canvas.paint(scene))

    def scene(self, index: int) -> Scene:
        if not -self.length <= index < self.length:
            raise IndexError(f"scene {index} of a world of {self.length}")
        return plan(self.settings, self.seed, self.split, index % self.length)


def record_of(scene: Scene, image: PIL.Image.Image) -> Record:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
    return Record(
        id=scene.id,
        question=scene.question,
        answer=scene.answer,
        picture=Picture(data=encoded.getvalue()),
        options=scene.options,
        targets=scene.targets,
        longest_side=scene.settings.longest_side,
        dataset=DATASET,
        category=scene.category,
    )


def for_hr_bench(settings: WorldSettings) -> WorldSettings:
    """The settings with the options that HR-Bench has: always four."""
    return replace(settings, single_options=(4, 4), cross_options=(4, 4), choices=True)


def for_v_star(settings: WorldSettings) -> WorldSettings:
    """The settings with the options that V* has: four for attributes and two for relations."""
    return replace(settings, single_options=(4, 4), cross_options=(2, 2), choices=True)
