"""The folder of a training run, and how to load a run's model.

RUN/config.json        every setting, resolved
RUN/assets/            the base model's config, tokenizer and processor files, and asking.json: how
                       to ask the trained model
RUN/origin.json        how the base model's weights were named and typed, for export; and the step
                       that this run began from, if the base model is a run, or the commit, if it
                       is on the Hub
RUN/metrics.jsonl      and tensorboard/
RUN/wandb_id           the run's id at W&B, if it has one; see lfpc_jax/report/writer.py
RUN/checkpoints/       see lfpc_jax/checkpoint/training.py
RUN/trajectories/      some of the episodes, replayable
RUN/log.txt
RUN/lock/              while a command runs: its claim, see claim.py
"""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import assets, staging, training
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.exchange import everyones
from lfpc_jax.jsonfile import Checked, brief, expecting, read_object
from lfpc_jax.model import config, int8, parameters, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.remote import hub
from lfpc_jax.rollout import asking
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.episode import OLD_LIMIT, with_limits
from lfpc_jax.run.config import TrainConfig, described

log = logging.getLogger(__name__)

_LONGEST_WRITE = 3600.0
_MOST_STEPS = 1 << 40
_LONGEST_PATH = 4096  # characters
_BEGAN = ("step", "commit")
"""What origin.json has beside the origin of weights."""


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def assets(self) -> Path:
        return self.path / "assets"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories"

    @property
    def settings(self) -> Path:
        return self.path / "config.json"

    @property
    def origin(self) -> Origin:
        raw = self._origin
        with expecting("origin of a model", self.path / "origin.json"):
            return Origin.from_json({name: raw[name] for name in raw if name not in _BEGAN})

    @property
    def _origin(self) -> dict[str, Any]:
        return read_object(self.path / "origin.json")

    @property
    def began_at(self) -> int | None:
        """The step of the base model, if the base model is a run; else None."""
        step = self._origin.get("step")
        if step is None:
            return None
        return Checked(self.path / "origin.json").whole("step", step, 0, _MOST_STEPS)

    @property
    def began_commit(self) -> str:
        """The commit of the base model, if it came from the Hub; else empty."""
        return str(self._origin.get("commit") or "")

    @property
    def asking(self) -> Asking:
        """How to ask the run's model. For a run from before asking.json it follows from the
        settings."""
        with expecting("settings of a run", self.settings):
            rollout = read_object(self.settings).get("rollout", {})
            return Asking.read(self.assets) or Asking.of_settings(rollout)

    @property
    def judged_by(self) -> str:
        """The judge of the run's rewards, by the settings of its last start; empty if none."""
        with expecting("settings of a run", self.settings):
            return shown_judge(read_object(self.settings).get("judge"))

    @property
    def trainable(self) -> Trainable:
        """Which parameters the run trains."""
        with expecting("settings of a run", self.settings):
            model = read_object(self.settings)["model"]
            lora = model["lora"]
            if lora is not None:
                lists = {name: tuple(v) for name, v in lora.items() if isinstance(v, list)}
                lora = LoRA(**lora | lists)
            return Trainable(bool(model["train_vision"]), lora)

    @property
    def began_from(self) -> Path:
        """The base model of this run, as its settings name it; see `first_model`."""
        return self.first_model(Path(self.named_model))

    @property
    def named_model(self) -> str:
        """The model that the settings name, whether or not it still exists."""
        with expecting("settings of a run", self.settings):
            path = read_object(self.settings)["model"]["path"]
            if len(path) > _LONGEST_PATH:
                raise ValueError(
                    f"{self.settings}: model.path is {brief(path)} and {len(path)} characters "
                    "long, which no path is"
                )
            return path

    def first_model(self, path: Path) -> Path:
        """The base model of this run, whose settings name it by `path`. If that is a run, it is the
        checkpoint that was taken when this run began."""
        model, step = run_of(path), self.began_at
        return path if model is None or step is None else model.checkpoints / f"{step:08d}"

    def begin(
        self, settings: TrainConfig, model_assets: Path, origin: Origin, step: int | None
    ) -> None:
        """Writes the files of a new run. It replaces those of a run without a checkpoint."""
        in_the_first_process(partial(self._begin, settings, model_assets, origin, step))

    def _begin(
        self, settings: TrainConfig, model_assets: Path, origin: Origin, step: int | None
    ) -> None:
        if self.assets.exists():
            shutil.rmtree(self.assets)
        self.assets.mkdir(parents=True)
        assets.copy(model_assets, self.assets)
        (self.assets / asking.FILE).write_text(settings.asking.text, encoding="utf-8")
        began = {"step": step, "commit": hub.commit_of(model_assets)}
        _write(self.path / "origin.json", {**dataclasses.asdict(origin), **began})
        _write(self.settings, described(settings))

    def resume(self, settings: TrainConfig) -> None:
        """Writes the settings of a resumed run. Raises ValueError if one changed that may not."""
        in_the_first_process(partial(self._resume, settings))

    def _resume(self, settings: TrainConfig) -> None:
        now = described(settings)
        begun = read_object(self.settings)
        with expecting("settings of a run", self.settings):
            limits = begun.get("rollout", {})
            begun["rollout"] = with_limits(limits)
        _check_schedule(self.path, begun, settings)
        _check_temperature(self.path, begun, settings)
        usual = described(TrainConfig())
        usual["model"]["lora"] = described(LoRA())
        changed = _differences(begun, now, usual)
        if changed:
            raise ValueError(
                f"{self.path}: was begun with other settings of {sorted(changed)}; resume it with "
                f"those, or choose another --run{_of_old_limit(limits)}"
            )
        _write(self.settings, now)


