"""Says what XLA compiles in a run: each program as its compilation begins, and then for how long.

JAX reports every compilation by the name of the jitted function, so no program has to be wrapped.
The many programs of single operations are left out unless they take `_LONG` seconds.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable

import jax.monitoring

_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # also of a program from the cache
_FROM_CACHE = "/jax/compilation_cache/cache_hits"
_LONG = 1.0

PROGRAMS = {
    "_new_state": "the optimizer's first state",
    "_learned": "the update: loss and gradients",
    "_through_tower": "the update: gradients of the vision tower",
    "_applied": "the update: the optimizer",
    "_encoded": "the pictures of scored or trained episodes",
    "_logprobs": "the log-probabilities of episodes",
    "encode": "the rollout's pictures",
    "prefill": "the rollout's prompts",
    "begin": "the rollout's beginnings",
    "extend": "the rollout's replies",
    "decode": "the rollout's sampling",
}
"""The jitted functions whose compilation is said before it begins."""


class Compilations:
    """Programs of one function have a number, since they differ in shapes. `say` takes a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._counts: Counter[str] = Counter()
        self._thread = threading.local()

    def on_event(self, event: str, **_: object) -> None:
        if event == _FROM_CACHE:
            self._thread.cached = True

    def on_duration(self, event: str, seconds: float, **about: object) -> None:
        name = re.sub(r"^\w+\((.*)\)$", r"\1", str(about.get("fun_name", "a program")))
        if event == _LOWERED:
            self._thread.cached = False
            if name in PROGRAMS:
                self._counts[name] += 1
                self.say(f"compiling {self._called(name)} ...")
        elif event == _COMPILED and (name in PROGRAMS or seconds >= _LONG):
            cached = getattr(self._thread, "cached", False)
            how = "read from the cache" if cached else "compiled"
            self.say(f"{how} in {seconds:.1f} s: {self._called(name)}")

    def _called(self, name: str) -> str:
        count = self._counts[name]
        shapes = f", for a further shape ({count})" if count > 1 else ""
        return PROGRAMS.get(name, name) + shapes


_heard: Compilations | None = None


def announce(say: Callable[[str], None]) -> None:
    """Says each compilation of this process from now on; replaces who was told before."""
    global _heard
    if _heard is None:
        jax.monitoring.register_event_listener(_on_event)
        jax.monitoring.register_event_duration_secs_listener(_on_duration)
    _heard = Compilations(say)


def _on_event(event: str, **about: object) -> None:
    assert _heard is not None
    _heard.on_event(event, **about)


def _on_duration(event: str, duration_secs: float, **about: object) -> None:
    assert _heard is not None
    _heard.on_duration(event, duration_secs, **about)
