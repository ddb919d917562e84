"""Trains: rollouts, rewards, advantages, updates, until the steps are done.

    train.py --config stage1.py [--run runs/stage1] [--optimizer.learning_rate 5e-7 ...]
    train.py --config stage1.py:3b --dry-run

A config is a Python file, or the name of one in configs/; a size may follow a colon. Every setting
can be overridden; an unknown one is an error. The same command resumes from the last whole
checkpoint of the run folder.
SIGTERM, to any of its processes, saves and exits with 0; an alarm of `health` that stops the run,
or a step without most of its rewards, saves and exits with 3.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.checkpoint.training import Checkpoints, Saved
from lfpc_jax.cli import process_flags
from lfpc_jax.data.audit import audit
from lfpc_jax.data.digest import digest
from lfpc_jax.data.pipeline import Part, Stream, in_turn
from lfpc_jax.data.rejected import parted
from lfpc_jax.data.rejected import summary as summary_of_rejected
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.exchange import everyones, total
from lfpc_jax.distributed.mesh import check_rows, make_mesh, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.optimizer import make_optimizer, schedule
from lfpc_jax.grpo.updater import Apart, NotFinite, Updater
from lfpc_jax.infogap.provenance import check_budget, doubts
from lfpc_jax.model import parameters
from lfpc_jax.model.attention import continues
from lfpc_jax.model.config import from_folder
from lfpc_jax.model.tuning import tuning
from lfpc_jax.plan.dry_run import print_plan
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.report.writer import MetricsWriter, check_wandb
from lfpc_jax.rewards.judge import Judge
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.dialogue import Opening
from lfpc_jax.rollout.engine import Engine, LogitsNotFinite
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.run import own_code, progress
from lfpc_jax.run.claim import held
from lfpc_jax.run.config import Source, TrainConfig, described, updates_of
from lfpc_jax.run.config_checks import check, check_devices
from lfpc_jax.run.config_files import CONFIGS, named_config
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.run.folder import RunFolder, shown_judge, unfinished
from lfpc_jax.run.health import CropAlarm, too_far_apart, too_many_masked
from lfpc_jax.run.models import LoadedModel, asking_of, load_model
from lfpc_jax.run.overrides import override
from lfpc_jax.run.rolling import Roller, opener, told_apart
from lfpc_jax.trajectory import Batch, Group, Record

log = logging.getLogger("lfpc_jax.train")

_KEPT_GROUPS, _KEPT_VALIDATED = 8, 32
_SAVE_SECONDS = 1800.0

UNHEALTHY = 3
"""Exit code of a run that `health` stopped: it has not finished, and to start it again at once
as it is would not help."""


class Interrupted(Exception):
    """SIGTERM came; the step is not finished, and what the last one left is saved."""


def main(argv: Sequence[str] | None = None) -> int:
    args, words = _parser().parse_known_args(argv)
    try:
        process_flags.start(args)
        config, name = named_config(args.config, CONFIGS)
        config = override(config, words)
        check(config, processes=jax.process_count())
        check_devices(
            config,
            devices=jax.device_count(),
            local=jax.local_device_count(),
            processes=jax.process_count(),
        )
        check_wandb(config.wandb_project)
        if not args.other_budget:
            check_budget((source.path for source in config.data.train), config.rollout.image_tokens)
        if args.dry_run:
            if line := unfinished(Path(config.model.path)):
                print(f"warning: {line}", file=sys.stderr)
            print_plan(config)
            return 0
        run = RunFolder(args.run or Path("runs") / name)
        with held(run.path) as claim:
            alarm = train(config, run, changed_data=args.changed_data, still_ours=claim.check)
    except (ValueError, OSError, NotFinite) as error:
        code = 2 if isinstance(error, NotFinite | LogitsNotFinite) else 1
        processes.failed(str(error), code)
        print(f"error: {error}", file=sys.stderr)
        return code
    return UNHEALTHY if alarm else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Further flags override the config's settings, as --rollout.slots 32.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="or a name in configs/; a "
                        "size may follow, as in stage1.py:3b")  # fmt: skip
    parser.add_argument("--run", type=Path, metavar="DIR", help="default: runs/ and the name of "
                        "the config, as in runs/stage1_3b")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="check and print everything, exit")
    parser.add_argument(
        "--changed-data", action="store_true", help="go on although the records have changed"
    )
    parser.add_argument(
        "--other-budget",
        action="store_true",
        help="train although a set was selected at another budget of the image",
    )
    process_flags.add(parser)
    return parser


def train(
    config: TrainConfig,
    run: RunFolder,
    *,
    changed_data: bool = False,
    still_ours: Callable[[], None] = lambda: None,
) -> str:
    """Returns the alarm that stopped it, if one did. With `changed_data` a run goes on with other
    records than it began with. `still_ours` raises, before a write, if the folder is another's."""
    # ------------------------------------------------------------------ judge and data
    if config.judge is not None:
        judge = Judge(config.judge)
        with progress.waiting(f"asking the judge, {judge}"):
            judge.check()
    with progress.waiting("checking the data"):
        parts, validation = _data(config)
        digests = _digests(parts, validation)
    plain = json.dumps(described(config), sort_keys=True)
    functions = own_code.functions_of(config)
    processes.agree(
        {
            "config": plain,
            "data": "\n".join(map(" ".join, digests.items())),
            "functions": "\n".join(map(" ".join, functions.items())),
        }
    )

    # ------------------------------------------------------------------ mesh and model
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_rows(mesh)
    copies = rollout_mesh(config.rollout.tensor)
    local = own_mesh(copies)
    saved = training.latest(run.checkpoints)
    judged_by = ""
    if saved is not None:
        _check_same_data(saved, digests, changed_data)
        judged_by = run.judged_by
        run.go_on(config)
    model = _first_model(config, run, mesh, goes_on=saved is not None)
    reference_is = _reference_is(config, model, saved)
    cfg = replace(model.cfg, remat=config.model.remat, kernel=config.model.kernel)
    r = config.rollout
    dialogue = zooming(
        model.assets,
        image_tokens=r.image_tokens,
        crop_tokens=r.crop_tokens,
        convention=r.convention,
    )
    if saved is None:
        run.begin(config, model.assets, model.origin, model.step)
    _log_to(run.path / "log.txt")
    _say_how_asked(config, Path(config.model.path) if saved is None else run.path)
    if saved is not None:
        _say_other_judge(run, judged_by, config)
    if saved is None:
        if line := unfinished(Path(config.model.path)):
            log.warning("%s", line)
        if jax.process_index() == 0:
            _tell_of_gaps(model, parts, dialogue.processor)
        processes.barrier("gaps", _SAVE_SECONDS)  # all weights are read for that

    # ------------------------------------------------------------------ learner
    allowed = allowed_ids(dialogue.tokenizer, cfg.text.vocab)
    learner = Learner(
        cfg,
        make_optimizer(config.optimizer, updates_of(config)),
        objective=config.update.objective,
        trainable=config.trainable,
        allowed=allowed,
        mesh=mesh,
        temperature=config.policy_temperature,
        unstacked=tuning().unstacked,
    )
    rates = schedule(config.optimizer, updates_of(config))
    state, reference = _state(config, learner, model.params, saved)
    del model  # its weights, that the state was made of
    goes_on = continues(cfg.kernel, dtype=cfg.dtype)
    shapes = config.train_shapes(cfg.vision.window, continues=goes_on)
    shards = mesh.shape["data"] * mesh.shape["fsdp"] // jax.process_count()
    updater = Updater(
        learner,
        config.update,
        shapes,
        dialogue.processor,
        shards,
        reference,
        config.most_apart(cfg.dtype),
    )

    # ------------------------------------------------------------------ engine
    engine = Engine(
        replace(cfg, remat="none"),
        dialogue,
        config.rollout_shapes(cfg.vision.window, local.shape["data"]),
        config.rules,
        mesh=local,
        workers=config.rollout.workers,
    )
    publish = Publisher(partial(parameters.whole, cfg, config.trainable), mesh, copies)
    if config.stage == "grpo":
        engine.load(publish(learner.computing(state)))
        with progress.waiting("compiling the rollouts"):
            also = {config.validation_sampling} if validation else ()
            log.info("%d programs of the rollout compiled", engine.warm_up(also=also))

    # ------------------------------------------------------------------ where it stands
    stream = Stream(
        parts,
        opener(dialogue),
        batch=config.rollout.prompts,
        seed=config.seed,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=config.data.threads,
    )
    keeper = Checkpoints(run.checkpoints, keep=config.keep_checkpoints, keep_best=config.keep_best)
    watch = CropAlarm(config.health)
    step = 0
    if saved is not None:
        step = keeper.newest = saved.step
        stream.set_state(saved.facts["data"].encode())
        watch.count = saved.facts["health"]
        log.info("%s goes on after step %d", run.path, step)
        _say_other_functions(saved, functions)
        if "digests" not in saved.facts:
            log.warning("%s: does not say what its data was; today's is taken", saved.path)
    writer = None
    if jax.process_index() == 0:
        writer = MetricsWriter(
            run.path, wandb_project=config.wandb_project, config=described(config)
        )
    write = writer.write if writer else lambda *_: None

    def facts_now() -> dict[str, Any]:
        data = stream.get_state().decode()
        kept = {"digests": digests, "functions": functions, "reference": reference_is}
        return {"data": data, "health": watch.count, **kept}

    facts = facts_now()

    shown = progress.Steps(config.steps, step)
    roller = Roller(config, dialogue, engine, learner, publish, validation, shown)

    # ------------------------------------------------------------------ the loop
    stopped = ""
    try:
        while step < config.steps:
            clock = Clock(shown.phase)
            with clock("data"):
                openings = told_apart(next(stream))
            with clock("rollout"), suppress(Interrupted):
                rolled = roller.rollouts(state, openings, step, leave_if_stopped)
            if processes.stop_requested():
                break
            skipped = _skipped(step, openings, rolled, engine)
            with clock("reward"):
                groups, scores = roller.judged(rolled)
                values = roller.figures(groups, scores)
            if config.stage == "grpo":
                stopped = too_many_masked(step + 1, values, config.health, roller.faults)
            if stopped:
                log.error("stopped: %s", stopped)
                break
            with clock("update"):
                roller.release()
                try:
                    state, updated = updater(state, roller.mini_batches(groups, openings))
                except Apart as error:
                    state = error.state
                    stopped = too_far_apart(step + 1, error.mean, updater.most_apart, cfg.dtype)
            if stopped:
                log.error("stopped: %s", stopped)
                break
            still_ours()
            step += 1
            values |= {f"update/{k}": v for k, v in updated.items()}
            values["data/skipped"] = skipped
            values["update/learning_rate"] = float(rates(max(int(state.updates) - 1, 0)))
            alarm = watch(step, values) if config.stage == "grpo" else ""
            facts = facts_now()
            if validation and (step % config.validate_every == 0 or step == config.steps):
                with clock("validation"):
                    checked, episodes = roller.validate(state)
                if "validation/accuracy" in checked:
                    facts["score"] = sure(checked)
                write(step, "validation", checked)
                archive(run, f"validation-{step:06d}", episodes, _KEPT_VALIDATED)
            if step % config.checkpoint_every == 0 or (config.keep_best and "score" in facts):
                with clock("checkpoint"):
                    keeper.save(step, items_of_state(state), facts)
            if step % config.trajectories_every == 0 or step == 1:
                archive(run, f"step-{step:06d}", groups, _KEPT_GROUPS)
            write(step, "train", values | clock.values(roller.sampled(groups)))
            say(step, config.steps, values, clock)
            shown.done(summary(values))
            if alarm and config.health.stop:
                stopped = alarm
                log.error("stopped after step %d: %s", step, alarm)
                break
        if keeper.newest != step:  # the last one, or SIGTERM came
            still_ours()
            keeper.save(step, items_of_state(state), facts)
    except NotFinite as error:
        part = f"not-finite-{step + 1:06d}-{jax.process_index()}.npz"
        save_batch(run.path / part, error.batch)
        raise
    except LogitsNotFinite as error:
        raise LogitsNotFinite(f"after step {step}: {error}") from error
    finally:
        shown.close()
        keeper.close()
        stream.close()
        if writer:
            writer.close()
    processes.barrier("saved", _SAVE_SECONDS)
    log.info("%s: done with step %d of %d", run.path, step, config.steps)
    return stopped


