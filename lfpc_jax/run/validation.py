"""Measures a model on the validation records, with crops as they are and with blank crops."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lfpc_jax.cropvlm.pair import Pair, asking_for
from lfpc_jax.distributed.exchange import everyones, total
from lfpc_jax.evaluation.alter import alteration, altered
from lfpc_jax.rewards.judge import Bar, Judge
from lfpc_jax.rollout.engine import Engine, own_share
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.episodes import sample, sample_altered
from lfpc_jax.run.metrics import EpisodeMetrics, reward
from lfpc_jax.run.openings import unique_ids
from lfpc_jax.trajectory import Group, Record

log = logging.getLogger(__name__)


def validation_records(records: Sequence[Record]) -> list[Record]:
    """The validation records under unique ids, since validation sets may share some."""
    ids = unique_ids([record.id for record in records])
    return [replace(record, id=id_) for record, id_ in zip(records, ids)]


def validate(
    config: TrainConfig,
    engine: Engine | Pair,
    records: Sequence[Record],
    judge: Judge | None,
    measure: EpisodeMetrics,
    bar: Bar,
) -> tuple[dict[str, float], list[Group]]:
    """Metrics over all processes' records, and this process's episodes with crops as they are.

    Every record is rolled out once as it is and once with blank crops. `accuracy` leaves out
    answers that could not be judged; `masked` is their share. Without a judge, answers that only a
    judge could tell count as wrong; `undecided` is their share. All three have a `blank_` variant.
    `gap` is how much accuracy is lost with blank crops, over the records that could be judged both
    times: what the crops were worth. `skipped` is the share of records that could not be shown, and
    `records` is the number of records that `accuracy` is over.

    A crop network's target is asked for answers, whatever its rewards need; a weighted `likelihood`
    is measured, too. Without a target its boxes alone are validated.
    """
    mine = list(own_share(records))
    values: dict[str, float] = {}
    episodes: list[Group] = []
    accuracies: list[dict[str, float]] = []
    for prefix, groups in _passes(config, engine, mine, bar):
        groups, rewards = reward(groups, config.rewards, judge, proposals=config.proposals)
        measured, _ = measure(groups, rewards)
        judged = _accuracies(groups)
        accuracies.append(judged)
        names = {"accuracy": "accuracy", "masked": "unjudged", "undecided": "undecided",
                 "likelihood": "likelihood"}  # fmt: skip
        for name, part in names.items():
            if f"reward/{part}" in measured:
                values[f"validation/{prefix}{name}"] = measured[f"reward/{part}"]
        if not prefix:
            asked, answered = total([len(mine), len(groups)])
            values["validation/skipped"] = 1 - answered / asked
            if "validation/accuracy" in values:
                [values["validation/records"]] = total([len(judged)])
            if not answered:
                log.warning("the validation measured nothing: all %d records were skipped", asked)
            episodes = groups
            values |= {
                f"validation/{name.split('/')[1]}": value
                for name, value in measured.items()
                if name.startswith("crop/")
            }
    if len(accuracies) > 1:
        values |= _gap(*accuracies)
    return values, episodes


def _passes(
    config: TrainConfig, engine: Engine | Pair, records: Sequence[Record], bar: Bar
) -> Iterator[tuple[str, list[Group]]]:
    """The episodes with crops as they are, and with blank crops. An engine's own go on from the
    former at their first call; a target model is asked for both, one after the other."""
    blank = alteration("blank")
    drawn: dict[str, Any] = {
        "seed": config.seed,
        "bar": bar,
        "sampling": config.validation_sampling,
    }
    if isinstance(engine, Engine) and not config.proposals:
        both = sample_altered(engine, records, lambda _: {"blank": blank}, **drawn)
        yield "", both.get("", [])
        yield "blank_", both.get("blank", [])
        return
    passes = [("", None), ("blank_", blank)]
    for prefix, alter in passes[:1] if config.proposals and config.target is None else passes:
        with altered(engine, alter), asking_for(engine, answers=True):
            yield prefix, sample(engine, records, rollouts=1, **drawn)


def told(values: Mapping[str, float]) -> str:
    """A validation in words: its accuracy, over how many records, and how many were left out."""
    skipped = f"{values['validation/skipped']:.1%} of the records could not be shown"
    if "validation/accuracy" not in values:
        return skipped
    said = (
        f"accuracy {values['validation/accuracy']:.3f} over "
        f"{values['validation/records']:.0f} records"
    )
    left_out = [skipped] if values["validation/skipped"] else []
    if values.get("validation/masked"):
        left_out.append(f"{values['validation/masked']:.1%} of the answers could not be judged")
    return ": ".join([said, ", ".join(left_out)]) if left_out else said


def _gap(plain: Mapping[str, float], blank: Mapping[str, float]) -> dict[str, float]:
    """What accuracy is lost with blank crops, over all processes' records that were judged both
    times; nothing if there are none."""
    both = plain.keys() & blank.keys()
    sums = [math.fsum(known[name] for name in both) for known in (plain, blank)]
    count, as_they_are, blanked = map(sum, zip(*everyones([len(both), *sums])))
    return {"validation/gap": as_they_are / count - blanked / count} if count else {}


def certain_accuracy(values: Mapping[str, float]) -> float:
    """A validation's accuracy with unknown answers taken as wrong, so that no checkpoint becomes
    the best one because a judge failed."""
    return values["validation/accuracy"] * (1 - values["validation/masked"])


def _accuracies(groups: Sequence[Group]) -> dict[str, float]:
    """The accuracy of each record that could be judged. Each record was rolled out once."""
    return {
        group.record.id: accuracy
        for group in groups
        for rewards in group.rewards
        if (accuracy := rewards["accuracy"]) is not None
    }
