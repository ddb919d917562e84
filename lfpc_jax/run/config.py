"""What a training run is: frozen, typed settings, made by a Python file's `get_config()`.

The defaults are the paper's where it gives a value. `config_checks` says which settings cannot work
together.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.data import sources
from lfpc_jax.data.rejected import MAX_SHARE, Rejected
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.grpo.updater import UpdateSettings
from lfpc_jax.model.config import Kernel, Remat
from lfpc_jax.model.parameters import Base, LoRA, Trainable
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.rewards.grounding import Grounding
from lfpc_jax.rewards.judge import JudgeSettings
from lfpc_jax.rewards.total import OwnReward, Rewards
from lfpc_jax.rollout.asking import Asking, Conversation
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.dialogues import after_prompt, prompt_of
from lfpc_jax.shapes import Buckets, RolloutShapes, TrainShapes
from lfpc_jax.trajectory import Record

__all__ = [
    "DataSettings",
    "Grounding",
    "Health",
    "JudgeSettings",
    "LoRA",
    "MeshSettings",
    "ModelSettings",
    "Objective",
    "OptimizerSettings",
    "OwnReward",
    "Record",
    "Rejected",
    "Rewards",
    "RolloutSettings",
    "Source",
    "TargetSettings",
    "TrainConfig",
    "UpdateSettings",
    "View",
]
"""Everything that a config file needs can be imported from here."""

Reader = Callable[[str], Iterator[Record | Rejected]]
Demonstrate = Callable[[Record, View | None, np.random.Generator], tuple[str, ...]]
"""Writes the turns that a model should imitate for a record; crops come from the tool as usual."""


@dataclass(frozen=True)
class Source:
    """A set of a mixture. `path` is named as in `data/sources.py`, or is what a custom `reader`
    takes. The set's share of the records drawn is its weight over the sum of weights."""

    path: str
    reader: Reader = sources.read
    weight: float = 1.0


@dataclass(frozen=True)
class ModelSettings:
    """`path` is a Hugging Face folder, a folder that `lfpc convert to-orbax` wrote, or a training
    run, of which the newest checkpoint is taken. `dtype` auto is float32 on a CPU and bfloat16
    elsewhere. `remat` and, for the vision tower, `tower_remat` say what updates save for the
    backward pass (`model.layers.each_layer`); auto saves the most that memory has room for."""

    path: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Literal["auto", Remat] = "auto"
    tower_remat: Literal["auto", Remat] = "auto"
    kernel: Kernel = "auto"
    train_vision: bool = True
    lora: LoRA | None = None

    @property
    def base(self) -> Base:
        """How the text's projections are held, if they are frozen beside LoRA's factors."""
        return self.lora.base if self.lora else "same"


@dataclass(frozen=True)
class DataSettings:
    """The sets to train and to validate on. `validation_records` records are taken from the sets of
    `validation` in turn, in their order, the same every time; when a set has no more, the others
    are taken. At most the share `max_lost` of a set may be rejected."""

    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    validation_records: int = 256
    max_lost: float = MAX_SHARE
    threads: int = 4


@dataclass(frozen=True)
class RolloutSettings:
    """A step has `prompts` prompts with `rollouts` episodes each. Every process runs `slots`
    episodes at once. `dialogue` is `zoom`, in which the model may look closer and answers, or
    `box`, in which a crop network proposes a box and the target answers, or `target`, in which a
    target is taught to answer with a crop in view. `convention` says how the model writes boxes.
    `tensor` devices hold one copy of the model. `prefixes` prompts are in memory at once; 0 means
    half more than the slots need if all rollouts of a prompt run together. Prompts of `ahead`
    further steps may begin in free slots before the step's episodes have ended; their episodes go
    on under the updated weights. The other settings are explained in `RolloutShapes`, `Rules` and
    `Sampling`."""

    prompts: int = 256
    rollouts: int = 16
    slots: int = 64
    chunk: int = 16
    capacity: int = 8192
    image_tokens: int = 1024
    crop_tokens: int = 1024
    dialogue: Conversation = "zoom"
    convention: Convention = "shown"
    prompt_text: tuple[int, ...] = (512, 1024)
    observation_text: int = 64
    prefixes: int = 0
    prefill_rows: int = 1
    extend_rows: int = 4
    max_turns: int = 5
    turn_tokens: int = 2048
    episode_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    tensor: int = 1
    workers: int = 4
    ahead: int = 0


