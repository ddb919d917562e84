"""Results as tables of text, for the terminal and for a report's page: the paper's figures beside
ours where they apply. Per cent.

Narrow enough for 80 columns; what rarely happens (questions without an answer, answers that nobody
could score) is a line below and not a column.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lfpc_jax.evaluation.arms import MEASURES, SeededEstimate
from lfpc_jax.evaluation.box_tables import box_sheets
from lfpc_jax.evaluation.conditions import TOOL, is_altered, ordered
from lfpc_jax.evaluation.diagnostics import MISSED
from lfpc_jax.evaluation.published import (
    COLUMNS,
    LABELS,
    LFPC_BY_CATEGORY,
    LOST_AT,
    LOST_TO_NOISE,
    OVERALL,
)
from lfpc_jax.evaluation.ranks import Correlation
from lfpc_jax.evaluation.results import Results
from lfpc_jax.evaluation.sheet import NONE, Sheet, each, estimate

_CATEGORIES = tuple(LABELS)
_Row = tuple[str, str, dict[str, Any], dict[str, Any]]
"""Of `sheet.each`."""


def sheets(results: Results, seconds: dict[str, float]) -> list[Sheet]:
    boxes = [*box_sheets(results)]
    return [
        _accuracies(results),
        *(boxes or [_crops(results)]),
        _episodes(results, seconds),
        *_papers(results),
        *_diagnostics(results),
    ]


def _in_order(categories: Iterable[str]) -> list[str]:
    """In the publishers' order, then by name."""
    places = {name: place for place, name in enumerate(_CATEGORIES)}
    return sorted(categories, key=lambda name: (places.get(name, len(places)), name))


