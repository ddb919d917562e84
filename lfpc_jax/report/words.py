"""What a metric is in words: its title and its unit, and its meaning from docs/metrics.md.

`metrics.md` in this folder is a link to that page, so that a report explains each curve with the
page's own row. The columns of the row (formula, range, healthy, otherwise) are its meaning.
"""

import re
from functools import cache
from importlib import resources

_EPISODES, _CALLS, _ANSWERS = "share of episodes", "share of calls", "share of answers"
_RECORDS, _TOKENS, _UPDATES, _BATCHES = (
    "share of records",
    "share of tokens",
    "share of updates",
    "share of mini-batches",
)
_WORDS = {
    "reward/total": ("Reward", "reward an episode"),
    "reward/accuracy": ("Right answers", _ANSWERS),
    "reward/format": ("Format, 0 if well written", "mean of 0 and -1"),
    "reward/tool": ("Reward for a crop", _EPISODES),
    "reward/overlap": ("Rewarded crop overlap", "share of the target"),
    "reward/iou": ("Rewarded crop IoU", "IoU"),
    "reward/r_iou": ("Grounding: IoU of a crop that holds the target", "IoU"),
    "reward/r_l1": ("Grounding: how near the corners are", "1 - distance"),
    "reward/r_geo": ("Grounding: both parts", "reward for boxes"),
    "reward/likelihood": ("Log-likelihood of the right answer", "nats"),
    "reward/valid": ("Episodes with a valid box", _EPISODES),
    "reward/masked": ("Episodes without a reward", _EPISODES),
    "reward/unjudged": ("Answers that could not be judged", _EPISODES),
    "reward/undecided": ("Answers that no rule could tell", _EPISODES),
    "reward/flat": ("Groups with nothing to learn from", "share of groups"),
    "masked/judge": ("Without a reward: the judge failed", _EPISODES),
    "masked/record": ("Without a reward: the record is unsound", _EPISODES),
    "masked/target": ("Without a reward: the target was not asked", _EPISODES),
    "masked/likelihood": ("Without a reward: no likelihood", _EPISODES),
    "masked/total": ("Without a reward: the sum is not finite", _EPISODES),
    "crop/rate": ("Episodes with a crop", _EPISODES),
    "crop/count": ("Crops an episode", "crops"),
    "crop/overlap": ("Target inside the crop", "share of the target"),
    "crop/iou": ("IoU of crop and target", "IoU"),
    "crop/overlap_cropped": ("Target inside the crop, if there is one", "share of the target"),
    "crop/iou_cropped": ("IoU of crop and target, if there is a crop", "IoU"),
    "crop/full": ("Boxes that hold every target whole", _EPISODES),
    "crop/area_ratio": ("Area of a crop", "share of the image"),
    "crop/tokens": ("Visual tokens of a crop", "tokens"),
    "crop/invalid": ("Refused calls", _CALLS),
    "episode/turns": ("Turns an episode", "turns"),
    "episode/tokens": ("Sampled tokens an episode", "tokens"),
    "end/answered": ("Ended with an answer", _EPISODES),
    "end/proposed": ("Ended with a valid box", _EPISODES),
    "end/no_action": ("Ended with neither answer nor call", _EPISODES),
    "end/max_turns": ("Ended at the limit of turns", _EPISODES),
    "end/max_tokens": ("Ended at the limit of tokens", _EPISODES),
    "end/context_full": ("Ended with a full context", _EPISODES),
    "update/loss": ("Loss", "loss"),
    "update/gradient_norm": ("Gradient norm, before it is clipped", "L2 norm"),
    "update/clipped_low": ("Tokens clipped from below", _TOKENS),
    "update/clipped_high": ("Tokens clipped from above", _TOKENS),
    "update/clipped_dual": ("Tokens at the bound of the ratio", _TOKENS),
    "update/change_kl": ("KL from the policy before the step", "nats a token"),
    "update/sampler_apart": (
        "Distance of the sampler's and the trainer's log-probabilities",
        "nats a token",
    ),
    "update/staleness": ("Age of the weights that drew a token", "updates"),
    "update/sampler_kl": ("KL between sampler and trainer", "nats a token"),
    "update/reference_kl": ("KL from the reference", "nats a token"),
    "update/entropy": ("Entropy of the next token", "nats"),
    "update/refused": ("Updates that were not finite", _UPDATES),
    "update/empty": ("Mini-batches with nothing to learn from", _BATCHES),
    "update/fill": ("Computed tokens that are no padding", _TOKENS),
    "update/windows_fill": ("Computed windows that are no padding", "share of windows"),
    "update/learning_rate": ("Learning rate", "learning rate"),
    "data/stale": ("Episodes dropped as too old", _EPISODES),
    "data/skipped": ("Prompts that could not be shown", "share of prompts"),
    "time/data": ("Waiting for the next prompts", "seconds"),
    "time/rollout": ("Sampling episodes", "seconds"),
    "time/proposer": ("Sampling: the crop network", "seconds"),
    "time/target": ("Sampling: the target", "seconds"),
    "time/reward": ("Rewards", "seconds"),
    "time/update": ("Updating the weights", "seconds"),
    "time/validation": ("Validating", "seconds"),
    "time/checkpoint": ("Saving a checkpoint", "seconds"),
    "time/step": ("The whole step", "seconds"),
    "speed/sampled_tokens": ("Speed of sampling", "tokens a second"),
    "rollout/decode": ("Sampling tokens", "seconds"),
    "rollout/encode": ("Encoding pictures and crops", "seconds"),
    "rollout/prefill": ("Computing prompts", "seconds"),
    "rollout/extend": ("Writing crops and replies onto rows", "seconds"),
    "rollout/waiting": ("All rows wait for prompts or crops", "seconds"),
    "rollout/host": ("The host: texts, boxes, bookkeeping", "seconds"),
    "rollout/occupancy": ("Slots that sample", "share of slots and steps"),
    "rollout/idle_ended": ("Slots whose turn has just ended", "share of slots and steps"),
    "rollout/idle_replies": ("Slots that wait for a reply", "share of slots and steps"),
    "rollout/idle_free": ("Slots without an episode", "share of slots and steps"),
    "target/questions": ("Prompts whose boxes the target was asked about", "prompts"),
    "target/distinct": ("Distinct boxes", _EPISODES),
    "target/cached": ("Boxes whose answer was known", "share of boxes"),
    "validation/accuracy": ("Right answers", _ANSWERS),
    "validation/blank_accuracy": ("Right answers with blank crops", _ANSWERS),
    "validation/gap": ("What the crops are worth", "difference of shares"),
    "validation/masked": ("Answers not judged", _RECORDS),
    "validation/blank_masked": ("Answers not judged, with blank crops", _RECORDS),
    "validation/undecided": ("Answers that no rule could tell", _RECORDS),
    "validation/blank_undecided": ("Answers that no rule could tell, with blank crops", _RECORDS),
    "validation/likelihood": ("Log-likelihood of the right answer", "nats"),
    "validation/blank_likelihood": (
        "Log-likelihood of the right answer, with blank crops",
        "nats",
    ),
    "validation/skipped": ("Records that could not be shown", _RECORDS),
    "validation/records": ("Records that were validated", "records"),
}
_OWN = {
    "reward": ("Your reward", "reward an episode"),
    "masked": ("Without a reward: your reward failed:", _EPISODES),
    "fault": ("Refused: the turn", _CALLS),
}
"""Of groups with names that a user adds: how their titles begin, and their unit."""


