"""A step's episodes: sampled by the engine, or demonstrated."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.cropvlm.proposing import CONVENTION, read_box
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.distributed.exchange import total
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.processing.geometry import Box
from lfpc_jax.rewards.judge import Bar
from lfpc_jax.rollout.asked import Alters
from lfpc_jax.rollout.demonstration import demonstrated
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.engine import Engine, OnEpisode
from lfpc_jax.rollout.episode import rollout_key
from lfpc_jax.rollout.protocol import CALL, Call
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.prompt_lengths import flags_for
from lfpc_jax.trajectory import Group, Record


def sample(
    engine: Engine | Pair,
    prompts: Sequence[Record | Opening],
    *,
    rollouts: int,
    seed: int,
    bar: Bar,
    on_episode: OnEpisode | None = None,
    sampling: Sampling | None = None,
) -> list[Group]:
    """A group of `rollouts` episodes for each prompt, in the order of the prompts. Prompts that
    cannot be shown are left out; `engine.stats.skipped` lists them."""
    groups: list[Group] = []
    with bar("rollouts", len(prompts)) as advance:
        for group in engine.run(
            prompts, rollouts=rollouts, seed=seed, on_episode=on_episode, sampling=sampling
        ):
            groups.append(group)
            advance(1)
    return in_order(prompts, groups)


def sample_altered(
    engine: Engine,
    prompts: Sequence[Record],
    alters: Alters,
    *,
    seed: int,
    bar: Bar,
    sampling: Sampling | None = None,
) -> dict[str, list[Group]]:
    """Groups of one episode as `sample` gives them, under "", and those with altered crops, each
    under its alteration's name."""
    groups: defaultdict[str, list[Group]] = defaultdict(list)
    with bar("rollouts", len(prompts)) as advance:
        for altered, group in engine.run_altered(
            prompts, alters, rollouts=1, seed=seed, sampling=sampling
        ):
            groups[altered].append(group)
            advance(not altered)
    return {name: in_order(prompts, of_name) for name, of_name in groups.items()}


def in_order(prompts: Sequence[Record | Opening], groups: Sequence[Group]) -> list[Group]:
    """The groups in the order of their prompts, of which some may have none."""
    by_id = {group.record.id: group for group in groups}
    records = [prompt.record if isinstance(prompt, Opening) else prompt for prompt in prompts]
    return [by_id[record.id] for record in records if record.id in by_id]


def demonstrate(
    config: TrainConfig, dialogue: Dialogue, openings: Sequence[Opening], step: int
) -> list[Group]:
    """For each prompt a group of one episode, in which `config.demonstrate` wrote the turns."""
    return [_demonstrate(config, dialogue, opening, step) for opening in openings]


def _demonstrate(config: TrainConfig, dialogue: Dialogue, opening: Opening, step: int) -> Group:
    record = opening.record
    assert config.demonstrate is not None
    rng = np.random.default_rng(rollout_key(config.seed, record.id, step))
    turns = config.demonstrate(record, opening.view, rng)
    if isinstance(dialogue, Showing):
        opening, turns = _with_box(dialogue, opening, turns)
    if not any(CALL in turn for turn in turns) and rng.random() < config.without_tool:
        dialogue = without_tool(dialogue)
        opening = dialogue.open(record)
    return demonstrated(opening, turns, dialogue, config.rules, config.rollout.capacity)


def _with_box(
    dialogue: Showing, opening: Opening, turns: tuple[str, ...]
) -> tuple[Opening, tuple[str, ...]]:
    """A target's prompt, which goes on with the box that the turn before its answer proposes, or
    without one; and the answer."""
    *proposed, answer = turns
    box = None
    if proposed:
        call = read_box(proposed[-1])
        if not isinstance(call, Call) or opening.view is None or len(proposed) > 1:
            raise ValueError(
                f"record {opening.record.id!r}: the demonstration {turns!r} must be an answer, "
                "with at most a box [x1, y1, x2, y2] before it if the record has a picture"
            )
        shares = Box(*call.arguments["bbox_2d"])
        box = opening.view.frame.to(shares, CONVENTION, "original")
    return dialogue.with_box(opening.record, box), (answer,)


def skipped_share(
    step: int,
    openings: Sequence[Opening],
    groups: Sequence[Group],
    engine: Engine | Pair,
    config: TrainConfig,
) -> tuple[float, str]:
    """The share of all processes' prompts that could not be shown, and why the step must not be
    trained on if that is more than `health.most_skipped`; else an empty string. Raises if it is all
    of them, since nothing can be learned then, in this step or any other."""
    prompts, shown = total([len(openings), len(groups)])
    share, most = 1 - shown / prompts, config.health.most_skipped
    if shown and share <= most:
        return share, ""
    last = "of another process"
    if engine.stats.skipped:
        record, reason = engine.stats.skipped[-1]
        last = f"{record}: {reason}"
    remedy = _remedy(config, engine)
    if not shown:
        raise ValueError(
            f"step {step}: none of {prompts} prompts could be shown; the last, {last}{remedy}"
        )
    return share, (
        f"{prompts - shown} of the {prompts} prompts of step {step} could not be shown, more than "
        f"the share health.most_skipped {most:g}; the last, {last}{remedy}. The step is not "
        "trained on, and the state before it is saved: remove the cause and rerun the same "
        "command to resume, or raise health.most_skipped"
    )


def _remedy(config: TrainConfig, engine: Engine | Pair) -> str:
    """The flags with which all prompts so far would have fitted, if some were too long."""
    sampler = engine.engine if isinstance(engine, Pair) else engine
    longest = sampler.stats.longest_refused if isinstance(sampler, Engine) else 0
    if not longest:
        return ""
    return f". All prompts so far fit with {flags_for(longest, config.rollout)}"


def sampled_tokens(groups: Sequence[Group]) -> int:
    """How many tokens all processes sampled."""
    tokens = [int(t.sampled.sum()) for group in groups for t in group.trajectories]
    return total([sum(tokens)])[0]