def _modes(results: Results) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Benchmark, budget, mode and results of everything that was asked with unaltered crops or
    without the tool."""
    for name, tokens, _, budget in each(results):
        for mode in ordered(budget["conditions"]):
            if not is_altered(mode):
                yield name, tokens, mode, budget["conditions"][mode]


def _accuracies(results: Results) -> Sheet:
    sheet = Sheet(
        "Accuracy, % [95% interval over samples]" + _unknown(results),
        ("benchmark", "tokens", "mode", "of"),
        ("accuracy", "judged"),
        meaning="; ".join(_partly(results)),
        warnings=tuple(_warnings(results)),
    )
    for name, tokens, mode, condition in _modes(results):
        judged = f"{condition['answered'] - condition['unscored']} of {condition['questions']}"
        accuracy = {"overall": None} | condition["accuracy"]
        for category in _in_order(accuracy):
            label = LABELS.get(category, category)
            sheet.add(name, tokens, mode, label, estimate(accuracy[category]), judged)
            name, tokens, mode, judged = "", "", "", ""
    return sheet


def _partly(results: Results) -> Iterator[str]:
    """How answers were scored that may be partly right."""
    for name, about in results["benchmarks"].items():
        if metrics := about.get("metrics"):
            yield f"{name}: the mean of {' and '.join(metrics)}, by Agresti and Coull's interval"


def _unknown(results: Results) -> str:
    """The share of answers that is in no accuracy, for the table's title. Older results do not have
    it."""
    share = results.get("unjudged", {}).get("share", 0.0)
    return f"; {100 * share:.1f}% of the answers could not be judged" if share else ""


def _warnings(results: Results) -> Iterator[str]:
    says = {
        "missing": "questions without an answer, which do not count",
        "unscored": "questions that could not be judged, which do not count",
    }
    if not results["judge"]:
        says["undecided_by_rule"] = "answers that no rule can tell, wrong without a judge"
    for name, about in results["benchmarks"].items():
        if lost := len(about.get("losses", ())):
            yield f"{name}: {lost} questions cannot be used and were left out; results.json has why"
    for name, tokens, _, budget in each(results):
        for key, what in says.items():
            counts = {
                mode: counted[key] for mode, counted in budget["conditions"].items() if counted[key]
            }
            if counts:
                listed = ", ".join(f"{m} {counts[m]}" for m in ordered(counts))
                yield f"{name}, {tokens}: {what}: {listed}"
        for mode, condition in budget["conditions"].items():
            unknown = condition.get("unjudged", {"count": 0})
            if unknown["count"]:
                causes = ", ".join(f"{name} {n}" for name, n in sorted(unknown["causes"].items()))
                yield (
                    f"{name}, {tokens}, {mode}: {unknown['count']} of {unknown['of']} answers "
                    f"could not be judged, which do not count ({causes})"
                )


def _crops(results: Results) -> Sheet:
    sheet = Sheet(
        "Crops",
        ("benchmark", "tokens", "of"),
        ("IoU", "IoU*", "overlap", "area", "crops", "visual", "refused"),
        meaning="IoU, overlap: of the crop that holds most of a target, 0 without a crop. IoU*: "
        "of episodes with a crop alone. area: % of the image. crops: a question. visual: tokens a "
        "crop. refused: % of the calls.",
    )
    columns = (
        ("crop/iou", "{:.3f}", 1),
        ("crop/iou_cropped", "{:.3f}", 1),
        ("crop/overlap", "{:.3f}", 1),
        ("crop/area_ratio", "{:.1f}", 100),
        ("crop/count", "{:.2f}", 1),
        ("crop/tokens", "{:.0f}", 1),
        ("crop/invalid", "{:.1f}", 100),
    )
    for name, tokens, mode, condition in _modes(results):
        if mode != TOOL:
            continue
        rows = {"overall": condition["measures"]} | condition["measures_by_category"]
        if rows["overall"].get("crop/iou", 0) > 0 and "crop/iou_cropped" not in rows["overall"]:
            sheet.warnings = (
                "these were scored by an earlier version: of one target IoU and overlap are the "
                "last crop's; `lfpc evaluate OUT --rescore` counts anew",
            )
        for category in _in_order(rows):
            measured = rows[category]
            cells = (_number(measured.get(key), form, times) for key, form, times in columns)
            sheet.add(name, tokens, LABELS.get(category, category), *cells)
            name, tokens = "", ""
    return sheet


_ENDED = {
    "no_action": "a turn had neither an answer nor a call",
    "max_turns": "the turns were used up by calls; in direct, by a call of the tool that was not "
    "offered",
    "max_tokens": "cut off at the limit of a turn or an episode",
    "context_full": "there was no room for another token",
    "proposed": "with a crop network's box",
}
"""What ends mean whose names do not say it."""


def _episodes(results: Results, seconds: dict[str, float]) -> Sheet:
    sheet = Sheet(
        "Episodes",
        ("benchmark", "tokens", "mode", "ended"),
        ("turns", "sampled", "seconds"),
    )
    shown: set[str] = set()
    for name, tokens, mode, condition in _modes(results):
        measured = condition["measures"]
        ends = {key[4:]: share for key, share in measured.items() if key.startswith("end/")}
        often = sorted(((share, end) for end, share in ends.items() if share), reverse=True)
        shown |= {end for _, end in often}
        sheet.add(
            name,
            tokens,
            mode,
            ", ".join(f"{100 * share:.0f}% {end}" for share, end in often),
            _number(measured.get("episode/turns"), "{:.2f}"),
            _number(measured.get("episode/tokens"), "{:.0f}"),
            _number(seconds.get(f"{name}-{tokens}-{mode}"), "{:.2f}"),
        )
    told = (f"{end}: {what}." for end, what in _ENDED.items() if end in shown)
    sheet.meaning = " ".join(
        (
            "ended: how episodes ended, and how many.",
            *told,
            "sampled: tokens a question. seconds: of the wall, a question, while many are asked.",
        )
    )
    return sheet


def _number(value: float | None, form: str, times: int = 1) -> str:
    return NONE if value is None else form.format(times * value)


def _papers(results: Results) -> Iterator[Sheet]:
    """The paper's rows above ours; nothing if no benchmark is one of the paper's."""
    ours: dict[tuple[str, int], dict[str, tuple[str, dict[str, Any]]]] = defaultdict(dict)
    for name, tokens, about, budget in each(results):
        if (column := about["column"]) and TOOL in budget["conditions"]:
            rows = (ours[tokens, number] for number in itertools.count())
            row = next(row for row in rows if column not in row)  # two benchmarks may share it
            row[column] = name, budget["conditions"][TOOL]["accuracy"]
    columns = [column for column in COLUMNS if any(column in row for row in ours.values())]
    if not columns:
        return
    title = "Beside the paper's figures (arXiv 2603.27494), %"
    sheet = Sheet(title, ("",), ("tokens", *columns))
    for name, (shown_at, figures) in OVERALL.items():
        known = dict(zip(COLUMNS, figures))
        sheet.add(name, f"{shown_at}", *(f"{known[column]:.1f}" for column in columns))
    for category in _CATEGORIES:
        cells = [LFPC_BY_CATEGORY[column].get(category) for column in columns]
        if any(cell is not None for cell in cells):
            published = (NONE if cell is None else f"{cell:.1f}" for cell in cells)
            sheet.add(f"LFPC, {LABELS[category]}", "1024", *published)
    sheet.part()
    for (tokens, _), row in ours.items():
        model = "this model"
        if (tokens, 1) in ours:
            model += f" ({', '.join(name for name, _ in row.values())})"
        for category in _CATEGORIES:
            values = [row[column][1].get(category) if column in row else None for column in columns]
            if any(values):
                label = model if category == "overall" else f"{model}, {LABELS[category]}"
                sheet.add(label, tokens, *map(estimate, values))
    yield sheet


def _diagnostics(results: Results) -> Iterator[Sheet]:
    wanted = [row for row in each(results) if row[3]["diagnostics"]]
    if not wanted:
        return
    sheet = Sheet(
        "Do crops matter? Accuracy, % [95% interval of the paired change]",
        ("benchmark", "test"),
        ("n", "before", "after", "change"),
        parts=[],
        warnings=tuple(_of_before(results)),
        meaning=" ".join(_explained(wanted)),
    )
    for name, tokens, about, budget in wanted:
        sheet.part()
        whose = itertools.chain((name, f"{tokens} tokens"), itertools.repeat(""))
        for first, row in zip(whose, _tests(budget, about["column"], tokens)):
            sheet.add(first, *row)
    yield sheet


_EXPLAINED = {
    "needed": "needed: only what is wrong without the tool, right with it, and cropped for.",
    "missed": f"missed: only where there are crops and none has over {MISSED} of the target (of "
    "several: their mean).",
    "answer first": "answer first: episodes that state their answer before their first call, of "
    "those with a call.",
}


def _explained(wanted: list[_Row]) -> Iterator[str]:
    """The meaning of the tests that have a row in the table."""
    rows = [
        test
        for _, tokens, about, budget in wanted
        for test, *_ in _tests(budget, about["column"], tokens)
    ]
    for word, meaning in _EXPLAINED.items():
        if any(word in test for test in rows):
            yield meaning


def _of_before(results: Results) -> Iterator[str]:
    for name, tokens, _, budget in each(results):
        alone = budget["conditions"].get("truth", {}).get("one_target_alone", 0)
        if alone:
            yield (
                f"{name}, {tokens}: truth: {alone} questions of several targets were shown one "
                "alone with every crop, as an earlier version did; evaluate anew to show all"
            )


def _tests(budget: dict[str, Any], column: str | None, tokens: str) -> Iterator[tuple[str, ...]]:
    for diagnosis in budget["diagnostics"]:
        yield diagnosis["test"], *_changed(diagnosis["found"])
        if diagnosis["test"] == "noise":
            for whose, lost in _papers_lost(column, tokens):
                yield f"  {whose}", "", "", "", f"{-lost:+.1f}"
    first = budget["answer_first"]
    if first and first["share"]:
        # Older results counted every episode as a sample.
        count = first.get("episodes", first["share"]["samples"])
        yield "answer first", str(count), "", "share", estimate(first["share"])


def _papers_lost(column: str | None, tokens: str) -> Iterator[tuple[str, float]]:
    """What noise takes from the paper's models at the same budget."""
    if column and tokens == str(LOST_AT):
        for name, lost in LOST_TO_NOISE.items():
            yield f"paper, {name}", lost[COLUMNS.index(column)]


