"""Whether two answers of a model say the same: yes, no, or cannot tell. Their order is irrelevant.

The rules of `rewards.answers` are applied both ways. If a record has options, the options that the
two answers name are compared; otherwise each answer is matched with the other as its reference. If
a rule is sure of opposite things in the two directions, it cannot tell. A missing answer cannot be
compared.

A judge may decide what the rules leave open. What it fails on stays open; if it fails on most
pairs, `JudgeFailed` is raised before anything is written.
"""

import itertools
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from lfpc_jax.rewards.answers import match, options_by_letter
from lfpc_jax.rewards.judge import Claim, JudgeFailed, Judges
from lfpc_jax.rollout.dialogue import question
from lfpc_jax.trajectory import Record

Answer = str | None
Same = Callable[[Answer, Answer], bool | None]

_FEW = 8
"""So many pairs may fail all together."""

log = logging.getLogger(__name__)


def agree(answer: Answer, other: Answer, record: Record, *, exact: bool = False) -> bool | None:
    """Whether two answers say the same, by rule alone; None if that cannot be told. `exact`
    promises that answers are words of a fixed vocabulary, so that two answers that the rules cannot
    tell to be the same are different."""
    first, second = ((text or "").strip() for text in (answer, other))
    if not first or not second:
        return None
    if first == second:
        return True
    same = _by_options(first, second, record)
    if same is None:
        free = replace(record, options=())
        ways = {
            match(first, replace(free, answer=second)),
            match(second, replace(free, answer=first)),
        }
        sure = ways - {None}
        same = sure.pop() if len(sure) == 1 else None
    return False if same is None and exact else same


def _by_options(first: str, second: str, record: Record) -> bool | None:
    letters = options_by_letter(record)
    verdicts = [
        {letter: match(text, replace(record, answer=letter)) for letter in letters}
        for text in (first, second)
    ]
    named, others = ({x for x in letters if said[x] is True} for said in verdicts)
    if named and others:
        return bool(named & others)
    excluded = (verdicts[1][x] is False for x in named), (verdicts[0][x] is False for x in others)
    return False if (named or others) and all(itertools.chain(*excluded)) else None


class Agreement:
    """Compares answers by rule, and by a judge if there is one. The judge is asked about each pair
    of a record's answers once, and about many pairs together."""

    def __init__(self, judge: Judges | None = None, *, exact: bool = False) -> None:
        self._judge, self._exact = judge, exact
        self._judged: dict[tuple[str, frozenset[str]], bool | None] = {}

    def of(self, record: Record) -> Same:
        return partial(self._same, record)

    def settle(self, pairs: Iterable[tuple[Record, Answer, Answer]]) -> None:
        """Asks the judge about the pairs that the rules leave open."""
        if self._judge is None:
            return
        claims: dict[tuple[str, frozenset[str]], Claim] = {}
        for record, answer, other in pairs:
            if not answer or not other or self._same(record, answer, other) is not None:
                continue
            key = record.id, frozenset((answer, other))
            if key not in self._judged and key not in claims:
                claims[key] = Claim(question(record), reference=answer, answer=other)
        verdicts = self._judge.verdicts(list(claims.values())) if claims else []
        self._judged |= {key: verdict.right for key, verdict in zip(claims, verdicts)}
        faults = [verdict.fault for verdict in verdicts if verdict.fault is not None]
        if len(faults) > max(_FEW, len(claims) / 2):
            raise JudgeFailed(
                f"{len(faults)} of {len(claims)} pairs of answers could not be judged, the first "
                f"because of {faults[0].reason}; mend that and run the same command again: it "
                "resumes after the records that are decided"
            )
        if faults:
            log.warning(
                "%d of %d pairs of answers could not be judged and stay undecided; the first: %s",
                len(faults), len(claims), faults[0].reason,
            )  # fmt: skip

    def _same(self, record: Record, answer: Answer, other: Answer) -> bool | None:
        same = agree(answer, other, record, exact=self._exact)
        if same is None and answer and other:
            return self._judged.get((record.id, frozenset((answer, other))))
        return same
