"""How well the crops fit the boxes that a person drew: overlap, IoU, corners.

For one target with nested boxes B1 (the smallest that answers) to Bn, and a crop Bp:

    overlap = area(Bp & B1) / area(B1)
    r_iou   = max_i IoU(Bp, Bi) if overlap > tau else 0
    r_l1    = 1 - min_i d(Bp, Bi),  d the mean absolute difference of corners, in sides of the image
    r_geo   = w r_iou + (1 - w) r_l1

The paper does not say which crop is Bp, nor how d is scaled. Both are choices of this project;
settings say which crop is rewarded. What is measured depends on no setting: of the episode's crops
a target takes the one with the highest overlap, and of several such the one with the highest IoU.
`overlap` and `iou` are that crop's; with several targets they are means. Crops and targets are in
pixels of the original. A crop is the box that was cut, after growing and clamping. Without a crop
all values are 0.

"overlap > tau" is strict in spite of rounding: a box that covers exactly tau may come out of a
change of convention at tau + 1e-16, and still earns nothing. Targets are clamped to the image.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from statistics import fmean
from typing import Literal

from lfpc_jax.processing.geometry import Box, Size, area, clamp, intersection, iou
from lfpc_jax.trajectory import Box4, Record, Trajectory

_ROUNDING = 1e-9

Target = Sequence[Box]
"""Nested boxes, the smallest first."""


@dataclass(frozen=True)
class Grounding:
    """How crops are rewarded.

    `tau` None drops the threshold; `w` 1 leaves IoU alone and 0 the corners alone. `crop` says
    which crop counts where there are several: the last, the first, the one of the highest r_geo,
    or all of them, averaged. With several targets each takes the crops of the highest overlap with
    it, and `crop` decides between equals.
    """

    tau: float | None = 0.9
    w: float = 0.5
    crop: Literal["last", "first", "best", "mean"] = "last"

    def __post_init__(self) -> None:
        if self.tau is not None and not 0 <= self.tau < 1:
            raise ValueError(
                f"grounding: tau is {self.tau}; it is a share of the target from 0 to below 1, "
                "or None for no threshold"
            )
        if not 0 <= self.w <= 1:
            raise ValueError(f"grounding: w is {self.w}; it is the share of r_iou, from 0 to 1")


@dataclass(frozen=True)
class Grounded:
    """What is measured (`overlap`, `iou`) and what is rewarded (the parts of r_geo), means over
    targets. With a single crop `iou` is r_iou without its condition."""

    overlap: float
    iou: float
    r_iou: float
    r_l1: float
    r_geo: float


def ground(trajectory: Trajectory, record: Record, settings: Grounding) -> Grounded | None:
    """The crops of an episode against its record's targets; None for a record without any."""
    if not record.targets:
        return None
    targets = [_target(boxes, trajectory.original, record.id) for boxes in record.targets]
    crops = [Box(*turn.crop.box) for turn in trajectory.turns if turn.crop is not None]
    return ground_boxes(crops, targets, trajectory.original, settings)


def holds_all(crops: Sequence[Box4], record: Record, original: Size) -> bool:
    """Whether each target's smallest box lies whole in one of the crops. Raises ValueError for a
    target that makes no sense."""
    targets = [_target(boxes, original, record.id)[0] for boxes in record.targets]
    return all(
        any(
            area(intersection(Box(*crop), target)) >= (1 - _ROUNDING) * area(target)
            for crop in crops
        )
        for target in targets
    )


def ground_boxes(
    crops: Sequence[Box], targets: Sequence[Target], extent: Size, settings: Grounding
) -> Grounded:
    """The same for boxes in any one convention, of an image of that extent."""
    if not crops:
        return Grounded(0.0, 0.0, 0.0, 0.0, 0.0)
    of_targets = []
    for target in targets:
        fits = [_fit(crop, target, extent, settings) for crop in crops]
        highest = max(fit.overlap for fit in fits) - _ROUNDING
        fullest = [fit for fit in fits if fit.overlap >= highest]
        measured = max(fullest, key=lambda fit: fit.iou)
        rewarded = _choose(fullest if len(targets) > 1 else fits, settings)
        of_targets.append(replace(rewarded, overlap=measured.overlap, iou=measured.iou))
    return _mean(of_targets)


def _fit(crop: Box, target: Target, extent: Size, settings: Grounding) -> Grounded:
    overlap = area(intersection(crop, target[0])) / area(target[0])
    best = max(iou(crop, box) for box in target)
    enough = settings.tau is None or overlap > settings.tau + _ROUNDING
    r_iou = best if enough else 0.0
    r_l1 = 1 - min(_distance(crop, box, extent) for box in target)
    return Grounded(overlap, best, r_iou, r_l1, settings.w * r_iou + (1 - settings.w) * r_l1)


def _distance(a: Box, b: Box, extent: Size) -> float:
    width, height = extent
    return fmean(abs(p - q) / side for p, q, side in zip(a, b, (width, height, width, height)))


def _choose(fits: list[Grounded], settings: Grounding) -> Grounded:
    match settings.crop:
        case "last":
            return fits[-1]
        case "first":
            return fits[0]
        case "best":
            return max(fits, key=lambda fit: fit.r_geo)
        case "mean":
            return _mean(fits)


def _mean(fits: list[Grounded]) -> Grounded:
    return Grounded(*map(fmean, zip(*map(astuple, fits))))


def _target(boxes: tuple[Box4, ...], size: Size, record: str) -> list[Box]:
    """The boxes inside the image, if they can be a target."""
    try:
        inside = [clamp(Box(*box), size) for box in boxes]
    except ValueError as error:
        raise ValueError(f"record {record!r}: target {boxes}: {error}") from None
    areas = [area(box) for box in inside]
    if not areas or areas[0] <= 0 or areas != sorted(areas):
        raise ValueError(
            f"record {record!r}: target {boxes} of an image of {size}: needs boxes with an area "
            "inside the image, the smallest first; correct or drop the record"
        )
    return inside
