"""Trains a model: rollouts, rewards, advantages and updates, until all steps are done.

    lfpc train --config stage1.py [--run runs/stage1] [--optimizer.learning_rate 5e-7 ...]
    lfpc train --config stage1.py:3b --dry-run

A config is a Python file, or the name of one in configs/; a size may follow a colon. Every setting
can be overridden; an unknown one is an error. The same command resumes from the last whole
checkpoint of the run folder.
On SIGTERM or Ctrl-C to any of its processes it saves and exits with 0; before its first step there
is nothing to save, and it exits with 143 or 130. If `health` stops the run, because of
its crops or because most rewards of a step are unknown, it saves and exits with 3.
"""

import argparse
import copy
import json
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lfpc_jax import stopping
from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli import command, process_flags
from lfpc_jax.cli.parsers.train import parser
from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.data.pipeline import Stream, share
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.mesh import check_rows, make_mesh, own_mesh, rollout_mesh, slice_of
from lfpc_jax.grpo.advantage import with_advantages
from lfpc_jax.grpo.dealing import deal
from lfpc_jax.grpo.optimizer import schedule
from lfpc_jax.grpo.staleness import mean_staleness, without_stale
from lfpc_jax.grpo.state_files import begin_state, checkpoint_items, save_batch
from lfpc_jax.grpo.updater import Apart, NotFinite
from lfpc_jax.infogap.provenance import check_budget
from lfpc_jax.plan.dry_run import print_data, print_plan
from lfpc_jax.remote.hub import fetching_nothing
from lfpc_jax.report.writer import MetricsWriter, check_wandb
from lfpc_jax.rewards.judge import Judge
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.engine import LogitsNotFinite
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.run import compilations, own_code, progress, resuming
from lfpc_jax.run.building import (
    dialogue_of,
    engine_of,
    learner_of,
    publisher_of,
    target_of,
    updater_of,
)
from lfpc_jax.run.claim import held
from lfpc_jax.run.config import TrainConfig, described, updates_of
from lfpc_jax.run.config_checks import check, check_devices
from lfpc_jax.run.config_files import CONFIGS, named_config
from lfpc_jax.run.episodes import demonstrate, sampled_tokens, skipped_share
from lfpc_jax.run.folder import RunFolder, unfinished
from lfpc_jax.run.health import CropAlarm, too_far_apart, too_many_masked
from lfpc_jax.run.metrics import EpisodeMetrics, reward, rollout_metrics, target_metrics
from lfpc_jax.run.openings import opener
from lfpc_jax.run.overrides import override
from lfpc_jax.run.reporting import Clock, log_to, summary
from lfpc_jax.run.steps_ahead import Steps
from lfpc_jax.run.training_data import (
    audited_data,
    check_prompts,
    warn_of_other_gaps,
    warn_of_other_labels,
)
from lfpc_jax.run.validation import (
    certain_accuracy,
    told,
    validate,
    validation_records,
)
from lfpc_jax.trajectory import Group

log = logging.getLogger("lfpc_jax.train")

_KEPT_GROUPS, _KEPT_VALIDATED = 8, 32
_SAVE_SECONDS = 1800.0

UNHEALTHY = 3
"""Exit code of a run that `health` stopped. It has not finished, and starting it again as it is
would not help."""


def main(argv: Sequence[str] | None = None) -> int:
    args, words = parser().parse_known_args(argv)
    return command.run(partial(_start, args, words), {NotFinite: 2, LogitsNotFinite: 2})


def _start(args: argparse.Namespace, words: Sequence[str]) -> int:
    with fetching_nothing() if args.dry_run else nullcontext():
        return _begin(args, words)


