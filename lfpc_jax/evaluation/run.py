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
    """Each once, the tool first: alterations need to know who cropped."""
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
    """`tokens` is the budget that the engine's dialogue shows images at; the engine is made only
    where a question is left. Comes back early once `stop` says so."""
    own = list(own_share(benchmark.records))
    tool: list[Answered] = []
    for condition in in_order(conditions):
        if stop():
            return
        if condition in ALTERATIONS and not tool:
            tool = graded(journal.read(Trial(benchmark.name, tokens, TOOL), rollouts), 0, None)
        records = to_ask(condition, own, tool)
        part = Trial(benchmark.name, tokens, condition)
        done = {group.record.id for group in journal.read(part, rollouts)}
        left = [record for record in records if record.id not in done]
        if not left:
            continue
        made = engine()
        before = time.perf_counter()
        with (
            bar(part.name, len(left)) as advance,
            under(made, condition, benchmark.records, seed=seed),
        ):
            for group in made.run(left, rollouts=rollouts, seed=seed):
                now = time.perf_counter()
                journal.add(part, group, now - before)
                before = now
                advance(1)
                if stop():
                    return