def _of_old_limit(rollout: dict[str, Any]) -> str:
    if "max_tokens" not in rollout:
        return ""
    limit = rollout["max_tokens"]
    return (
        f" ({OLD_LIMIT}; this run's are --rollout.turn_tokens {limit} "
        f"--rollout.episode_tokens {limit})"
    )


_MAY_CHANGE = {"steps", "mesh", "wandb_project", "keep_checkpoints", "keep_best", "judge", "health",
               "rollout.prompt_text", "validate_every", "checkpoint_every", "trajectories_every",
               "target.path", "target.slots", "target.cache", "target.key_variable",
               "target.patience", "optimizer.moments"}  # fmt: skip


def shown_judge(settings: Mapping[str, Any] | None) -> str:
    """The judge's model and address, on which verdicts depend; empty without a judge."""
    return f"{settings['model']} at {settings['base_url']}" if settings else ""


def in_the_first_process(write: Callable[[], None]) -> None:
    """Runs `write` in the first process while others wait. If it fails, all raise ValueError."""
    fault = ""
    if jax.process_index() == 0:
        try:
            write()
        except (ValueError, OSError) as error:
            fault = str(error)
    processes.barrier("first process", _LONGEST_WRITE)  # collectives would not wait so long
    [fault, *_] = everyones(fault)
    if fault:
        raise ValueError(fault)


def _write(file: Path, value: Any) -> None:
    staging.write_text(file, json.dumps(value, indent=2) + "\n")


def _check_schedule(run: Path, begun: dict[str, Any], now: TrainConfig) -> None:
    """A decaying learning rate reaches its end at the run's last step, so another number of steps
    would change the rates of the remaining steps."""
    steps, schedule = begun.get("steps", now.steps), now.optimizer.schedule
    if schedule != "constant" and steps != now.steps:
        raise ValueError(
            f"{run}: was begun with {steps} steps, over which its {schedule} schedule lowers the "
            f"learning rate; {now.steps} steps would change the rates of the remaining steps. "
            f"Resume with --steps {steps}; to train longer, begin another --run from this one, "
            f"with a new schedule: --model.path {run}"
        )


def _check_temperature(run: Path, begun: dict[str, Any], now: TrainConfig) -> None:
    """Updates of runs from before the setting `update.deviation` ignored the temperature."""
    old = "update" in begun and "deviation" not in begun["update"]
    if old and now.policy_temperature != 1:
        raise ValueError(
            f"{run}: was begun by a version whose updates ignored rollout.temperature "
            f"{now.policy_temperature}; updates of this version would improve another policy. "
            f"Begin another --run from this one: --model.path {run}"
        )


def _differences(
    before: dict[str, Any], now: dict[str, Any], default: dict[str, Any], within: str = ""
) -> set[str]:
    """The names of settings that differ although they may not. A setting that the run does not have
    is newer than the run, which behaved as the setting's default says."""
    names: set[str] = set()
    for key in before.keys() | now.keys():
        name = within + key
        old, new, usual = before.get(key, default.get(key)), now.get(key), default.get(key)
        if name in _MAY_CHANGE or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            usual = usual if isinstance(usual, dict) else {}
            names |= _differences(old, new, usual, f"{name}.")
        else:
            names.add(name)
    return names


def run_of(path: Path) -> RunFolder | None:
    """The run whose folder, or one of whose checkpoints, a path names; None if it is no run's."""
    folders = [path, *([path.parent.parent] if path.parent.name == "checkpoints" else [])]
    runs = map(RunFolder, folders)
    return next((run for run in runs if run.settings.is_file() and run.checkpoints.is_dir()), None)


def check_has_weights(path: Path) -> None:
    """Raises ValueError for a run that stopped before its first checkpoint."""
    run = RunFolder(path)
    begun = (run.settings, path / "origin.json", path / "log.txt")
    if all(file.is_file() for file in begun) and not run.checkpoints.is_dir():
        raise ValueError(
            f"{path}: this run has no checkpoint yet; {path / 'log.txt'} says why it stopped. "
            "Rerun its lfpc train command"
        )


