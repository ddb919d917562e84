"""Every program of a training run, compiled for devices that are not there (or are)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from lfpc_jax.distributed.mesh import check_rows, make_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Place, Publisher
from lfpc_jax.grpo.updater import recomputes_logprobs
from lfpc_jax.model import parameters
from lfpc_jax.model.attention import continues
from lfpc_jax.model.config import Kernel, ModelConfig
from lfpc_jax.plan.compiling import Compiled, OutOfMemory
from lfpc_jax.plan.dry_run import model_of
from lfpc_jax.plan.programs import Source, bytes_per_chip
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.plan.roofline import Estimate, estimate
from lfpc_jax.plan.slices import GIB, Chip, Slice
from lfpc_jax.plan.update import abstract_reference, abstract_state, update_programs
from lfpc_jax.plan.work import (
    Load,
    Workload,
    micro_batches,
    reshard_load,
    rollout_loads,
    update_loads,
)
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.config_checks import check_devices
from lfpc_jax.shapes import RolloutShapes, TrainShapes, micro_batches_for

_TRAINING = (
    "lower update.rows or rollout.capacity, set model.remat full, {mesh}"
    "freeze the tower (model.train_vision false), use model.lora, or take a larger slice"
)
_ADVICE = {
    "rollout": "lower rollout.slots or rollout.capacity, {rollout}or take a larger slice",
    "reshard": "{rollout}or take a larger slice",
    "score": _TRAINING,
    "update": _TRAINING,
    "model": "lower --length, raise --tensor, or take a larger slice",
}


def advice(phase: str, where: Slice, settings: TrainConfig | None) -> str:
    """What to change where a phase does not fit; nothing that `train.py` would then refuse."""
    most = len(where.devices) // where.hosts
    ways = {}
    if settings is not None:
        ways = {"rollout": settings.rollout.tensor, "mesh": settings.mesh.tensor}
    raised = {
        name: f"raise {name}.tensor (at most {most}, the chips of a host), " if now < most else ""
        for name, now in ways.items()
    }
    return _ADVICE[phase].format(**raised)


_KERNELS: Mapping[str, Kernel] = {"tpu": "splash", "gpu": "cudnn", "cpu": "xla"}


@dataclass(frozen=True)
class Planned:
    """A program of a run on a slice. `beside` are the bytes that a chip holds for others while it
    runs; without `compiled` the compiler found no way to fit it, and `refusal` is what it said."""

    program: str
    phase: str
    mesh: tuple[int, ...]
    hbm_bytes: int
    beside: int
    compiled: Compiled | None = None
    refusal: str = ""
    load: Load | None = None
    estimate: Estimate | None = None

    @property
    def bytes_per_chip(self) -> int | None:
        return None if self.compiled is None else self.compiled.bytes_per_chip + self.beside

    @property
    def fits(self) -> bool:
        return self.bytes_per_chip is not None and self.bytes_per_chip <= self.hbm_bytes

    @property
    def kinds(self) -> Mapping[str, int]:
        return self.compiled.kinds if self.compiled else {}

    @property
    def shortage(self) -> str:
        if self.bytes_per_chip is None:
            return self.refusal
        return f"{self.bytes_per_chip / GIB:.2f} GiB of {self.hbm_bytes / GIB:.2f}"

    @property
    def compile_seconds(self) -> float:
        return self.compiled.compile_seconds if self.compiled else 0.0

    @property
    def seconds_a_step(self) -> float | None:
        if self.load is None or self.estimate is None:
            return None
        return self.load.calls * self.estimate.seconds

    @property
    def figures(self) -> dict[str, Any]:
        """For a file."""
        own = asdict(self)
        derived = ("bytes_per_chip", "fits", "kinds", "shortage", "seconds_a_step")
        return own | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True)
class Run:
    """A config on a slice: its meshes, its shapes, and how many of what."""

    config: TrainConfig
    slice: Slice
    cfg: ModelConfig
    train: Mesh
    rollout: Mesh
    slots: RolloutShapes
    rows: TrainShapes

    @classmethod
    def of(cls, config: TrainConfig, where: Slice) -> "Run":
        """Every host rolls out alone, but slices without free routing are compiled for whole: what
        all hosts do side by side needs as much on each chip."""
        cfg, m = config_model(config, where.platform), config.mesh
        train = make_mesh(m.data, m.fsdp, m.tensor, devices=where.devices)
        check_rows(train)
        rollout = rollout_mesh(config.rollout.tensor, devices=where.devices)
        hosts = where.hosts
        own = config.rollout_shapes(cfg.vision.window, max(1, rollout.shape["data"] // hosts))
        slots = replace(
            own,
            slots=own.slots * hosts,
            prefill_rows=own.prefill_rows * hosts,
            extend_rows=own.extend_rows * hosts,
        )
        goes_on = continues(cfg.kernel, platform=where.platform, dtype=cfg.dtype)
        rows = config.train_shapes(cfg.vision.window, continues=goes_on)
        return cls(config, where, cfg, train, rollout, slots, rows)

    @property
    def shards(self) -> int:
        return self.train.shape["data"] * self.train.shape["fsdp"]

    @property
    def episodes(self) -> int:
        """Of one mini-batch."""
        return self.config.update.mini_batch * self.config.rollout.rollouts

    @property
    def micro_batches(self) -> int:
        """As many as a program is compiled for, should every episode need a row."""
        return micro_batches_for(-(-self.episodes // (self.shards * self.rows.rows)))

    @property
    def state_bytes(self) -> int:
        """Of what updates change and are made from, on each chip at all times."""
        return bytes_per_chip(abstract_state(self.cfg, self.train, self.config.trainable))

    @property
    def reference_bytes(self) -> int:
        """Of what a KL term holds on each chip, at all times."""
        if not self.config.update.objective.kl:
            return 0
        return bytes_per_chip(abstract_reference(self.cfg, self.train, self.config.trainable))

    def loads(self, load: Workload) -> dict[str, Load]:
        """Of every program, at the size that it is compiled for."""
        r, u = self.config.rollout, self.config.update
        many, copies = r.prompts // u.mini_batch, self.rollout.shape
        real = micro_batches(
            self.rows, self.slots, load, episodes=self.episodes, shards=self.shards
        )
        rollout = rollout_loads(
            self.cfg,
            self.slots,
            load,
            prompts=r.prompts,
            episodes=r.prompts * r.rollouts,
            groups=copies["data"],
            tensor=copies["tensor"],
        )
        update = update_loads(
            self.cfg,
            self.rows,
            compiled=self.micro_batches,
            real=real,
            mini_batches=many,
            epochs=u.epochs,
            scored=self._scored(many),
            shards=self.shards,
            tensor=self.train.shape["tensor"],
        )
        return rollout | {"reshard": reshard_load(self.cfg, copies["tensor"])} | update

    def _scored(self, mini_batches: int) -> int:
        """How often a mini-batch is before its updates: see `grpo/step.py`."""
        u = self.config.update
        return recomputes_logprobs(u, mini_batches) + (u.objective.kl > 0)


def workload(config: TrainConfig, sampled: int | None, crops: int | None) -> Workload:
    """The episode to plan for, which the config's rules and context must allow; None is the usual
    one's, as far as the rules do."""
    rules, usual = config.rules, Workload()
    limits = (
        ("--sampled", sampled, rules.most_sampled, "turn_tokens, episode_tokens and max_turns"),
        ("--crops", crops, rules.max_turns - 1, "max_turns"),
    )
    for flag, given, most, settings in limits:
        if given is not None and not 0 <= given <= most:
            raise ValueError(
                f"{flag} {given}: an episode has at most {most}, by rollout.{settings}; plan for "
                "what can be, or raise them"
            )
    found = Workload(
        min(usual.sampled, rules.most_sampled) if sampled is None else sampled,
        min(usual.crops, rules.max_turns - 1) if crops is None else crops,
    )
    r = config.rollout
    observed = found.crops * (r.crop_tokens + r.observation_text)
    left = r.capacity - r.image_tokens - found.prompt_text - observed
    if found.sampled > left and (sampled, crops) != (None, None):
        raise ValueError(
            f"--sampled {found.sampled} with --crops {found.crops}: rollout.capacity {r.capacity} "
            f"holds {max(left, 0)} beside the prompt's {r.image_tokens + found.prompt_text} ids "
            f"and the crops' {observed}; plan for what can be, or raise it"
        )
    return found