# ---------------------------------------------------------------------- parts


def _data(config: TrainConfig) -> tuple[list[Part], list[Record]]:
    """The mixture to train on, and the records to validate on."""
    parts = []
    for source in config.data.train:
        sound = _audited(source, config)
        parts.append(Part(source.path, sound, source.weight, config.data.max_lost))
    validation = [_audited(source, config) for source in config.data.validation]
    return parts, in_turn(validation, config.data.validation_records)


def _audited(source: Source, config: TrainConfig) -> tuple[Record, ...]:
    found = audit(source.reader(source.path), name=source.path, max_share=config.data.max_lost)
    lost, unsuited = parted(found.rejected)
    for loss in lost:
        log.warning("%s: left out %s", source.path, loss)
    if unsuited:
        rows = len(found.records) + len(found.rejected)
        log.warning(
            "%s: %d of %d rows are not for training here and were left out: %s",
            source.path, len(unsuited), rows, summary_of_rejected(unsuited),
        )  # fmt: skip
    return found.records


def _tell_of_gaps(model: LoadedModel, parts: Sequence[Part], processor: ImageProcessor) -> None:
    """Where a set's gaps are not those of this model and this budget."""
    for part in parts:
        for doubt in doubts(part.name, part.records, processor, lambda: model.identity["weights"]):
            log.warning("%s: %s", part.name, doubt)


