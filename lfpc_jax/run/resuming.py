"""What a run compares when it is resumed: its records, its functions, the weights that a KL term
measures from, its prompts and its judge."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lfpc_jax.checkpoint.training import Saved
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.data.digest import digest
from lfpc_jax.data.pipeline import MixedSet
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.exchange import everyones
from lfpc_jax.model.config import from_folder
from lfpc_jax.model.tuning import tuning
from lfpc_jax.run import own_code
from lfpc_jax.run.config import TrainConfig, described
from lfpc_jax.run.folder import RunFolder, shown_judge
from lfpc_jax.run.models import LoadedModel, asking_of, load_model
from lfpc_jax.trajectory import Record

log = logging.getLogger(__name__)

_READ_SECONDS = 1800.0


def data_digests(parts: Sequence[MixedSet], validation: Sequence[Record]) -> dict[str, str]:
    """A digest of every set to train on, and one of all records to validate on."""
    digests = {f"data.train {part.name}": digest(part.records) for part in parts}
    return digests | {"data.validation": digest(validation)}


def check_same_data(saved: Saved, digests: Mapping[str, str], changed_data: bool) -> None:
    """Raises if the records are not those of the checkpoint, unless `changed_data`. A checkpoint
    without digests is taken to have had these records."""
    before = saved.facts.get("digests", digests)
    changed = sorted(name for name, now in digests.items() if before.get(name) != now)
    if changed and not changed_data:
        raise ValueError(
            f"{saved.path}: was trained on other records of {', '.join(changed)}, under the same "
            "name: questions, answers, options, boxes, sizes or pictures have changed since; put "
            "the old ones back, choose another --run, or resume with these by --changed-data"
        )


def warn_of_other_functions(saved: Saved, functions: Mapping[str, str]) -> None:
    """Warns if the source of one of the user's functions differs from the one that the checkpoint
    was trained with. The settings hold its name only. This is not an error, since the change may be
    a repair."""
    if others := own_code.changed(saved.facts.get("functions", {}), functions):
        log.warning(
            "%s: was trained with another source of the functions of %s, under the same name; from "
            "here on these count", saved.path, ", ".join(others),
        )  # fmt: skip


def first_model(config: TrainConfig, run: RunFolder, mesh: Mesh, *, resumes: bool) -> LoadedModel:
    """The model that the run begins from. A resumed run needs its weights for a KL term only;
    without one they are not loaded. Weights that are trained are loaded in float32, because another
    run's are its float32 masters, and bfloat16 would drop most of what it learned. A base of int8
    is rounded from what is loaded."""
    dtype = tuning().dtype if config.model.dtype == "auto" else config.model.dtype
    path = Path(config.model.path)
    if resumes:
        if not config.update.objective.kl:
            cfg = from_folder(run.assets, dtype=dtype)
            return LoadedModel(cfg, None, run.assets, run.origin)
        path = run.first_model(path)
    wanted = dtype if config.model.lora else "float32"
    loaded = load_model(path, dtype=wanted, mesh=mesh, base=config.model.base)
    return replace(loaded, cfg=replace(loaded.cfg, dtype=dtype))


def reference_digest(config: TrainConfig, model: LoadedModel, saved: Saved | None) -> str | None:
    """The digest of the weights that a KL term measures from; None without the term. A resumed run
    loads these weights again, so this raises if they have changed since."""
    if not config.update.objective.kl:
        return None
    now = model.identity["weights"] if jax.process_index() == 0 else None
    processes.barrier("reference", _READ_SECONDS)
    [now, *_] = everyones(now)
    before = (saved.facts.get("reference") if saved is not None else None) or now
    if before != now:
        raise ValueError(
            f"{model.folder}: holds other weights than when the run began, and its KL term would "
            "measure from these; put the old ones back, or choose another --run"
        )
    return now


def target_identity(target: Target | None, saved: Saved | None) -> dict[str, Any]:
    """What a checkpoint keeps of the run's target model: its identity as `target`; nothing without
    a target. Raises if it is not the target of the checkpoint."""
    if target is None:
        return {}
    now = target.identity if jax.process_index() == 0 else None
    processes.barrier("target", _READ_SECONDS)
    [now, *_] = everyones(now)
    before = (saved.facts.get("target") if saved is not None else None) or now
    if changed := [name for name in before | now if before.get(name) != now.get(name)]:
        raise ValueError(
            f"target: is another than when the run began, by its {', '.join(changed)}; put the old "
            "one back, or choose another --run"
        )
    return {"target": now}


def warn_of_other_asking(config: TrainConfig, first: Path) -> None:
    """Warns if the model that a run begins from, or the run that is resumed, was asked differently.
    For a resumed run only the prompt can differ, since that is part of this code."""
    before = asking_of(first)
    if before is not None and (changed := before.changed(config.asking)):
        log.warning("%s is asked differently than it was trained: %s", first, changed)


def warn_of_other_judge(run: RunFolder, before: str, config: TrainConfig) -> None:
    """Warns if a resumed run has another judge than before, or none any more."""
    now = shown_judge(described(config.judge))
    if before != now:
        log.warning(
            "%s: its answers were judged by %s, and from here on by %s: rewards and accuracies "
            "before and after are not of one measure",
            run.path, before or "no judge", now or "no judge",
        )  # fmt: skip
