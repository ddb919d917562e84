"""An engine that answers requests before all of its programs are compiled.

    rest = engine.start()     # one bucket of everything, the largest: at most half of the programs
    rest.compile()            # in another thread, while a `RequestRun` of the engine goes on
    rest.use()                # in the thread of the run, between two turns

The largest buckets hold whatever smaller ones do, so nothing is refused meanwhile, and everything
is padded more. The programs of smaller buckets are compiled from shapes alone: they need neither
the parameters nor the cache, which the run has.
"""

import threading
from typing import Any

import jax
import numpy as np

from lfpc_jax.rollout.slots import Slots
from lfpc_jax.shapes import RolloutShapes


class Rest:
    """The programs of smaller buckets. `left` counts those that are not compiled yet."""

    def __init__(self, slots: Slots, shapes: RolloutShapes) -> None:
        self._slots, self._shapes = slots, shapes
        self._calls = _Noting(slots, shapes).calls
        self._over = threading.Event()
        self.left = len(self._calls)

    def compile(self) -> None:
        """Compiles them one by one, until `stop`."""
        for name, args in self._calls:
            if self._over.is_set():
                return
            getattr(self._slots.programs, name).prepare(*args)
            self.left -= 1

    def stop(self) -> None:
        """Lets `compile` end after the program that it is at."""
        self._over.set()

    def use(self) -> None:
        assert not self.left, "not compiled"
        self._slots.shapes = self._shapes
        self._slots.programs.seal()


def largest_first(slots: Slots) -> Rest:
    """Compiles what these slots need to answer requests in the largest buckets, which they have
    from now on."""
    shapes = slots.shapes
    slots.shapes = shapes.largest()
    with slots.allocated():
        _run_requests(slots)
        return Rest(slots, shapes)


def _run_requests(slots: Slots) -> None:
    slots.run_empty(None, True, (slots.sampling,), True)


class _Noting(Slots):
    """Allocated slots that note each program they would run on empty inputs of other shapes."""

    calls: list[tuple[str, tuple[Any, ...]]]

    def __init__(self, slots: Slots, shapes: RolloutShapes) -> None:
        assert shapes.kept, "embeddings of pictures are given to programs as they were encoded"
        vars(self).update(vars(slots))
        self.shapes, self.calls = shapes, []
        self._state = jax.tree.map(_shape, slots._state)
        _run_requests(self)

    def _timed(self, name: str, *args: Any) -> Any:
        self.calls.append((name, jax.tree.map(_shape, args)))
        return (self._state, None) if name == "decode" else self._state


def _shape(x: Any) -> Any:
    """An array as its shape, type and place; anything else as it is."""
    if isinstance(x, jax.Array):
        where = x.sharding if x.committed else None
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, np.ndarray) else x
