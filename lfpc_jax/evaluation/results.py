"""All that an evaluation's folder says, as one JSON value. Needs no model.

The same answers give the same bytes, in whatever order and in how many sessions they came; what
depends on the clock is apart (`timing`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lfpc_jax.evaluation.alter import ALTERATIONS, TRUTH
from lfpc_jax.evaluation.answers import Answered, episodes_of, graded
from lfpc_jax.evaluation.conditions import CONDITIONS, TOOL
from lfpc_jax.evaluation.diagnostics import answer_first, diagnose, to_ask
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.measures import gather
from lfpc_jax.evaluation.scoring import accuracies
from lfpc_jax.rewards.judge import NOT_ASKED, JudgeFailed, Judges
from lfpc_jax.rewards.verdict import Fault

Results = dict[str, Any]


Answers = Mapping[Trial, Sequence[Answered]]


def grade_all(journal: Journal, judge: Judges | None = None) -> Answers:
    """Everything that was answered, by part. A judge that is gone before it is done raises
    `JudgeFailed`, as half a grading is none."""
    asked = journal.settings()["asked"]
    answers = {}
    for part in journal.parts():
        found = graded(journal.read(part, asked["rollouts"]), asked["image_token"], judge)
        for fault in faults_of(found):
            if fault.cause == NOT_ASKED:
                raise JudgeFailed(f"the judge gives no more verdicts: {fault.reason}")
        answers[part] = found
    return answers


def faults_of(answered: Iterable[Answered]) -> Iterator[Fault]:
    for one in answered:
        yield from one.faults


def check_judged(answers: Answers, most: float) -> None:
    """Raises `JudgeFailed` if more than the share `most` of the answers put to the judge, or of all
    answers, could not be judged: the rest, which the rules can tell, are no fair sample."""
    every = [one for found in answers.values() for one in found]
    faults = list(faults_of(every))
    failed = [fault for fault in faults if fault.part == "judge"]
    for missing, whole, of in (
        (failed, sum(one.judged for one in every), "answers put to the judge"),
        (faults, sum(len(one.answers) for one in every), "answers"),
    ):
        if len(missing) > most * whole:
            raise JudgeFailed(
                f"{len(missing)} of {whole} {of} could not be judged, more than the share {most}; "
                f"the first: {missing[0].reason}"
            )


def results(
    settings: Mapping[str, Any], answers: Answers, judge: str = "", server: str = ""
) -> Results:
    """All benchmarks, budgets and conditions; `settings` are the journal's, `judge` is the name of
    the judge who graded, `server` where it was asked."""
    every = [one for part in answers.values() for one in part]
    found: Results = {
        "asked": settings["asked"],
        "judge": judge,
        "judge_server": server,
        "unjudged": _unjudged(every),
        "benchmarks": {},
    }
    for name, about in sorted(settings["benchmarks"].items()):
        budgets = {}
        for tokens in sorted({part.tokens for part in answers if part.benchmark == name}):
            of_each = {
                condition: answers[part]
                for condition in CONDITIONS
                if (part := Trial(name, tokens, condition)) in answers
            }
            budgets[str(tokens)] = _budget(of_each, about["questions"])
            if truth := of_each.get("truth"):
                several = sum(len(one.record.targets) > 1 for one in truth)
                made = budgets[str(tokens)]["conditions"]["truth"]
                made["one_target_alone"] = 0 if settings.get("truth") == TRUTH else several
        found["benchmarks"][name] = about | {"budgets": budgets}
    return found


def timing(journal: Journal) -> dict[str, float]:
    """Wall seconds a question, by part; many are asked at once."""
    found = {part.name: journal.seconds(part) for part in journal.parts()}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def encoded(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _budget(answered: Mapping[str, Sequence[Answered]], questions: int) -> Results:
    tool = answered.get(TOOL, ())
    conditions = {}
    for name, found in answered.items():
        wanted = questions
        if name in ALTERATIONS:
            wanted = len(to_ask(name, [one.record for one in tool], tool))
        conditions[name] = _condition(found, wanted)
    return {
        "conditions": conditions,
        "diagnostics": [asdict(one) for one in diagnose(answered)],
        "answer_first": asdict(answer_first(tool)) if tool else None,
    }


def _condition(answered: Sequence[Answered], wanted: int) -> Results:
    outcomes = [one.outcome for one in answered]
    categories = sorted({one.category for one in outcomes if one.category})
    by_category = {
        category: gather(episodes_of([one for one in answered if one.record.category == category]))
        for category in categories
    }
    return {
        "questions": wanted,
        "answered": len(answered),
        "missing": wanted - len(answered),
        "unscored": sum(one.right is None for one in outcomes),
        "unjudged": _unjudged(answered),
        "undecided_by_rule": sum(one.undecided for one in answered),
        "accuracy": {name: asdict(found) for name, found in accuracies(outcomes).items()},
        "measures": gather(episodes_of(answered)),
        "measures_by_category": by_category if len(categories) > 1 else {},
    }


def _unjudged(answered: Sequence[Answered]) -> Results:
    """How many answers could not be judged, which are in no accuracy, and by what cause."""
    whole = sum(len(one.answers) for one in answered)
    causes = Counter(fault.kind for fault in faults_of(answered))
    count = causes.total()
    share = count / whole if whole else 0.0
    return {"count": count, "of": whole, "share": share, "causes": dict(causes)}