@dataclass(frozen=True)
class MeshSettings:
    """Sides of the mesh; one of them may be -1, which means all devices that are left."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclass(frozen=True)
class Health:
    """Limits beyond which a run counts as in trouble.

    The first limits are on crops. After `patience` steps in a row beyond one of them there is an
    alarm, and with `stop` the run ends. Steps before `from_step` do not count.

    The last three limits are on the data of the updates. A step beyond one of them is not trained
    on, and the run stops before it. `most_skipped` limits the share of prompts that could not be
    shown, and `most_masked` that of episodes without a reward; 1 never stops. `most_apart` limits
    the mean difference between the sampler's and the trainer's log-probabilities of the step's
    tokens, which should agree because both have the same weights. inf never stops, and None takes
    the limit that rounding explains (`ROUNDING`).
    """

    least_tool_rate: float = 0.05
    most_invalid: float = 0.9
    most_area: float = 0.95
    patience: int = 5
    from_step: int = 10
    stop: bool = False
    most_skipped: float = 0.5
    most_masked: float = 0.5
    most_apart: float | None = None


ROUNDING: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.1}
"""The default of `Health.most_apart` by dtype. Small models of up to 28 layers had at most 6e-6 and
0.006; a weight matrix with its halves exchanged gave 0.1 and more (docs/log.md, 2026-11-29)."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run. Stage `grpo` samples episodes and reinforces; stage `sft`
    imitates the turns that `demonstrate` writes. `target` is the model that answers with a crop
    network's boxes; in stage `sft` only validations ask it, and it may be left out. `without_tool`
    is the fraction of no-call demonstrations that are trained on the prompt without the tool, which
    selection uses. With `validation_temperature` None, validation samples as the rollouts do; 0 is
    greedy."""

    stage: Literal["grpo", "sft"] = "grpo"
    steps: int = 80
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    rewards: Rewards = field(default_factory=Rewards)
    judge: JudgeSettings | None = None
    target: TargetSettings | None = None
    update: UpdateSettings = field(default_factory=UpdateSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    mesh: MeshSettings = field(default_factory=MeshSettings)
    health: Health = field(default_factory=Health)
    demonstrate: Demonstrate | None = None
    without_tool: float = 0.0
    validate_every: int = 10
    validation_temperature: float | None = None
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    keep_best: int = 1
    trajectories_every: int = 10
    wandb_project: str = ""

    # ---------------------------------------------------------------- what follows from it

    @property
    def trainable(self) -> Trainable:
        return Trainable(self.model.train_vision, self.model.lora)

    @property
    def moments_on_host(self) -> bool:
        """Whether the optimizer's moments wait in the host's memory."""
        return self.optimizer.moments == "host"

    @property
    def proposals(self) -> bool:
        """Whether the model is a crop network, whose episodes propose boxes."""
        return self.rollout.dialogue == "box"

    @property
    def policy_temperature(self) -> float:
        """The temperature of the policy that updates improve: that of the rollouts, or 1 in
        imitation."""
        return self.rollout.temperature if self.stage == "grpo" else 1.0

    @property
    def validation_sampling(self) -> Sampling:
        sampling, temperature = self.rules.sampling, self.validation_temperature
        return sampling if temperature is None else replace(sampling, temperature=temperature)

    def most_apart(self, dtype: str) -> float:
        """The limit for a model that computes in `dtype`. Demonstrations have no sampler, and so no
        limit."""
        if self.stage != "grpo":
            return math.inf
        limit = self.health.most_apart
        return ROUNDING[dtype] if limit is None else limit

    @property
    def rules(self) -> Rules:
        r = self.rollout
        sampling = Sampling(r.temperature, r.top_k, r.top_p)
        return Rules(r.max_turns, r.turn_tokens, r.episode_tokens, sampling)

    @property
    def asking(self) -> Asking:
        """How the model that is trained is to be asked. A crop's budget is that of the target, if
        there is one."""
        asking = Asking.of_settings(dataclasses.asdict(self.rollout))
        if self.target is not None:
            asking = replace(asking, crop_tokens=self.target.crop_tokens)
        return replace(asking, prompt=prompt_of(asking))

    def rollout_shapes(self, window: int, groups: int = 1) -> RolloutShapes:
        """Shapes for `groups` groups of devices, each of which holds a copy of the model."""
        r = self.rollout
        members = min(r.rollouts, -(-r.slots // groups))
        shapes = RolloutShapes(
            slots=r.slots,
            chunk=r.chunk,
            capacity=r.capacity,
            image_tokens=r.image_tokens,
            crop_tokens=r.crop_tokens,
            prompt_text=Buckets(r.prompt_text),
            observation_text=r.observation_text,
            prefill_rows=r.prefill_rows,
            extend_rows=r.extend_rows,
            window=window,
            prefixes=r.prefixes or min(r.slots, -(-3 * r.slots // (2 * members))),
            members=members,
            own=after_prompt(self.rules, r.crop_tokens),
        )
        return shapes.sharded(groups)

    def train_shapes(self, window: int) -> TrainShapes:
        return TrainShapes.of(
            self.rollout_shapes(window),
            max_turns=self.rollout.max_turns,
            rows=self.update.rows,
            row_tokens=self.update.row_tokens,
            places=self.update.places,
            windows=self.update.windows,
            shared=self.update.share_prompts,
        )


def updates_of(config: TrainConfig) -> int:
    """The number of optimizer steps of a whole run."""
    u = config.update
    return config.steps * u.epochs * (config.rollout.prompts // u.mini_batch)


def described(value: Any) -> Any:
    """A config as JSON. Functions are written by name; partial ones also by their arguments."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [described(item) for item in value]
    if isinstance(value, partial):
        given = {name: described(argument) for name, argument in value.keywords.items()}
        return {
            "function": described(value.func),
            "arguments": [described(argument) for argument in value.args],
            "named": given,
        }
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return value
