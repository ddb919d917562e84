"""Crops as an evaluation showed them, made again for a report, since only boxes are on disk."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import ALTERATIONS, TRUTH, Truth, alteration
from lfpc_jax.evaluation.conditions import TOOL
from lfpc_jax.evaluation.journal import TARGET, Journal, Trial
from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.dialogue import Alter, Opening, View
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Record, Trajectory


@dataclass(frozen=True)
class ShownCrops:
    """Makes again the picture that was shown in place of a crop, from the episode, the crop's
    number in it and the original."""

    zoom: Zoom
    processor: ImageProcessor
    alter: Alter

    def __call__(
        self, record: Record, trajectory: Trajectory, number: int, original: PIL.Image.Image
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The picture in place of the episode's crop `number`."""
        crops = [turn.crop for turn in trajectory.turns if turn.crop is not None]
        crop = crops[number]
        size = pictures.shrunk(original.size, record.longest_side)
        resized = self.processor.resize(original.resize(size, PIL.Image.Resampling.BICUBIC))
        view = View(resized, original)
        if view.frame != Frame(trajectory.original, trajectory.shown):
            raise ValueError(f"its image was shown at {trajectory.shown}, now it is {view.frame}")
        region = self.zoom.validate({"bbox_2d": list(crop.written)}, view.frame)
        if isinstance(region, Refusal):
            raise ValueError(f"its box {crop.written} would be refused now: {region.message}")
        request = Ready(self.zoom, region)
        opening = Opening(record, np.zeros(0, np.int32), np.zeros((3, 0), np.int32), view)
        return self.alter(request, request.execute(original), opening, crops[:number]).picture


def shown_crops(journal: Journal, part: Trial) -> ShownCrops | None:
    """The crops of a part's episodes; None if they were not altered, or were shown to a target."""
    asked = journal.settings()["asked"]
    alter = None if TARGET in asked else alter_of(journal, part)
    if alter is None:
        return None
    processor = ImageProcessor.from_folder(journal.folder / "assets")
    zoom = Zoom.within(asked["crop_tokens"], processor, asked["convention"])
    return ShownCrops(zoom, processor.with_tokens(part.tokens), alter)


def alter_of(journal: Journal, part: Trial) -> Alter | None:
    """How crops were altered in a part; None if they were not."""
    if part.condition not in ALTERATIONS:
        return None
    settings = journal.settings()
    asked = settings["asked"]
    records = []
    if part.condition == "other":
        every = journal.read(Trial(part.benchmark, part.tokens, TOOL), asked["rollouts"])
        records = [group.record for group in every]
        questions = settings["benchmarks"][part.benchmark]["questions"]
        if len(records) != questions:
            raise ValueError(
                f"{part.name}: {len(records)} of the {questions} questions have an answer, and "
                "`other` drew its pictures from all of them"
            )
    if part.condition == "truth" and settings.get("truth") != TRUTH:
        return Truth(together=False)
    return alteration(part.condition, records, seed=asked["seed"])
