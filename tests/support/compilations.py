"""Tests that compile programs are marked `compiles`, so that `make check` can leave them out.

The mark is verified: a test without it that lets XLA compile a program in this process fails.
"""

import jax.monitoring
import pytest

EVENT = "/jax/core/compile/backend_compile_duration"  # for programs from the cache on disk as well
_programs: list[str] = []
_BEFORE = pytest.StashKey[int]()


def _note(event: str, seconds: float, **about) -> None:
    if event == EVENT:
        _programs.append(str(about.get("fun_name", "a program")))


jax.monitoring.register_event_duration_secs_listener(_note)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEFORE] = len(_programs)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    programs = _programs[item.stash[_BEFORE] :]
    marked = item.get_closest_marker("compiles") or item.get_closest_marker("slow")
    if programs and not marked:
        pytest.fail(
            f"this test or a fixture of it compiled {len(programs)} programs ("
            f"{', '.join(dict.fromkeys(programs))}): mark it or its module with "
            "`pytest.mark.compiles`, which leaves it out of `make check`",
            pytrace=False,
        )