def _digests(parts: Sequence[Part], validation: Sequence[Record]) -> dict[str, str]:
    """Of every set to train on, and of all records to validate on."""
    found = {f"data.train {part.name}": digest(part.records) for part in parts}
    return found | {"data.validation": digest(validation)}


def _check_same_data(saved: Saved, digests: Mapping[str, str], changed_data: bool) -> None:
    """Raises for records that are not those of the checkpoint, if it says which those were."""
    before = saved.facts.get("digests", digests)
    changed = sorted(name for name, one in digests.items() if before.get(name) != one)
    if changed and not changed_data:
        raise ValueError(
            f"{saved.path}: was trained on other records of {', '.join(changed)}, under the same "
            "name: questions, answers, options, boxes, sizes or pictures have changed since; put "
            "the old ones back, choose another --run, or go on with these by --changed-data"
        )


def _say_other_functions(saved: Saved, functions: Mapping[str, str]) -> None:
    """Where one of the user's own is another than the checkpoint was trained with. Settings name
    only which; and to mend one in mid-run may be meant."""
    if others := own_code.changed(saved.facts.get("functions", {}), functions):
        log.warning(
            "%s: was trained with another source of the functions of %s, under the same name; from "
            "here on these count", saved.path, ", ".join(others),
        )  # fmt: skip


