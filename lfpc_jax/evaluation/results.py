"""All that an evaluation's folder says, as one JSON value. Needs no model.

The same answers give the same bytes, in whatever order and in however many sessions they came.
What depends on the clock is kept separately (`timing`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lfpc_jax.evaluation.alter import ALTERATIONS, TRUTH
from lfpc_jax.evaluation.answers import Answered, episodes_of, graded
from lfpc_jax.evaluation.box_metrics import box_metrics
from lfpc_jax.evaluation.conditions import DIRECT, TOOL, factor_of, ordered
from lfpc_jax.evaluation.diagnostics import answer_first, diagnose, to_ask
from lfpc_jax.evaluation.journal import TARGET, WITH_BOXES, Journal, Trial
from lfpc_jax.evaluation.measures import gather
from lfpc_jax.evaluation.scoring import accuracies
from lfpc_jax.rewards.judge import NOT_ASKED, JudgeFailed, Judges
from lfpc_jax.rewards.verdict import Fault

Results = dict[str, Any]


_NO_TOKEN = -1
"""Of evaluations without a crop network, whose episodes have no ids."""

Answers = Mapping[Trial, Sequence[Answered]]


def grade_all(journal: Journal, judge: Judges | None = None) -> Answers:
    """All answers, graded, by part. Raises `JudgeFailed` if the judge stops answering before the
    end, since half a grading would be misleading."""
    asked = journal.settings()["asked"]
    answers = {}
    for part in journal.parts():
        answered = graded(
            journal.read(part, asked["rollouts"]), asked.get("image_token", _NO_TOKEN), judge
        )
        for fault in faults_of(answered):
            if fault.cause == NOT_ASKED:
                raise JudgeFailed(f"the judge gives no more verdicts: {fault.reason}")
        answers[part] = answered
    return answers


def faults_of(answered: Iterable[Answered]) -> Iterator[Fault]:
    for question in answered:
        yield from question.faults


def check_judged(answers: Answers, most: float) -> None:
    """Raises `JudgeFailed` if a greater share than `most` could not be judged, either of the
    answers put to the judge or of all answers. The others, which the rules can decide,
    would be a biased sample."""
    every = [question for answered in answers.values() for question in answered]
    faults = list(faults_of(every))
    failed = [fault for fault in faults if fault.part == "judge"]
    for missing, whole, of in (
        (failed, sum(question.judged for question in every), "answers put to the judge"),
        (faults, sum(len(question.answers) for question in every), "answers"),
    ):
        if len(missing) > most * whole:
            raise JudgeFailed(
                f"{len(missing)} of {whole} {of} could not be judged, more than the share {most}; "
                f"the first: {missing[0].reason}"
            )


def results(
    settings: Mapping[str, Any], answers: Answers, judge: str = "", server: str = ""
) -> Results:
    """The results of all benchmarks, budgets and conditions. `settings` are the journal's, `judge`
    names the judge who graded and `server` where it was asked."""
    every = [question for part in answers.values() for question in part]
    everything: Results = {
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
                for condition in ordered(part.condition for part in answers)
                if (part := Trial(name, tokens, condition)) in answers
            }
            budgets[str(tokens)] = _budget(of_each, about)
            if settings["asked"].get(TARGET):
                budgets[str(tokens)] |= {
                    "answer_first": None,  # who answers sees the crop before
                    "boxes": {
                        condition: box_metrics(answered)
                        for condition, answered in of_each.items()
                        if condition != DIRECT and condition not in ALTERATIONS
                    },
                }
            if truth := of_each.get("truth"):
                several = sum(len(question.record.targets) > 1 for question in truth)
                condition = budgets[str(tokens)]["conditions"]["truth"]
                condition["one_target_alone"] = 0 if settings.get("truth") == TRUTH else several
        everything["benchmarks"][name] = about | {"budgets": budgets}
    return everything


def timing(journal: Journal) -> dict[str, float]:
    """Wall seconds for each question, by part. Many questions are asked at once."""
    seconds = {part.name: journal.seconds(part) for part in journal.parts()}
    return {name: value for name, value in seconds.items() if value is not None}


def encoded(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _budget(answered: Mapping[str, Sequence[Answered]], about: Mapping[str, Any]) -> Results:
    tool = answered.get(TOOL, ())
    conditions = {}
    for name, answers in answered.items():
        wanted = about["questions"]
        if factor_of(name) is not None:
            wanted = about[WITH_BOXES]
        if name in ALTERATIONS:
            wanted = len(to_ask(name, [question.record for question in tool], tool))
        conditions[name] = _condition(answers, wanted)
    return {
        "conditions": conditions,
        "diagnostics": [asdict(diagnosis) for diagnosis in diagnose(answered)],
        "answer_first": asdict(answer_first(tool)) if tool else None,
    }


def _condition(answered: Sequence[Answered], wanted: int) -> Results:
    outcomes = [question.outcome for question in answered]
    categories = sorted({outcome.category for outcome in outcomes if outcome.category})
    by_category = {
        category: gather(
            episodes_of([question for question in answered if question.record.category == category])
        )
        for category in categories
    }
    return {
        "questions": wanted,
        "answered": len(answered),
        "missing": wanted - len(answered),
        "unscored": sum(outcome.right is None for outcome in outcomes),
        "unjudged": _unjudged(answered),
        "undecided_by_rule": sum(question.undecided for question in answered),
        "accuracy": {name: asdict(estimate) for name, estimate in accuracies(outcomes).items()},
        "measures": gather(episodes_of(answered)),
        "measures_by_category": by_category if len(categories) > 1 else {},
    }


def _unjudged(answered: Sequence[Answered]) -> Results:
    """How many answers could not be judged, and why. They count in no accuracy."""
    whole = sum(len(question.answers) for question in answered)
    causes = Counter(fault.kind for fault in faults_of(answered))
    count = causes.total()
    share = count / whole if whole else 0.0
    return {"count": count, "of": whole, "share": share, "causes": dict(causes)}