def unfinished(path: Path) -> str:
    """A warning for a model that is a run before its last step; else an empty string. A path that
    names a step gets no warning, since that step is meant."""
    run = run_of(path)
    if run is None or (path != run.path and path.name.isdigit()):
        return ""
    newest = max(training.whole_steps_of(run.checkpoints), default=0)
    settings = Checked(run.settings)
    steps = settings.whole("steps", read_object(run.settings).get("steps", 0), 0, _MOST_STEPS)
    if newest >= steps:
        return ""
    return (
        f"{path}: this run has only come to step {newest} of {steps}, and is used as it is; to "
        f"finish it first, rerun its command with --run {run.path}, then start from it in a folder "
        "without checkpoints"
    )


def checkpoint_of(path: Path, run: RunFolder) -> training.Saved:
    """The newest complete checkpoint of RUN, or that of RUN/checkpoints/STEP; RUN/checkpoints/best
    is the one with the highest accuracy."""
    which = "newest" if path == run.path else path.name
    if which == "newest":
        saved = training.latest(run.checkpoints)
    elif which == "best":
        saved = training.best(run.checkpoints)
    else:
        saved = training.of_step(run.checkpoints, int(which)) if which.isdigit() else None
    if saved is None:
        there = sorted(folder.name for folder in run.checkpoints.iterdir() if folder.is_dir())
        raise ValueError(
            f"{run.checkpoints}: has no complete checkpoint {which!r}; of "
            f"{', '.join(there) or 'none'} choose a step, `best` (if it was validated) or `newest`"
        )
    return saved


def load_run(
    path: Path, run: RunFolder, *, dtype: str, mesh: Mesh | None, weights: Tree | None = None
) -> tuple[ModelConfig, Tree, training.Saved]:
    """The model of the checkpoint that a path names, with LoRA's factors merged into the weights:
    those of the checkpoint, or `weights`, from which those of the checkpoint were rounded to int8.

    The run itself kept factors and weights separate. So a warning is logged if rounding the sums
    loses much of what the factors add, and another says how far `weights` are from what the run
    computed with. Raises ValueError if these are not the weights that were rounded.
    """
    saved = checkpoint_of(path, run)
    cfg = config.from_folder(run.assets, dtype=dtype)
    trained, frozen = _restored(saved, run, cfg, mesh)
    if weights is not None:
        _compare(weights, frozen, run, cfg)
        frozen = weights
    params, lost = _merge(parameters.join(trained, frozen), dtype)
    if lost > _MOST_LOST:
        log.warning(
            "%s: %.0f %% of what LoRA's factors add is lost when their sum with the weights is "
            "rounded to %s, so this is hardly the model that was trained; use --dtype float32",
            saved.path, 100 * lost, dtype,
        )  # fmt: skip
    log.info("%s: step %d", saved.path, saved.step)
    return cfg, params, saved


def computing_params(
    saved: training.Saved, run: RunFolder, cfg: ModelConfig, mesh: Mesh | None
) -> Tree:
    """A checkpoint's parameters as the run itself computes with them: in the model's dtype, with
    LoRA's factors separate from the weights."""
    trained, frozen = _restored(saved, run, cfg, mesh)
    return parameters.join(parameters.cast(trained, cfg.dtype), frozen)


def _restored(
    saved: training.Saved, run: RunFolder, cfg: ModelConfig, mesh: Mesh | None
) -> tuple[Tree, Tree]:
    """The trained parameters, in float32, and the frozen ones."""
    trained, frozen = (
        training.restore(saved, name, spec.abstract_of(tree, dtype, mesh))
        for name, tree, dtype in zip(
            training.MODEL_ITEMS,
            parameters.specs(cfg, run.trainable),
            (jnp.float32, cfg.dtype),
        )
    )
    return trained, frozen


def _compare(weights: Tree, held: Tree, run: RunFolder, cfg: ModelConfig) -> None:
    """Compares weights with the int8 that was made of them."""
    rounding = int8.Rounding()
    steps = int8.apart(weights, held, spec.spec_tree(cfg), rounding)
    name = max(steps, key=lambda name: steps[name])
    if not steps[name] <= _MOST_STEPS_APART:
        raise ValueError(
            f"{run.began_from}: is not the model that {run.path} began from: {name} lies up to "
            f"{steps[name]:.1f} steps of int8 from what the run held; put the old one back"
        )
    log.warning(
        "%s: LoRA's factors are added to the weights of %s as they are there; the run sampled and "
        "trained with them as int8 (%s)", run.path, run.began_from, rounding,
    )  # fmt: skip


_MOST_STEPS_APART = 1.0
"""Rounding to int8 takes half a step, and to bfloat16 before it a quarter."""

_MOST_LOST = 0.1
_merge = jax.jit(parameters.merged, static_argnums=1)
