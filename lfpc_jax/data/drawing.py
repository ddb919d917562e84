"""Scenes of the synthetic world as records, drawn by several processes and in their order."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial

from lfpc_jax import stopping
from lfpc_jax.data import canvas, scene, world
from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.trajectory import Nests, Record

_AHEAD = 4
"""Scenes drawn and not yet written, for each worker: at 8K each has megabytes."""

Sample = tuple[Record, tuple[str, ...]]
"""A record and what its targets are called."""


def samples(
    settings: WorldSettings,
    *,
    seed: int,
    split: scene.Split,
    nested: Sequence[float] | None,
    count: int,
    workers: int,
    advance: Callable[[int], None],
) -> Iterator[Sample]:
    """The first `count` scenes in their order, whichever of the `workers` draws them."""
    draw = partial(_draw, settings, seed, split, nested)
    if workers == 1:
        for index in range(count):
            yield draw(index)
            advance(1)
        return
    waiting: deque[Future[Sample]] = deque()
    # After a second Ctrl-C, Python's process that removes their semaphores would warn of them.
    filters = [os.environ.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, filters))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=stopping.end_with_parent)
    try:
        for index in range(count + _AHEAD * workers):
            if index < count:
                with stopping.deaf():  # Ctrl-C reaches the workers too, who are not to answer it
                    waiting.append(pool.submit(draw, index))
            if index >= _AHEAD * workers:
                yield waiting.popleft().result()
                advance(1)
    finally:
        pool.shutdown(cancel_futures=True)


def targets_of(planned: scene.Scene, nested: Sequence[float] | None) -> Nests:
    """A scene's own target boxes or, with `nested`, boxes around its marks alone: one for each
    multiple of a mark's sides."""
    return planned.targets if nested is None else planned.around_marks(nested)


def _draw(
    settings: WorldSettings,
    seed: int,
    split: scene.Split,
    nested: Sequence[float] | None,
    index: int,
) -> Sample:
    planned = scene.plan(settings, seed, split, index)
    record = world.record_of(planned, canvas.paint(planned))
    return replace(record, targets=targets_of(planned, nested)), planned.names
