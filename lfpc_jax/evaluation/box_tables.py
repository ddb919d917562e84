"""Tables of a target model's evaluation: how well boxes fit the true ones, and CropVLM's figures
beside ours. Per cent."""

from collections.abc import Iterator
from typing import Any

from lfpc_jax.evaluation import journal
from lfpc_jax.evaluation.conditions import DIRECT, TOOL
from lfpc_jax.evaluation.published import CROPVLM, CROPVLM_AT, TEXT_VQA
from lfpc_jax.evaluation.results import Results
from lfpc_jax.evaluation.sheet import Sheet, each, estimate

_COLUMNS = ("iou", "recall", "full_recall", "size", "invalid")


def box_sheets(results: Results) -> Iterator[Sheet]:
    """Nothing for an evaluation without a target model."""
    wanted = [row for row in each(results) if row[3].get("boxes")]
    if not wanted:
        return
    sheet = Sheet(
        "Boxes, % [95% interval over samples]",
        ("benchmark", "boxes"),
        ("IoU", "recall", "full", "size", "invalid"),
        meaning="recall: share of the true box that is covered. full: true boxes covered whole. "
        "size: % of the image. invalid: episodes without a box that could be cut, which count as "
        "0 in IoU, recall and full, and are left out of size; valid: without these.",
    )
    for name, tokens, _, budget in wanted:
        whose = f"{name}, {tokens}"
        for condition, measured in budget["boxes"].items():
            sheet.add(whose, condition, *(_short(measured[column]) for column in _COLUMNS))
            whose = ""
            if (measured["invalid"] or {"value": 0})["value"]:
                valid = (_short(measured[f"{column}_valid"]) for column in ("iou", "recall"))
                sheet.add("", "  valid", *valid, "", "", "")
    yield sheet
    yield from _published(wanted)


def _short(value: dict[str, Any] | None) -> str:
    """A share and its interval, in per cent, in few characters."""
    return estimate(value).replace(", ", "-")


def _published(wanted: list[tuple[str, str, dict[str, Any], dict[str, Any]]]) -> Iterator[Sheet]:
    """CropVLM's rows above ours; nothing if no benchmark is TextVQA."""
    ours = [row for row in wanted if row[2].get(journal.CROPVLM) == TEXT_VQA]
    if not ours:
        return
    sheet = Sheet(
        f"Beside CropVLM's figures (arXiv 2511.19820, {TEXT_VQA} at {CROPVLM_AT:,} px), %",
        ("",),
        ("IoU", "recall", "size", "accuracy"),
        meaning="which target answered, and on how many of the questions, is not said in what we "
        "have of the paper.",
    )
    for name, (iou, recall, size, accuracy) in CROPVLM.items():
        sheet.add(name, *(f"{value:g}" for value in (iou, recall, size, accuracy)))
    sheet.part()
    for name, tokens, _, budget in ours:
        for condition in (TOOL, DIRECT):
            if condition not in budget["conditions"]:
                continue
            measured = budget["boxes"].get(condition, {})
            accuracy = budget["conditions"][condition]["accuracy"].get("overall")
            cells = (_short(measured.get(column)) for column in ("iou", "recall", "size"))
            label = "this crop network" if condition == TOOL else "without a crop"
            sheet.add(f"{label} ({name}, {tokens} tokens)", *cells, _short(accuracy))
    yield sheet
