"""The sets of a training run, audited: the mixture to train on, the records to validate on."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lfpc_jax.cropvlm.labelled import doubts as doubts_of_labels
from lfpc_jax.data import pictures
from lfpc_jax.data.audit import audit, check
from lfpc_jax.data.pipeline import MixedSet, in_turn
from lfpc_jax.data.rejected import Rejected, Unusable, check_share, parted, summary
from lfpc_jax.infogap.provenance import doubts
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.run.config import Source, TrainConfig
from lfpc_jax.run.models import LoadedModel
from lfpc_jax.run.prompt_lengths import PromptLengths, check_fits
from lfpc_jax.trajectory import Picture, Record

log = logging.getLogger(__name__)

_FIRST = 16
"""Records of a set whose pictures a dry run opens."""


def audited_data(config: TrainConfig) -> tuple[list[MixedSet], list[Record]]:
    """The mixture to train on, and the records to validate on."""
    parts = []
    for source in config.data.train:
        records = _audited(source, config)
        parts.append(MixedSet(source.path, records, source.weight, config.data.max_lost))
    validation = [_audited(source, config) for source in config.data.validation]
    return parts, in_turn(validation, config.data.validation_records)


def _audited(source: Source, config: TrainConfig) -> tuple[Record, ...]:
    audited = audit(source.reader(source.path), name=source.path, max_share=config.data.max_lost)
    lost, unsuited = parted(audited.rejected)
    for rejected in lost:
        log.warning("%s: left out %s", source.path, rejected)
    if unsuited:
        rows = len(audited.records) + len(audited.rejected)
        log.warning(
            "%s: %d of %d rows are not for training here and were left out: %s",
            source.path, len(unsuited), rows, summary(unsuited),
        )  # fmt: skip
    return audited.records


@dataclass(frozen=True)
class FirstLook:
    """A set's rows: `records` that can be asked, what was `left_out`, how many of the first `tried`
    records' `pictures` could be opened, and how long `prompts` are, if that was measured."""

    records: int
    left_out: str
    tried: int
    pictures: int
    prompts: PromptLengths | None


def first_look(source: Source, config: TrainConfig, dialogue: Dialogue | None) -> FirstLook:
    """Reads every row of a set, opens the pictures of its first records, and measures some prompts
    of the dialogue. Raises ValueError or OSError for a set that cannot be read, or of which too
    many rows are rejected."""
    lengths = None if dialogue is None else PromptLengths(dialogue)
    records, tried, faults = 0, 0, []
    rejected: list[Rejected] = []
    for entry in source.reader(source.path):
        if isinstance(entry, Rejected):
            rejected.append(entry)
            continue
        records += 1
        if lengths is not None:
            lengths.add(entry)
        if tried < _FIRST:
            tried += 1
            try:
                check(entry)
                if entry.picture != Picture():
                    pictures.original(entry.picture)
            except Unusable as error:
                faults.append(f"{entry.id}: {error}")
    check_share(source.path, rejected, records + len(rejected), config.data.max_lost)
    if not records:
        raise ValueError(
            f"{source.path}: no records (left out: {summary(rejected)}); is this the set's folder "
            "or file?"
        )
    if len(faults) == tried:
        raise ValueError(
            f"{source.path}: none of the first {tried} records can be used; the first, {faults[0]}"
        )
    left_out = summary(rejected) or "none"
    return FirstLook(records, left_out, tried, tried - len(faults), lengths)


def check_prompts(config: TrainConfig, parts: Sequence[MixedSet], dialogue: Dialogue) -> None:
    """Raises ValueError if a run on these sets would stop for prompts that are too long, which is
    known before anything compiles."""
    sets = [(part.name, part.weight, PromptLengths(dialogue)) for part in parts]
    for part, (_, _, lengths) in zip(parts, sets, strict=True):
        for record in part.records:
            lengths.add(record)
    check_fits(config, sets)


def warn_of_other_gaps(
    model: LoadedModel, parts: Sequence[MixedSet], processor: ImageProcessor
) -> None:
    """Warns of sets whose image gaps were not selected with this model and this budget."""
    for part in parts:
        for doubt in doubts(part.name, part.records, processor, lambda: model.identity["weights"]):
            log.warning("%s: %s", part.name, doubt)


def warn_of_other_labels(
    config: TrainConfig, parts: Sequence[MixedSet], target: Mapping[str, Any] | None
) -> None:
    """Warns of sets whose targets are labels that were not made for the target of this identity, or
    not for what is trained."""
    for part in parts:
        for doubt in doubts_of_labels(part.name, proposes=config.proposals, target=target):
            log.warning("%s: %s", part.name, doubt)
