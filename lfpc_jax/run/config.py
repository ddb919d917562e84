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

from lfpc_jax.data import sources
from lfpc_jax.data.rejected import MAX_SHARE, Rejected
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.grpo.updater import UpdateSettings
from lfpc_jax.model.config import Kernel, Remat
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.rewards.grounding import Grounding
from lfpc_jax.rewards.judge import JudgeSettings
from lfpc_jax.rewards.total import OwnReward, Rewards
from lfpc_jax.rollout.asking import Asking, prompt_text
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
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
    "TrainConfig",
    "UpdateSettings",
    "View",
]
"""All that a config file needs, in one import."""

Reader = Callable[[str], Iterator[Record | Rejected]]
Demonstrate = Callable[[Record, View | None, np.random.Generator], tuple[str, ...]]
"""What a model should write for a record, turn by turn; crops come from the tool as ever."""


@dataclass(frozen=True)
class Source:
    """A set of a mixture, named as in `data/sources.py` or for a reader of one's own; its weight is
    its share of the records drawn."""

    path: str
    reader: Reader = sources.read
    weight: float = 1.0


@dataclass(frozen=True)
class ModelSettings:
    """`path` is a Hugging Face folder, one of `to-orbax`, or a training run, whose last checkpoint
    is taken. `dtype` auto is float32 on a CPU and bfloat16 elsewhere."""

    path: str = ""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    remat: Remat = "full"
    kernel: Kernel = "auto"
    train_vision: bool = True
    lora: LoRA | None = None


@dataclass(frozen=True)
class DataSettings:
    """`validation_records` are taken from the sets of `validation` in turn, from each in its order,
    and are the same each time; a set that has no more leaves its turns to the others. A set may
    lose the share `max_lost`."""

    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    validation_records: int = 256
    max_lost: float = MAX_SHARE
    threads: int = 4


@dataclass(frozen=True)
class RolloutSettings:
    """`prompts` a step and `rollouts` of each; `slots` run at once in every process. `convention`
    is of the boxes that the model writes. The rest is as in `RolloutShapes`, `Rules` and
    `Sampling`; `tensor` devices hold one copy of the model."""

    prompts: int = 256
    rollouts: int = 16
    slots: int = 64
    chunk: int = 16
    capacity: int = 8192
    image_tokens: int = 1024
    crop_tokens: int = 1024
    convention: Convention = "shown"
    prompt_text: tuple[int, ...] = (512, 1024)
    observation_text: int = 64
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


@dataclass(frozen=True)
class MeshSettings:
    """Sides of the mesh; one may be -1 and takes what is left."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1


@dataclass(frozen=True)
class Health:
    """When the crops are in trouble: an alarm after `patience` steps in a row outside a limit, and
    with `stop` the end of the run. `from_step` lets a young policy find its feet.

    The other two are another matter: such a step is never trained on, and the run stops before it.
    `most_masked` is the share of its episodes without a reward; 1 never stops. `most_apart` is how
    far its tokens' log-probabilities may lie apart by sampler and by trainer, in the mean, where
    both have the same weights; inf never stops, none is what rounding explains (`ROUNDING`)."""

    least_tool_rate: float = 0.05
    most_invalid: float = 0.9
    most_area: float = 0.95
    patience: int = 5
    from_step: int = 10
    stop: bool = False
    most_masked: float = 0.5
    most_apart: float | None = None


ROUNDING: Mapping[str, float] = {"float32": 1e-3, "bfloat16": 0.1}
"""By dtype, for `Health.most_apart`. Measured were 6e-6 and 0.006 at most, of small models of up to
28 layers; exchanged halves of a text's matrix came to 0.1 and more (docs/log.md, 2026-11-29)."""


@dataclass(frozen=True)
class TrainConfig:
    """`stage` grpo samples and reinforces; sft imitates what `demonstrate` writes. The share
    `without_tool` of demonstrations without a call is asked without the tool, as selection asks.
    `validation_temperature` none is that of the rollouts, 0 greedy."""

    stage: Literal["grpo", "sft"] = "grpo"
    steps: int = 80
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    rewards: Rewards = field(default_factory=Rewards)
    judge: JudgeSettings | None = None
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
    def policy_temperature(self) -> float:
        """Of the policy that updates improve: what rollouts are sampled at; imitation has none."""
        return self.rollout.temperature if self.stage == "grpo" else 1.0

    @property
    def validation_sampling(self) -> Sampling:
        sampling, own = self.rules.sampling, self.validation_temperature
        return sampling if own is None else replace(sampling, temperature=own)

    def most_apart(self, dtype: str) -> float:
        """Of a model that computes in it. Demonstrations have no sampler."""
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
        """How the model is asked that it trains."""
        rollout = dataclasses.asdict(self.rollout)
        return Asking.of_settings(rollout, prompt=prompt_text(self.rollout.convention))

    def rollout_shapes(self, window: int, groups: int = 1) -> RolloutShapes:
        """`groups` of devices hold a copy of the model each."""
        r = self.rollout
        return RolloutShapes(
            slots=r.slots,
            chunk=r.chunk,
            capacity=r.capacity,
            image_tokens=r.image_tokens,
            crop_tokens=r.crop_tokens,
            prompt_text=Buckets(r.prompt_text),
            observation_text=r.observation_text,
            prefill_rows=-(-r.prefill_rows // groups) * groups,
            extend_rows=-(-r.extend_rows // groups) * groups,
            window=window,
        )

    def train_shapes(self, window: int, *, continues: bool = False) -> TrainShapes:
        """`continues` says that the attention of updates lets a segment go on from another."""
        return TrainShapes.of(
            self.rollout_shapes(window),
            max_turns=self.rollout.max_turns,
            rows=self.update.rows,
            row_tokens=self.update.row_tokens,
            windows=self.update.windows,
            shared=continues and self.update.share_prompts,
        )


def updates_of(config: TrainConfig) -> int:
    """Optimizer steps of a whole run."""
    u = config.update
    return config.steps * u.epochs * (config.rollout.prompts // u.mini_batch)


def described(value: Any) -> Any:
    """A config as JSON; functions by their name, and by their arguments where some are given."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [described(one) for one in value]
    if isinstance(value, partial):
        given = {name: described(one) for name, one in value.keywords.items()}
        return {
            "function": described(value.func),
            "arguments": [described(one) for one in value.args],
            "named": given,
        }
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return value
