"""The papers' figures, to stand beside ours: LFPC's (arXiv 2603.27494), and CropVLM's below (arXiv
2511.19820). In per cent.

They hold for the benchmarks as published, so a part of one, or another set in the same format, has
none. All are at a budget for the shown image of 1,024 visual tokens, but for the last.
"""

from typing import Any

from lfpc_jax.data.digest import digest_by_place
from lfpc_jax.data.v_star import FOLDERS
from lfpc_jax.evaluation.benchmark import Benchmark

HR_8K, HR_4K, V_STAR = "HR-Bench 8K", "HR-Bench 4K", "V*"
COLUMNS = (HR_8K, HR_4K, V_STAR)

OVERALL: dict[str, tuple[int, tuple[float, float, float]]] = {
    "DeepEyes": (1024, (62.0, 63.9, 75.9)),
    "Mini-o3": (1024, (66.0, 70.7, 80.1)),
    "Pixel Reasoner": (1024, (59.9, 65.8, 73.9)),
    "CoF-sft": (1024, (58.9, 66.0, 72.8)),
    "RL without the gap": (1024, (61.0, 67.9, 72.3)),
    "LFPC, Stage I": (1024, (69.9, 74.4, 78.0)),
    "LFPC": (1024, (72.1, 75.3, 80.6)),
    "LFPC, 16,384 tokens": (16384, (75.4, 76.4, 89.5)),
}

LFPC_BY_CATEGORY: dict[str, dict[str, float]] = {
    HR_8K: {"single": 83.3, "cross": 60.8},
    HR_4K: {"single": 86.8, "cross": 63.7},
    V_STAR: {"direct_attributes": 82.6, "relative_position": 77.6},
}
"""LFPC at 1,024 tokens."""

LOST_TO_NOISE: dict[str, tuple[float, float, float]] = {
    "no gap": (4.5, 0.5, 3.2),
    "Stage I": (18.5, 10.5, 11.0),
}
"""Accuracy lost when every crop becomes noise, at `LOST_AT` tokens."""
LOST_AT = 1024

LABELS = {
    "overall": "overall",
    "single": "FSP",
    "cross": "FCP",
    "direct_attributes": "attribute",
    "relative_position": "spatial",
}

TEXT_VQA = "TextVQA"
CROPVLM_AT = 1024
"""Pixels of the longest side that CropVLM's figures are for."""

CROPVLM: dict[str, tuple[float, float, float, float]] = {
    "CropVLM, SFT": (17.9, 51.0, 12.5, 53.5),
    "CropVLM, accuracy": (18.6, 72.0, 16.8, 56.1),
    "CropVLM, likelihood": (13.5, 85.0, 33.4, 57.1),
}
"""IoU, recall and size of the boxes, and the target's accuracy, by what the crop network was
trained with."""

_TEXT_VQA_ROWS = {"text_vqa": 5000, "text_vqa_boxes": 4370}
"""The questions of its validation part, and those of them with boxes that people drew, by what
their reader calls them."""

_ROWS = {"hr_bench": 800, "v_star": 191}
_V_STAR_CATEGORIES = dict(zip(FOLDERS, (115, 76)))


def column_of(benchmark: Benchmark) -> str | None:
    """The paper's column that a benchmark can be compared with: a benchmark called 4K or 8K that
    has all rows of HR-Bench, or all of V*. None for others."""
    rows = len(benchmark.records) + len(benchmark.rejected)
    if rows != _ROWS.get(benchmark.kind):
        return None
    if benchmark.kind == "v_star":
        lost = len(benchmark.rejected)
        counts = {
            name: sum(record.category == name for record in benchmark.records)
            for name in _V_STAR_CATEGORIES
        }
        whole = all(0 <= most - counts[name] <= lost for name, most in _V_STAR_CATEGORIES.items())
        return V_STAR if whole else None
    name = benchmark.name.lower()
    return HR_8K if "8k" in name else HR_4K if "4k" in name else None


def cropvlm_column_of(benchmark: Benchmark) -> str | None:
    """The set whose figures CropVLM's can stand beside: TextVQA's validation part, or the questions
    of it that have drawn boxes, whole. None for others."""
    rows = len(benchmark.records) + len(benchmark.rejected)
    named = {record.dataset for record in benchmark.records}
    return TEXT_VQA if any(named == {n} and rows == m for n, m in _TEXT_VQA_ROWS.items()) else None


def about_benchmark(benchmark: Benchmark) -> dict[str, Any]:
    """What evaluation.json says of it. How answers are scored is said only if not by rule."""
    metrics = sorted({record.metric for record in benchmark.records} - {"rules"})
    return {
        "kind": benchmark.kind,
        "column": column_of(benchmark),
        "questions": len(benchmark.records),
        "digest": benchmark.digest,
        "digest_by_place": digest_by_place(benchmark.records),
        "losses": [str(loss) for loss in benchmark.rejected],
    } | ({"metrics": metrics} if metrics else {})
