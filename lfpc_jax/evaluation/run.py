"""Asking: every question of a benchmark that has no stored answer yet, under each condition.

Where a question's tool episodes are sampled, its altered ones go on from them at their first crop,
and come with them. Altered episodes of tool episodes that are stored already are sampled from their
prompt on. Both give the same episodes.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, applies
from lfpc_jax.evaluation.answers import Answered, graded
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.conditions import (
    DIRECT,
    TOOL,
    Asks,
    AsksTarget,
    Runs,
    RunsAltered,
    Stored,
    is_altered,
    ordered,
    under,
)
from lfpc_jax.evaluation.diagnostics import to_ask
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.share import own_questions
from lfpc_jax.rewards.judge import Bar, no_bar
from lfpc_jax.rollout.dialogue import Alter
from lfpc_jax.trajectory import Group, Record

log = logging.getLogger(__name__)


def in_order(conditions: Sequence[str]) -> tuple[str, ...]:
    """Every condition once, with the tool first, since alterations need to know which questions had
    crops. Altered crops are compared with both, so both are asked."""
    wanted = set(conditions)
    if wanted & set(ALTERATIONS):
        wanted |= {TOOL, DIRECT}
    every = ordered(wanted)
    return (*(n for n in every if not is_altered(n)), *(n for n in every if is_altered(n)))


def ask(
    engine: Callable[[], Asks | AsksTarget],
    benchmark: Benchmark,
    tokens: int,
    conditions: Sequence[str],
    journal: Journal,
    *,
    rollouts: int,
    seed: int,
    bar: Bar = no_bar,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Asks what has no stored answer yet. `tokens` is the budget at which the engine's dialogue, or
    the target, shows images. The engine is made only if a question is left. Returns early once
    `stop` says so.

    What a target could not be asked has no answer: it is not stored, so that the next session asks
    it again. Returns the reason of each.
    """
    share = own_questions(benchmark.records)
    tool: list[Answered] = []
    unanswered: list[str] = []
    part = Trial(benchmark.name, tokens, TOOL)

    def stored() -> dict[str, Group]:
        return {group.record.id: group for group in journal.read(part, rollouts)}

    def done(condition: str) -> set[str]:
        asked = Trial(benchmark.name, tokens, condition)
        return {group.record.id for group in journal.read(asked, rollouts)}

    for condition in in_order(conditions):
        if stop():
            return unanswered
        if condition in ALTERATIONS and not tool:
            tool = graded(journal.read(part, rollouts), 0, None)
        records = to_ask(condition, share, tool)
        asked, before = Trial(benchmark.name, tokens, condition), done(condition)
        left = [record for record in records if record.id not in before]
        if not left:
            continue
        made = engine()
        also = filter(is_altered, in_order(conditions)) if condition == TOOL else ()
        known = {name: done(name) for name in also}
        begun = time.perf_counter()
        with (
            bar(asked.name, len(left)) as advance,
            _under(made, condition, benchmark, stored, seed) as runs,
            closing(_groups(runs, left, benchmark, known, rollouts, seed)) as groups,
        ):
            for altered, group in groups:
                now = time.perf_counter()
                if reason := _unanswered(group):
                    log.warning("%s, record %r: %s", asked.name, group.record.id, reason)
                    unanswered.append(reason)
                else:
                    of = replace(asked, condition=altered or condition)
                    journal.add(of, group, now - begun)
                begun = now
                advance(not altered)
                if stop():
                    return unanswered
    return unanswered


def _groups(
    runs: Runs,
    records: Sequence[Record],
    benchmark: Benchmark,
    known: Mapping[str, set[str]],
    rollouts: int,
    seed: int,
) -> Generator[tuple[str, Group], None, None]:
    """The records' groups, and for the alterations in `known` the altered groups of records that
    have crops, with the alteration's name. `known` has the records that need none."""
    if not (known and isinstance(runs, RunsAltered)):
        for group in runs.run(records, rollouts=rollouts, seed=seed):
            yield "", group
        return
    every = {name: alteration(name, benchmark.records, seed=seed) for name in known}
    cropped: set[str] = set()

    def alters(record: Record) -> dict[str, Alter]:
        return {
            name: alter
            for name, alter in every.items()
            if applies(name, record) and record.id not in known[name]
        }

    for altered, group in runs.run_altered(records, alters, rollouts=rollouts, seed=seed):
        if not altered:
            cropped |= {
                answered.record.id for answered in graded([group], 0, None) if answered.crops
            }
        if not altered or group.record.id in cropped:
            yield altered, group


@contextmanager
def _under(
    engine: Asks | AsksTarget, condition: str, benchmark: Benchmark, stored: Stored, seed: int
) -> Iterator[Runs]:
    if isinstance(engine, AsksTarget):
        with engine.under(condition, benchmark.records, stored, seed=seed) as runs:
            yield runs
    else:
        with under(engine, condition, benchmark.records, seed=seed):
            yield engine


def _unanswered(group: Group) -> str:
    """Why a target could not be asked with one of a group's boxes; empty if it was with all."""
    return next((each.unanswered for each in group.trajectories if each.unanswered), "")
