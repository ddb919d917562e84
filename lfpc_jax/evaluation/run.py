"""Asking: every question of a benchmark that has no stored answer yet, under each condition."""

import time
from collections.abc import Callable, Sequence

from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.evaluation.answers import Answered, graded
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.conditions import DIRECT, TOOL, Asks, under
from lfpc_jax.evaluation.diagnostics import to_ask
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.rewards.judge import Bar, no_bar
from lfpc_jax.rollout.engine import own_share


def in_order(conditions: Sequence[str]) -> tuple[str, ...]:
    """Every condition once, with the tool first, since alterations need to know which questions had
    crops."""
    wanted = set(conditions)
    if wanted & set(ALTERATIONS):
        wanted |= {TOOL, DIRECT}
    return tuple(name for name in (TOOL, DIRECT, *ALTERATIONS) if name in wanted)


def ask(
    engine: Callable[[], Asks],
    benchmark: Benchmark,
    tokens: int,
    conditions: Sequence[str],
    journal: Journal,
    *,
    rollouts: int,
    seed: int,
    bar: Bar = no_bar,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Asks what has no stored answer yet. `tokens` is the budget at which the engine's dialogue
    shows images. The engine is made only if a question is left. Returns early once `stop` says so.
    """
    share = list(own_share(benchmark.records))
    tool: list[Answered] = []
    for condition in in_order(conditions):
        if stop():
            return
        if condition in ALTERATIONS and not tool:
            tool = graded(journal.read(Trial(benchmark.name, tokens, TOOL), rollouts), 0, None)
        records = to_ask(condition, share, tool)
        part = Trial(benchmark.name, tokens, condition)
        done = {group.record.id for group in journal.read(part, rollouts)}
        left = [record for record in records if record.id not in done]
        if not left:
            continue
        asks = engine()
        before = time.perf_counter()
        with (
            bar(part.name, len(left)) as advance,
            under(asks, condition, benchmark.records, seed=seed),
        ):
            for group in asks.run(left, rollouts=rollouts, seed=seed):
                now = time.perf_counter()
                journal.add(part, group, now - before)
                before = now
                advance(1)
                if stop():
                    return
