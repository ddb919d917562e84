"""A model in a session of Python: ask it, roll it out, reward its episodes, and update it.

    session = Session.load("configs/micro/warm")
    group = session.ask("scene.png", "Which way do the stripes run on the red disc?")
    groups = session.reward(session.roll_out(records, rollouts=8))
    metrics = session.update(groups)

A session takes the steps of `cli/train.py` with the same parts, in one process, on all of its
devices. Data sets, checkpoints and metrics on disk are left to the commands.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image

from lfpc_jax.arrays import Tree
from lfpc_jax.cropvlm.pair import asking_for
from lfpc_jax.data import sources
from lfpc_jax.data.audit import audit
from lfpc_jax.distributed.mesh import check_rows, make_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.advantage import with_advantages
from lfpc_jax.grpo.items import items_of
from lfpc_jax.grpo.learner import Learner, TrainState
from lfpc_jax.grpo.packing import pack
from lfpc_jax.grpo.updater import Apart, Updater
from lfpc_jax.rewards.judge import Judge, no_bar
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.building import (
    dialogue_of,
    engine_of,
    learner_of,
    publisher_of,
    target_of,
    updater_of,
)
from lfpc_jax.run.config import ModelSettings, RolloutSettings, TrainConfig
from lfpc_jax.run.dialogues import after_prompt
from lfpc_jax.run.episodes import sample
from lfpc_jax.run.metrics import reward
from lfpc_jax.run.models import asking_of, load_model
from lfpc_jax.run.openings import unique_ids
from lfpc_jax.trajectory import Group, Picture, Record

Image = str | Path | bytes | PIL.Image.Image

_PROMPT_TEXT = (64, 256, 1024)
"""Buckets for the tokens of a prompt beside its image; each is compiled when it is first used."""
_EPISODE = 4096
"""Tokens that an episode may sample where the model does not say how many."""


def read_records(source: str | Path, most: int | None = None) -> list[Record]:
    """The usable records of a set, named as on the command line (docs/data.md): all, or the first
    `most`. Raises ValueError if more than 2 % of its records cannot be used."""
    return list(audit(sources.read(str(source)), name=str(source)).records[:most])


class Session:
    """One model, its rollout engine and its optimizer, with the settings of a training run. With a
    target in the settings the model is a crop network, and answers are the target's.

    Programs are compiled when they are first needed. The first call of `update` or `logprobs` reads
    the weights a second time, in float32, and makes room for the optimizer.
    """

    def __init__(self, config: TrainConfig) -> None:
        """The config's data, checkpoints and schedule of validations are not used."""
        self.config = config
        dtype = None if config.model.dtype == "auto" else config.model.dtype
        self._copies = rollout_mesh(config.rollout.tensor)
        path, base = Path(config.model.path), config.model.base
        self.model = load_model(path, dtype=dtype, mesh=self._copies, base=base)
        self.cfg = replace(self.model.cfg, kernel=config.model.kernel)
        self.dialogue = dialogue_of(config, self.model.assets)
        self.target = target_of(config, self._copies)
        self.engine = engine_of(config, self.cfg, self.dialogue, self._copies, self.target)
        self.engine.load(self.model.params)
        self._judge = Judge(config.judge) if config.judge is not None else None

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> "Session":
        """The model that a folder or a run holds. `settings` are fields of `TrainConfig`, such as
        `rewards` or `optimizer`. Without `rollout`, the model is asked as it was trained to be."""
        asking = asking_of(Path(path)) or Asking()
        config = TrainConfig(model=ModelSettings(str(path)), rollout=_settings_of(asking))
        return cls(replace(config, **settings))

    # ------------------------------------------------------------------ rollouts

    def ask(
        self,
        image: Image,
        question: str,
        options: Sequence[str] = (),
        *,
        longest_side: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Group:
        """One episode about one image, greedy unless a temperature is given. With `options` the
        answer is a letter. `longest_side` downsamples what the model is first shown."""
        record = Record(
            id="asked",
            question=question,
            answer="",
            picture=_picture(image),
            options=tuple(options),
            longest_side=longest_side,
        )
        sampling = Sampling(temperature)
        with asking_for(self.engine, answers=True, likelihoods=False):
            [group] = self._run([record], rollouts=1, seed=seed, sampling=sampling)
        return group

    def roll_out(self, records: Sequence[Record], *, rollouts: int, seed: int = 0) -> list[Group]:
        """A group of episodes for each record, in their order, sampled as the config says."""
        return self._run(records, rollouts=rollouts, seed=seed, sampling=None)

    def _run(
        self, records: Sequence[Record], *, rollouts: int, seed: int, sampling: Sampling | None
    ) -> list[Group]:
        names = [record.id for record in records]
        if len(set(names)) < len(names):
            raise ValueError(f"records {names}: two have the same id; give each its own")
        if not self.engine.loaded:
            self.engine.load(self._publish(self.params))
        skipped = len(self.engine.stats.skipped)
        groups = sample(
            self.engine, records, rollouts=rollouts, seed=seed, bar=no_bar, sampling=sampling
        )
        for name, reason in self.engine.stats.skipped[skipped:]:
            raise ValueError(f"record {name!r} cannot be asked: {reason}")
        return groups

    # ------------------------------------------------------------------ training

    def reward(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups with the rewards of all episodes, and their advantages."""
        rewarded, _ = reward(
            groups, self.config.rewards, self._judge, proposals=self.config.proposals
        )
        return [with_advantages(group, self.config.update.deviation) for group in rewarded]

    def update(self, groups: Sequence[Group]) -> dict[str, float]:
        """One optimizer step on rewarded groups, `update.epochs` times; the update's metrics. A
        record may have several groups."""
        for group in groups:
            if group.advantages is None:
                raise ValueError(
                    f"record {group.record.id!r}: the group has no advantages; pass it through "
                    "reward() first"
                )
        state = self._state
        self.engine.unload()  # the update needs the memory
        self.model = replace(self.model, params=None)
        try:
            self._state, metrics = self._updater(state, [_with_unique_ids(groups)])
        except Apart as error:
            self._state = error.state
            raise ValueError(
                f"{error}: these groups were sampled with other weights than the session has now; "
                "roll out again"
            ) from error
        return metrics

    def logprobs(self, group: Group) -> list[np.ndarray]:
        """For each episode, the log-probabilities of its sampled tokens with the current
        weights."""
        count = len(group.trajectories)
        # Each episode's number stands in place of its advantage, to find its tokens in the rows.
        numbered = replace(group, rewards=(), advantages=np.arange(1.0, count + 1))
        packed = pack(
            items_of([numbered], aggregate="token", episodes=1, tokens=1),
            self._updater.shapes,
            self.dialogue.processor,
            shards=self._learner.shards,
            image_token=self.cfg.image_token,
        )
        learner = self._learner
        params = learner.laid_out(learner.computing(self._state))
        placed = learner.place(packed)
        logprobs = learner.logprobs(params, placed, learner.embeddings(params, placed))
        values = np.concatenate([np.ravel(learner.local_rows(x)) for x in logprobs])
        numbers = np.concatenate([np.ravel(rows.advantages) for rows in packed.rows])
        return [values[numbers == number + 1] for number in range(count)]

    @cached_property
    def _state(self) -> TrainState:
        """The training state; every update assigns it anew."""
        model = self.config.model
        dtype = self.cfg.dtype if model.lora else "float32"
        loaded = load_model(Path(model.path), dtype=dtype, mesh=self._mesh, base=model.base)
        return self._learner.start(loaded.params, jax.random.key(self.config.seed))

    @cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        m = self.config.mesh
        mesh = make_mesh(m.data, m.fsdp, m.tensor)
        check_rows(mesh)
        return mesh

    @cached_property
    def _learner(self) -> Learner:
        return learner_of(self.config, self.cfg, self.dialogue, self._mesh, self.target)

    @cached_property
    def _updater(self) -> Updater:
        return updater_of(self.config, self._learner, self.dialogue)

    @cached_property
    def _publish(self) -> Publisher:
        return publisher_of(self.config, self.cfg, self._mesh, self._copies)

    @property
    def params(self) -> Tree:
        """The current weights: those that were loaded, until the first update."""
        loaded = self.model.params
        return self._learner.computing(self._state) if loaded is None else loaded


def _settings_of(asking: Asking) -> RolloutSettings:
    """The settings to ask a model with: room for every episode that it may be asked for."""
    episode = asking.episode_tokens or _EPISODE
    rules = Rules(asking.max_turns, asking.turn_tokens, episode)
    replies = after_prompt(rules, asking.crop_tokens)
    return RolloutSettings(
        slots=8 * jax.local_device_count(),
        chunk=8,
        capacity=asking.image_tokens + _PROMPT_TEXT[-1] + replies,
        image_tokens=asking.image_tokens,
        crop_tokens=asking.crop_tokens,
        dialogue=asking.dialogue,
        convention=asking.convention,
        prompt_text=_PROMPT_TEXT,
        max_turns=asking.max_turns,
        turn_tokens=asking.turn_tokens,
        episode_tokens=episode,
    )


def _with_unique_ids(groups: Sequence[Group]) -> list[Group]:
    """Updates know prompts and pictures by their record's id."""
    return [
        replace(
            group,
            record=replace(group.record, id=id_),
            trajectories=tuple(replace(t, record=id_) for t in group.trajectories),
        )
        for group, id_ in zip(groups, unique_ids([group.record.id for group in groups]))
    ]


def _picture(image: Image) -> Picture:
    if isinstance(image, PIL.Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        return Picture(data=file.getvalue())
    return Picture(data=image) if isinstance(image, bytes) else Picture(path=str(image))