def _begin(args: argparse.Namespace, words: Sequence[str]) -> int:
    process_flags.start(args)
    config, name = named_config(args.config, CONFIGS)
    config = override(config, words)
    check(config, processes=jax.process_count())
    check_devices(
        config,
        devices=jax.device_count(),
        local=jax.local_device_count(),
        processes=jax.process_count(),
        slices=len({slice_of(device) for device in jax.devices()}),
    )
    check_wandb(config.wandb_project)
    if not args.other_budget:
        check_budget((source.path for source in config.data.train), config.rollout.image_tokens)
    if args.dry_run:
        if line := unfinished(Path(config.model.path)):
            print(f"warning: {line}", file=sys.stderr)
        print_plan(config)
        print_data(config)
        return 0
    run = RunFolder(args.run or Path("runs") / name)
    with held(run.path) as claim:
        alarm = train(config, run, changed_data=args.changed_data, still_ours=claim.check)
    if alarm:
        return UNHEALTHY
    return stopping.stopped_code() if stopping.told.is_set() else 0


def train(
    config: TrainConfig,
    run: RunFolder,
    *,
    changed_data: bool = False,
    still_ours: Callable[[], None] = lambda: None,
) -> str:
    """Runs the steps that are left, and returns the alarm that stopped them, if one did.

    With `changed_data` a run resumes with other records than it began with. `still_ours` is called
    before writing; it raises if another command has taken the folder.
    """
    # ------------------------------------------------------------------ judge and data
    display = progress.StepsDisplay(config.steps)
    bar = partial(display.bar, every=10.0)
    judge = None
    if config.judge is not None:
        judge = Judge(config.judge, bar)
        with progress.waiting(f"asking the judge, {judge}"):
            judge.check()
    with progress.waiting("checking the data"):
        parts, validation = audited_data(config)
        digests = resuming.data_digests(parts, validation)
    validation = validation_records(validation)
    functions = own_code.functions_of(config)
    processes.agree(
        {
            "config": json.dumps(described(config), sort_keys=True),
            "data": "\n".join(map(" ".join, digests.items())),
            "functions": "\n".join(map(" ".join, functions.items())),
        }
    )

    # ------------------------------------------------------------------ mesh and model
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    check_rows(mesh)
    copies = rollout_mesh(config.rollout.tensor)
    local = own_mesh(copies)
    target = target_of(config, local, bar)
    saved = training.latest(run.checkpoints)
    targets = resuming.target_identity(target, saved)
    judged_by = ""
    if saved is not None:
        resuming.check_same_data(saved, digests, changed_data)
        judged_by = run.judged_by
        run.resume(config)
    model = resuming.first_model(config, run, mesh, resumes=saved is not None)
    reference_weights = resuming.reference_digest(config, model, saved)
    cfg = replace(model.cfg, kernel=config.model.kernel)
    dialogue = dialogue_of(config, model.assets)
    check_prompts(config, parts, dialogue)
    if saved is None:
        run.begin(config, model.assets, model.origin, model.step)
    log_to(run.path / "log.txt", on_terminal=log.name)
    compilations.announce(log.info)
    if model.rounding is not None:
        log.info("%s: %s", model.folder, model.rounding)
    resuming.warn_of_other_asking(config, Path(config.model.path) if saved is None else run.path)
    if saved is not None:
        resuming.warn_of_other_judge(run, judged_by, config)
    else:
        if line := unfinished(Path(config.model.path)):
            log.warning("%s", line)
        if jax.process_index() == 0:
            warn_of_other_gaps(model, parts, dialogue.processor)
            warn_of_other_labels(config, parts, targets.get("target"))
        processes.barrier("gaps", _SAVE_SECONDS)  # all weights are read for that

    # ------------------------------------------------------------------ learner
    learner = learner_of(config, cfg, dialogue, mesh, target)
    rates = schedule(config.optimizer, updates_of(config))
    with_kl = config.update.objective.kl > 0
    state, reference = begin_state(
        learner, model.params, saved, seed=config.seed, reference=with_kl
    )
    del model  # the state was made of its weights
    updater = updater_of(config, learner, dialogue, reference)

    # ------------------------------------------------------------------ engine
    engine = engine_of(config, cfg, dialogue, local, target)
    sampler = engine.engine if isinstance(engine, Pair) else engine
    publish = publisher_of(config, cfg, mesh, copies)
    if config.stage == "grpo":
        engine.load(publish(learner.computing(state)), int(state.updates))
        with progress.waiting("compiling the rollouts"):
            also = {config.validation_sampling} if validation else ()
            log.info("%d programs of the rollout compiled", engine.warm_up(also=also))

    # ------------------------------------------------------------------ where the run stands
    stream = Stream(
        parts,
        opener(dialogue),
        batch=config.rollout.prompts,
        seed=config.seed,
        process=jax.process_index(),
        processes=jax.process_count(),
        threads=config.data.threads,
    )

    def validates(step: int) -> bool:
        return bool(validation) and (step % config.validate_every == 0 or step == config.steps)

    steps = Steps(config, stream, engine, bar, leave_if_stopped, validates)
    places = share(config.rollout.prompts, jax.process_index(), jax.process_count())
    keeper = Checkpoints(run.checkpoints, keep=config.keep_checkpoints, keep_best=config.keep_best)
    crop_alarm = CropAlarm(config.health)
    measure = EpisodeMetrics(cfg.image_token)
    step = 0
    if saved is not None:
        step = keeper.newest = saved.step
        stream.set_state(saved.facts["data"].encode())
        crop_alarm.count = saved.facts["health"]
        log.info("%s resumes after step %d", run.path, step)
        resuming.warn_of_other_functions(saved, functions)
        if "digests" not in saved.facts:
            log.warning("%s: does not say what its data was; today's is taken", saved.path)
    writer = None
    if jax.process_index() == 0:
        writer = MetricsWriter(
            run.path, wandb_project=config.wandb_project, config=described(config)
        )
    write = writer.write if writer else lambda *_: None

    def facts_now() -> dict[str, Any]:
        now = {"data": steps.position(step), "health": crop_alarm.count}
        compared = {"digests": digests, "functions": functions, "reference": reference_weights}
        return {**now, "updates": int(state.updates), **compared, **targets}

    facts = facts_now()
    display.resume(step)

    # ------------------------------------------------------------------ the loop
    stopped = ""
    stopping.patient("stops after this step and saves")
    try:
        while step < config.steps:
            clock = Clock(display.phase)

            # ---- data: the prompts of the step, and of those that may begin before it is complete
            with clock("data"):
                openings = steps.prompts(step)

            # ---- sample: a group of episodes for each prompt
            before, of_rollouts = replace(engine.stats), copy.deepcopy(sampler.stats)
            with clock("rollout"), suppress(stopping.Interrupted):
                if config.stage == "sft":
                    groups = demonstrate(config, dialogue, openings, step)
                else:
                    if not engine.loaded:
                        engine.load(publish(learner.computing(state)), int(state.updates))
                    groups = steps.sampled(step)
            if processes.stop_requested():
                break
            skipped, stopped = skipped_share(step + 1, openings, groups, engine, config)
            if stopped:
                log.error("stopped: %s", stopped)
                break

            version = int(state.updates)
            groups, stale = without_stale(groups, version, config.update.most_stale)

            # ---- reward
            with clock("reward"):
                groups, rewards = reward(groups, config.rewards, judge, proposals=config.proposals)
                values, faults = measure(groups, rewards)
            if config.stage == "grpo":
                stopped = too_many_masked(step + 1, values, config.health, faults)

            # ---- advantages, mini-batches, updates
            if not stopped:
                with clock("update"):
                    engine.unload()  # the update needs the memory; unfinished episodes keep theirs
                    if config.stage == "sft":
                        groups = [replace(group, advantages=_ones(group)) for group in groups]
                    else:
                        deviation = config.update.deviation
                        groups = [with_advantages(group, deviation) for group in groups]
                    ids = [opening.record.id for opening in openings]
                    place_of = dict(zip(ids, places, strict=True))
                    mini_batches = config.rollout.prompts // config.update.mini_batch
                    try:
                        state, updated = updater(
                            state,
                            deal(groups, place_of, mini_batches),
                            version=version if config.rollout.ahead else None,
                        )
                    except Apart as error:
                        state = error.state
                        stopped = too_far_apart(step + 1, error.mean, updater.most_apart, cfg.dtype)
            if stopped:
                log.error("stopped: %s", stopped)
                break
            still_ours()
            steps.forget(step)
            step += 1
            values |= {f"update/{name}": value for name, value in updated.items()}
            values |= target_metrics(engine.stats, before)
            values |= rollout_metrics(sampler.stats, of_rollouts)
            values["data/skipped"] = skipped
            values["data/stale"] = stale
            values["update/staleness"] = mean_staleness(groups, version)
            values["update/learning_rate"] = float(rates(max(int(state.updates) - 1, 0)))
            alarm = crop_alarm(step, values) if config.stage == "grpo" else ""
            facts = facts_now()

            # ---- validate
            if validates(step):
                with clock("validation"):
                    if not engine.loaded:
                        engine.load(publish(learner.computing(state)), int(state.updates))
                    checked, episodes = validate(config, engine, validation, judge, measure, bar)
                if "validation/accuracy" in checked:
                    facts["accuracy"] = certain_accuracy(checked)
                log.info("validation after step %d: %s", step, told(checked))
                write(step, "validation", checked)
                archive(run, f"validation-{step:06d}", episodes[:_KEPT_VALIDATED])

            # ---- checkpoint, archive, metrics
            if step % config.checkpoint_every == 0 or (config.keep_best and "accuracy" in facts):
                with clock("checkpoint"):
                    keeper.save(step, checkpoint_items(state), facts)
            if step % config.trajectories_every == 0 or step == 1:
                archive(run, f"step-{step:06d}", groups[:_KEPT_GROUPS])
            write(step, "train", values | clock.values(sampled_tokens(groups)))
            log.info("step %d of %d: %s | s: %s", step, config.steps, summary(values), clock)
            display.done(summary(values))
            if alarm and config.health.stop:
                stopped = alarm
                log.error("stopped after step %d: %s", step, alarm)
                break
        if keeper.newest != step:  # the last step, or the last before it was told to stop
            still_ours()
            keeper.save(step, checkpoint_items(state), facts)
    except NotFinite as error:
        file = f"not-finite-{step + 1:06d}-{jax.process_index()}.npz"
        save_batch(run.path / file, error.mini_batch)
        raise
    except LogitsNotFinite as error:
        raise LogitsNotFinite(f"after step {step}: {error}") from error
    finally:
        display.close()
        keeper.close()
        steps.close()
        stream.close()
        if writer:
            writer.close()
    processes.barrier("saved", _SAVE_SECONDS)
    how = "done with" if step == config.steps else "saved; stopped after"
    log.info("%s: %s step %d of %d", run.path, how, step, config.steps)
    return stopped


def leave_if_stopped(_: Episode) -> None:
    """Cuts rollouts short after a signal to any process. The step is abandoned, all processes agree
    on that after it, and the state before it is saved."""
    if processes.stop_seen():
        raise stopping.Interrupted


def archive(run: RunFolder, part: str, groups: Sequence[Group]) -> None:
    """Replaces a part of the run's archive with the first process's groups."""
    if jax.process_index() == 0:
        trajectories = Archive(run.trajectories)
        trajectories.remove(part)
        trajectories.append(part, groups)


def _ones(group: Group) -> np.ndarray:
    """The advantages of demonstrations: all 1, since imitation weighs all episodes alike."""
    return np.ones(len(group.trajectories))


if __name__ == "__main__":
    sys.exit(main())