def title(name: str) -> str:
    return _words(name)[0]


def unit(name: str) -> str:
    return _words(name)[1]


def _words(name: str) -> tuple[str, str]:
    if name in _WORDS:
        return _WORDS[name]
    group, _, rest = name.partition("/")
    if group == "validation" and f"crop/{rest}" in _WORDS:
        return _WORDS[f"crop/{rest}"]
    if group == "fault" and (said := _turn(name)):
        return f"Refused: the turn {said}", _CALLS
    if group in _OWN and rest:
        begin, of = _OWN[group]
        return f"{begin} {rest.replace('_', ' ')}", of
    return name, "value"


def _turn(name: str) -> str:
    """What a refused turn did, from the page's row; the remarks around it are left out."""
    row = dict(meaning(name)).get("the turn", "")
    return re.split(r"[.;] ", row.removeprefix("of a crop network: "))[0]


def meaning(name: str) -> tuple[tuple[str, str], ...]:
    """The row of docs/metrics.md as pairs of heading and text; empty for a metric that it does not
    have. What a validation measures of crops has the meaning that it has in training."""
    rows = _rows()
    group, _, rest = name.partition("/")
    if group == "validation" and (row := rows.get(f"crop/{rest}")):
        return row
    return rows.get(name) or rows.get(f"{group}/NAME") or ()


@cache
def _rows() -> dict[str, tuple[tuple[str, str], ...]]:
    """Every row of a metric, by its name. Cells become plain text."""
    page = (resources.files("lfpc_jax.report") / "metrics.md").read_text(encoding="utf-8")
    rows: dict[str, tuple[tuple[str, str], ...]] = {}
    headings: list[str] = []
    for line in page.splitlines():
        cells = [_plain(cell) for cell in line.strip().strip("|").split("|")]
        if line.startswith("| metric |"):
            headings = cells
        elif found := re.match(r"\| `(\w+/\w+)` \|", line):
            pairs = zip(headings[1:], cells[1:])
            rows.setdefault(found[1], tuple((head, cell) for head, cell in pairs if cell))
    return rows


def _plain(cell: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", cell.strip())
    return text.replace("`", "").replace("**", "")
