"""Random groups of episodes, as the engine would leave them: pictures, crops, uneven turns."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lfpc_jax.grpo.advantage import group_advantages
from lfpc_jax.trajectory import Group, Picture, Record, Trajectory
from support.reference import IMAGE


def group(
    rng: np.random.Generator,
    name: str,
    size: int,
    *,
    picture: bool = True,
    crops: int | None = None,
) -> Group:
    """`crops` in each episode; None: up to 2, or none without a picture."""

    def random_picture() -> np.ndarray:
        rows, columns = rng.integers(1, 6, 2)
        return rng.integers(0, 256, (rows * 28, columns * 28, 3), dtype=np.uint8)

    def text(least: int, most: int) -> np.ndarray:
        return rng.integers(3, IMAGE, rng.integers(least, most))

    def block(pixels: np.ndarray) -> np.ndarray:
        tokens = np.full(pixels.shape[0] * pixels.shape[1] // 28**2, IMAGE)
        return np.concatenate([[IMAGE + 2], tokens, [IMAGE + 3]])

    shown = random_picture() if picture else None
    prompt = [text(2, 6), *([] if shown is None else [block(shown)]), text(2, 6)]
    trajectories, all_crops = [], []
    for number in range(size):
        count = crops or 0
        if crops is None and picture:
            count = int(rng.integers(0, 3))
        seen = [random_picture() for _ in range(count)]
        parts = [(part, False) for part in prompt]
        for crop in seen:
            parts += [(text(1, 9), True), (text(1, 3), False), (block(crop), False)]
        parts += [(text(2, 4), False), (text(1, 12), True)]
        ids = np.concatenate([part for part, _ in parts]).astype(np.int32)
        sampled = np.concatenate([np.full(len(part), own) for part, own in parts])
        logprobs = np.where(sampled, -5 + 0.3 * rng.standard_normal(len(ids)), 0)
        logprobs = logprobs.astype(np.float32)
        trajectories.append(
            Trajectory(
                record=name,
                rollout=number,
                ids=ids,
                sampled=sampled,
                logprobs=logprobs,
                policy_logprobs=logprobs,
                original=(0, 0),
                shown=(0, 0),
                turns=(),
                end="answered",
                answer=None,
            )
        )
        all_crops.append(tuple(seen))
    return Group(Record(name, "?", "a", Picture()), tuple(trajectories), shown, tuple(all_crops))


def groups(seed: int, sizes: tuple[int, ...] = (3, 4)) -> list[Group]:
    """The last one without pictures."""
    rng = np.random.default_rng(seed)
    last = len(sizes) - 1
    return [group(rng, f"g{i}", n, picture=i < last or n < 3) for i, n in enumerate(sizes)]


def rewarded(group: Group, totals: Sequence[float | None]) -> Group:
    """The group with the advantages of these rewards."""
    return replace(group, advantages=group_advantages(totals))
