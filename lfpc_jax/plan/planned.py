"""Programs as planned: what each takes on a chip, and what to change if it does not fit."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jax.sharding import Mesh

from lfpc_jax.plan.chips import GIB, Chip
from lfpc_jax.plan.compiling import Compiled, OutOfMemory
from lfpc_jax.plan.phases import Phase
from lfpc_jax.plan.programs import Uncompiled
from lfpc_jax.plan.roofline import LeastTime, least_time
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.work import Load
from lfpc_jax.run.config import TrainConfig


@dataclass(frozen=True)
class PlannedProgram:
    """A program on a slice. `beside` are the bytes that a chip holds for others while it runs.
    `compiled` is None if the compiler found no way to fit it; `refusal` is then the compiler's
    message."""

    program: str
    phase: str
    mesh: tuple[int, ...]
    hbm_bytes: int
    beside: int
    compiled: Compiled | None = None
    refusal: str = ""
    load: Load | None = None
    estimate: LeastTime | None = None

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
    def holds_too_much(self) -> bool:
        """Whether what it holds in any case, whatever the sizes of batches, does not fit."""
        always = ("parameters", "moments", "gradients")
        return self.beside + sum(self.kinds.get(kind, 0) for kind in always) > self.hbm_bytes

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
        """The figures of a program, for a file."""
        derived = ("bytes_per_chip", "fits", "kinds", "shortage", "seconds_a_step")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def plan(
    phases: Iterable[Phase],
    chip: Chip,
    loads: Mapping[str, Load],
    compile_: Callable[[Uncompiled, Mesh], Compiled],
) -> Iterator[PlannedProgram]:
    """Yields each program as it is compiled."""
    for phase in phases:
        sides = tuple(phase.mesh.shape.values())
        for program in phase.programs:
            where = (phase.name, sides, chip.hbm_bytes, phase.beside + program.beside)
            try:
                compiled = compile_(program, phase.mesh)
            except OutOfMemory as error:
                yield PlannedProgram(program.name, *where, refusal=str(error))
                continue
            load = loads.get(program.name)
            sent, between = (
                float(sum(each.values())) for each in (compiled.sent, compiled.between)
            )
            least = least_time(load, sent, chip, between=between) if load else None
            yield PlannedProgram(program.name, *where, compiled=compiled, load=load, estimate=least)


def step_figures(run: PlannedRun, programs: Sequence[PlannedProgram]) -> dict[str, Any]:
    """For a file: the least seconds of a step by phase, and the chip-hours of the run, which are 0
    if the chip's peaks are not known; and how an update's rows are filled, and its work on a
    chip."""
    config, where = run.config, run.slice
    apart = ("rollout", "target") if config.target is not None else ("rollout",)
    seconds = dict.fromkeys((*apart, "update"), 0.0)
    for program in programs:
        phase = program.phase if program.phase in apart else "update"
        seconds[phase] += program.seconds_a_step or 0.0
    chips = len(where.devices)
    layout, updates = run.layout, run.mini_batches * config.update.epochs
    calls = [
        (program.load, program.compiled, program.load.calls / updates)
        for program in programs
        if program.phase == "update" and program.load is not None and program.compiled is not None
    ]
    update = {
        "flops": sum(n * load.flops for load, _, n in calls),
        "bytes": sum(n * load.bytes for load, _, n in calls),
        "sent": _by_kind((compiled.sent, n) for _, compiled, n in calls),
        "between": _by_kind((compiled.between, n) for _, compiled, n in calls),
    }
    return {
        "cache": run.cache_figures,
        "remat": {
            "text": run.remat.remat,
            "tower": run.remat.tower_remat,
            "reason": run.remat.reason,
        },
        "layout": {
            "row_tokens": run.train_shapes.row_tokens,
            "rows": layout.rows * run.train_shapes.rows,
            "pictures": layout.pictures * (run.train_shapes.windows // run.train_shapes.span),
            "fill": layout.fill,
            "windows_fill": layout.windows_fill,
            "prompts_computed": layout.copies,
            "keys": layout.keys,
        },
        "update": update,
        "chips": chips,
        "steps": config.steps,
        "seconds_a_step": seconds,
        "chip_hours": config.steps * sum(seconds.values()) * chips / 3600,
        "compile_seconds": sum(program.compile_seconds for program in programs),
    }


def _by_kind(sent: Iterable[tuple[Mapping[str, int], float]]) -> dict[str, float]:
    """The bytes of so many calls each."""
    sums: dict[str, float] = {}
    for sizes, calls in sent:
        for kind, size in sizes.items():
            sums[kind] = sums.get(kind, 0.0) + calls * size
    return dict(sorted(sums.items()))


_STATE = "freeze the tower (model.train_vision false), use model.lora, or take {larger}"
_TRAINING = (
    "lower update.rows, update.row_tokens or rollout.capacity, set model.remat and "
    "model.tower_remat to full, {mesh}" + _STATE
)
_HELD = "its weights and the trainer's state alone are too large: {rollout}{mesh}" + _STATE
_ADVICE = {
    "rollout": "lower rollout.slots or rollout.capacity, {rollout}or take {larger}",
    "target": "lower target.slots, rollout.prompt_text or the target's budgets of tokens, "
    "{rollout}take a smaller target, or take {larger}",
    "reshard": "{rollout}or take {larger}",
    "score": _TRAINING,
    "update": _TRAINING,
    "model": "lower --length, raise --tensor, or take {larger}",
}


def advice(
    phase: str, where: Slice, config: TrainConfig | None, *, holds_too_much: bool = False
) -> str:
    """What to change if a phase does not fit; if it `holds_too_much` in any case, only what changes
    that. It never proposes what `lfpc train` would then refuse."""
    most = where.chips_a_host
    ways = {}
    if config is not None:
        ways = {"rollout": config.rollout.tensor, "mesh": config.mesh.tensor}
    raised = {
        name: f"raise {name}.tensor (at most {most}, the chips of a host), " if now < most else ""
        for name, now in ways.items()
    }
    larger = "more GPUs, or larger ones" if where.platform == "gpu" else "a larger slice"
    said = _HELD if holds_too_much and config is not None else _ADVICE[phase]
    return said.format(**raised, larger=larger)
