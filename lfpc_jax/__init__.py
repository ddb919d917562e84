"""LFPC in JAX: a Qwen2.5-VL that looks before it answers, trained and run in one XLA code path.

    import lfpc_jax

    session = lfpc_jax.Session.load("configs/micro/warm")
    group = session.ask("scene.png", "Which way do the stripes run on the red disc?")
    lfpc_jax.draw(group).save("asked.png")

The names of `__all__` are imported from their modules when they are first used, so importing the
package costs nothing. They are above all rooms: no module of the package imports them from here.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfpc_jax.grpo.objective import Objective as Objective
    from lfpc_jax.grpo.optimizer import OptimizerSettings as OptimizerSettings
    from lfpc_jax.grpo.updater import UpdateSettings as UpdateSettings
    from lfpc_jax.model.parameters import LoRA as LoRA
    from lfpc_jax.report.sketch import draw as draw
    from lfpc_jax.rewards.judge import JudgeSettings as JudgeSettings
    from lfpc_jax.rewards.total import OwnReward as OwnReward
    from lfpc_jax.rewards.total import Rewards as Rewards
    from lfpc_jax.rollout.archive import Archive as Archive
    from lfpc_jax.rollout.tools import Tool as Tool
    from lfpc_jax.run.config import DataSettings as DataSettings
    from lfpc_jax.run.config import Health as Health
    from lfpc_jax.run.config import MeshSettings as MeshSettings
    from lfpc_jax.run.config import ModelSettings as ModelSettings
    from lfpc_jax.run.config import RolloutSettings as RolloutSettings
    from lfpc_jax.run.config import Source as Source
    from lfpc_jax.run.config import TrainConfig as TrainConfig
    from lfpc_jax.run.config_files import load_config as load_config
    from lfpc_jax.run.models import load_model as load_model
    from lfpc_jax.run.session import Session as Session
    from lfpc_jax.run.session import read_records as read_records
    from lfpc_jax.trajectory import Crop as Crop
    from lfpc_jax.trajectory import Group as Group
    from lfpc_jax.trajectory import Picture as Picture
    from lfpc_jax.trajectory import Record as Record
    from lfpc_jax.trajectory import Trajectory as Trajectory
    from lfpc_jax.trajectory import Turn as Turn

# transformers advises at import to install PyTorch. Only its tokenizers and configs are used here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

_NAMES = {
    "grpo.objective": ("Objective",),
    "grpo.optimizer": ("OptimizerSettings",),
    "grpo.updater": ("UpdateSettings",),
    "model.parameters": ("LoRA",),
    "report.sketch": ("draw",),
    "rewards.judge": ("JudgeSettings",),
    "rewards.total": ("OwnReward", "Rewards"),
    "rollout.archive": ("Archive",),
    "rollout.tools": ("Tool",),
    "run.config": (
        "DataSettings",
        "Health",
        "MeshSettings",
        "ModelSettings",
        "RolloutSettings",
        "Source",
        "TrainConfig",
    ),
    "run.config_files": ("load_config",),
    "run.models": ("load_model",),
    "run.session": ("Session", "read_records"),
    "trajectory": ("Crop", "Group", "Picture", "Record", "Trajectory", "Turn"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