def _changed(paired: dict[str, Any] | None) -> tuple[str, ...]:
    if paired is None:
        return ("0", NONE, NONE, NONE)
    before, after = (f"{100 * paired[key]:.1f}" for key in ("before", "after"))
    return str(paired["questions"]), before, after, estimate(paired["change"], signed=True)


def arm_sheets(
    title: str,
    measured: Mapping[str, Mapping[str, SeededEstimate | None]],
    changed: Mapping[str, SeededEstimate | None],
    known: tuple[str, ...],
    *,
    over_seeds: bool = False,
) -> Iterator[Sheet]:
    """A comparison's tables: the measures of every arm, and the changes between arms if there are
    some. `known` are warnings, which stand below the first table."""
    measures = [name for name in MEASURES if any(row[name] for row in measured.values())]
    table = Sheet(
        f"{title}: % [95% interval over {'seeds and ' if over_seeds else ''}samples]",
        ("arm",),
        tuple(measures),
        meaning=". ".join(f"{name}: {MEASURES[name]}" for name in measures) + ".",
        warnings=known,
    )
    for arm, row in measured.items():
        table.add(arm, *(_cell(row[name], signed=False) for name in measures))
    yield table
    if changed:
        table = Sheet(
            f"{title}: changes, in percentage points",
            ("change",),
            ("all seeds", "each seed"),
        )
        for name, value in changed.items():
            seeds = ", ".join(f"{100 * seed:+.1f}" for seed in value.seeds) if value else ""
            table.add(name, _cell(value, signed=True), seeds or NONE)
        yield table


def rank_sheets(title: str, ranked: Mapping[str, Correlation]) -> Iterator[Sheet]:
    """How measures of boxes go with the accuracy over arms; nothing without such measures."""
    if not ranked:
        return
    table = Sheet(
        f"{title}: rank correlation with accuracy over arms (Spearman)",
        ("measure",),
        ("all seeds", "p", "arms", "each seed"),
        meaning="p: share of all orders of the arms with a coefficient as far from 0 or farther.",
    )
    for measure, value in ranked.items():
        seeds = ", ".join(_number(seed, "{:+.2f}") for seed in value.seeds)
        of_all = _number(value.value, "{:+.2f}"), _number(value.p, "{:.3f}")
        table.add(measure, *of_all, str(value.arms), seeds or NONE)
    yield table


def _cell(value: SeededEstimate | None, *, signed: bool) -> str:
    return estimate(None if value is None else asdict(value.estimate), signed=signed)