def _first_model(config: TrainConfig, run: RunFolder, mesh: Mesh, *, goes_on: bool) -> LoadedModel:
    """Without weights where a checkpoint has all that is needed. Weights that are trained come in
    float32: of another run they are its masters, and bfloat16 would drop most that it learned."""
    dtype = tuning().dtype if config.model.dtype == "auto" else config.model.dtype
    path = Path(config.model.path)
    if goes_on:
        if not config.update.objective.kl:
            cfg = from_folder(run.assets, dtype=dtype)
            return LoadedModel(cfg, None, run.assets, run.origin)
        path = run.first_model(path)
    loaded = load_model(path, dtype=dtype if config.model.lora else "float32", mesh=mesh)
    return replace(loaded, cfg=replace(loaded.cfg, dtype=dtype))


def _reference_is(config: TrainConfig, model: LoadedModel, saved: Saved | None) -> str | None:
    """The digest of the weights that a KL term measures from. They are read anew by a run that goes
    on, so they must still be what they were."""
    if not config.update.objective.kl:
        return None
    now = model.identity["weights"] if jax.process_index() == 0 else None
    processes.barrier("reference", _SAVE_SECONDS)
    [now, *_] = everyones(now)
    before = (saved.facts.get("reference") if saved is not None else None) or now
    if before != now:
        raise ValueError(
            f"{model.folder}: holds other weights than when the run began, and its KL term would "
            "measure from these; put the old ones back, or choose another --run"
        )
    return now


def _say_how_asked(config: TrainConfig, first: Path) -> None:
    """Where the model that a run begins with, or the run that goes on, was asked otherwise: of
    the latter only the prompt can be another, which is this code's."""
    before = asking_of(first)
    if before is not None and (changed := before.changed(config.asking)):
        log.warning("%s was trained to be asked otherwise; here %s", first, changed)


def _say_other_judge(run: RunFolder, before: str, config: TrainConfig) -> None:
    """A run that goes on may have another judge, or none any more."""
    now = shown_judge(described(config.judge))
    if before != now:
        log.warning(
            "%s: its answers were judged by %s, and from here on by %s: rewards and accuracies "
            "before and after are not of one measure",
            run.path, before or "no judge", now or "no judge",
        )  # fmt: skip