def check_there(config: TrainConfig, where: Slice) -> None:
    """What `train.py` would say of its devices there, with one process a host."""
    count, hosts = len(where.devices), where.hosts
    check_devices(config, devices=count, local=count // hosts, processes=hosts)


@dataclass(frozen=True)
class Phase:
    """Programs that run on one mesh while a chip holds `beside` bytes for others."""

    name: str
    mesh: Mesh
    programs: Iterator[Source]
    beside: int = 0


def phases(run: Run, only: Sequence[str] | None = None) -> Iterator[Phase]:
    """`only` are programs by their names: `update` is that of the usual windows alone. Resharding
    goes array by array, beside the old layout and all of the new."""
    state, reference = run.state_bytes, run.reference_bytes
    held = state + reference
    sampling = run.config.rules.sampling
    trains = run.config.trainable
    rollouts = rollout_programs(
        replace(run.cfg, remat="none"), run.rollout, run.slots, sampling, trains
    )

    def wanted(programs: Iterator[Source]) -> Iterator[Source]:
        return (one for one in programs if only is None or one.name in only)

    yield Phase("rollout", run.rollout, wanted(rollouts), held)
    yield Phase("reshard", run.train, wanted(_reshard(run)), held + _laid_out_beside(run))
    r, u = run.config.rollout, run.config.update
    recompute = recomputes_logprobs(u, r.prompts // u.mini_batch)  # else the reference's alone
    yield Phase("score", run.train, wanted(_update(run, "score")), held if recompute else state)
    yield Phase("update", run.train, wanted(_update(run, "update")), reference)


def plan(
    phase: Phase, chip: Chip, loads: Mapping[str, Load], compile_: Callable[[Source], Compiled]
) -> Iterator[Planned]:
    """Program by program, as they are compiled."""
    where = (phase.name, tuple(phase.mesh.shape.values()), chip.hbm_bytes, phase.beside)
    for source in phase.programs:
        try:
            one = compile_(source)
        except OutOfMemory as error:
            yield Planned(source.name, *where, refusal=str(error))
            continue
        load = loads.get(source.name)
        least = estimate(load, float(sum(one.sent.values())), chip) if load else None
        yield Planned(source.name, *where, compiled=one, load=load, estimate=least)


def _reshard(run: Run) -> Iterator[Source]:
    """The largest of the parameters, from the trainer's layout to the rollouts'. Each of its parts
    is by then on the device at its place among those of the rollouts."""
    publisher = Publisher(_placed(run), run.train, run.rollout)
    moved, lay_out = (jax.tree.leaves(tree) for tree in (publisher.moved, publisher.lay_out))
    largest, jitted = max(zip(moved, lay_out), key=lambda pair: pair[0].size)
    yield Source("reshard", partial(jitted.lower, largest), {"parameters": largest})


def _laid_out_beside(run: Run) -> int:
    """All parameters as the updates have them, and all but the largest as the rollouts do."""
    before, after = (jax.tree.leaves(_placed(run)(mesh)) for mesh in (run.train, run.rollout))
    largest = max(after, key=lambda x: x.size)
    return bytes_per_chip(before) + bytes_per_chip(after) - bytes_per_chip(largest)


def _placed(run: Run) -> Place:
    return partial(parameters.whole, run.cfg, run.config.trainable)


def _update(run: Run, name: Literal["score", "update"]) -> Iterator[Source]:
    return update_programs(
        run.cfg,
        run.train,
        run.rows,
        name,
        micro_batches=run.micro_batches,
        objective=run.config.update.objective,
        trainable=run.config.trainable,
        temperature=run.config.policy_temperature,
    )


def config_model(config: TrainConfig, platform: str) -> ModelConfig:
    """The model as it would compute there."""
    kernel, dtype = config.model.kernel, config.model.dtype
    if kernel == "auto":
        kernel = _KERNELS[platform]
    if dtype == "auto":
        dtype = "float32" if platform == "cpu" else "bfloat16"
    return replace(model_of(config), dtype=dtype, remat=config.model.remat, kernel=kernel)