def _state(
    config: TrainConfig, learner: Learner, params: Any, saved: Saved | None
) -> tuple[TrainState, Any]:
    """What is trained, and with a KL term a copy of what it began from."""
    reference = None
    if params is not None:
        state = learner.start(params, jax.random.key(config.seed))
        if config.update.objective.kl:
            reference = learner.computing(state)
        if saved is None:
            return state, reference
        del state  # there is no room for two
    assert saved is not None
    return restored(saved, learner), reference


def items_of_state(state: TrainState) -> dict[str, Any]:
    """As a checkpoint keeps it."""
    counts = {"updates": state.updates, "refused": state.refused,
              "ever_refused": state.ever_refused}  # fmt: skip
    return {
        "trained": state.trained,
        "frozen": state.frozen,
        "optimizer": {"moments": state.moments, **counts},
    }


def restored(saved: Saved, learner: Learner) -> TrainState:
    like = items_of_state(learner.abstract_state())
    found = {name: training.restore(saved, name, tree) for name, tree in like.items()}
    for name, specs in zip(("trained", "frozen"), learner.specs):
        check_finite(found[name], specs, where=saved.path / name)
    return TrainState(found["trained"], found["frozen"], **found["optimizer"])


def _skipped(
    step: int, openings: Sequence[Opening], rolled: Sequence[Group], engine: Engine
) -> float:
    """The share of all processes' prompts that could not be shown. If that is all, nothing can be
    learned, this step or any other."""
    asked, shown = total([len(openings), len(rolled)])
    if not shown:
        record, reason = engine.stats.skipped[-1]
        raise ValueError(
            f"step {step + 1}: none of {asked} prompts could be shown; the last, {record}: {reason}"
        )
    return 1 - shown / asked


def archive(run: RunFolder, part: str, groups: Sequence[Group], most: int) -> None:
    """The first groups, the first process's; of a validation those are the same every time."""
    if jax.process_index() == 0:
        kept = Archive(run.trajectories)
        kept.remove(part)
        kept.append(part, groups[:most])


def save_batch(file: Path, batch: Batch) -> None:
    """This process's rows of it."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    named = {jax.tree_util.keystr(path).lstrip("."): np.asarray(leaf) for path, leaf in leaves}
    np.savez(file, allow_pickle=False, **named)
    log.error("saved the batch as %s", file)


class Clock:
    """Seconds of a step by phase; `enter` is told each as it begins."""

    def __init__(self, enter: Callable[[str], None]) -> None:
        self.enter = enter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.enter(phase)
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def values(self, sampled: int) -> dict[str, float]:
        whole = sum(self.seconds.values())
        times = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        rollout = self.seconds["rollout"] or 1e-9
        return {**times, "time/step": whole, "speed/sampled_tokens": sampled / rollout}


def leave_if_stopped(_: Episode) -> None:
    """Cuts rollouts short; all processes agree on it after them."""
    if processes.stop_seen():
        raise Interrupted


def sure(checked: Mapping[str, float]) -> float:
    """A validation's accuracy with unknown answers as wrong, so that a checkpoint is not the best
    because a judge failed."""
    return checked["validation/accuracy"] * (1 - checked["validation/masked"])


def say(step: int, steps: int, values: Mapping[str, float], clock: Clock) -> None:
    """One line a step."""
    times = " ".join(f"{phase} {s:.1f}" for phase, s in clock.seconds.items() if s >= 0.05)
    log.info("step %d of %d: %s | s: %s", step, steps, summary(values), times)


def summary(values: Mapping[str, float]) -> str:
    shown = {
        "reward": "reward/total",
        "acc": "reward/accuracy",
        "masked": "reward/masked",
        "crops": "crop/rate",
        "iou": "crop/iou",
        "loss": "update/loss",
    }
    return " ".join(f"{name} {values[key]:.3f}" for name, key in shown.items() if key in values)


class Terminal(logging.Handler):
    """Writes to what standard error is now: a live display puts itself there."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def _log_to(file: Path) -> None:
    """All that the package logs into a file; warnings and the steps on the terminal, too. Of the
    first process."""
    package = logging.getLogger("lfpc_jax")
    if jax.process_index():
        return
    terminal, kept = Terminal(), logging.FileHandler(file)
    terminal.addFilter(lambda line: line.name == log.name or line.levelno >= logging.WARNING)
    for before in package.handlers[:]:  # of another run of this process
        if isinstance(before, Terminal | logging.FileHandler):
            package.removeHandler(before)
            before.close()
    package.setLevel(logging.INFO)
    package.propagate = False  # Orbax puts a handler of its own onto the root
    for handler in (terminal, kept):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        package.addHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
