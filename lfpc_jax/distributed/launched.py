"""From where a process knows that it is one of many: flags, torchrun's variables, SLURM, a TPU VM.

`detect` is a pure function of the settings and the environment. A half-set source is an error that
names what is there and what is missing: a process that believed itself alone would train alone.

Deviations from JAX's own detection: one task a SLURM node sees all its GPUs (JAX would give it only
the one of its local number), a task whose visible GPUs were cut to one keeps that, and under
torchrun, whose agent listens on MASTER_PORT itself, JAX's coordinator takes the port after it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Source = Literal["auto", "one", "flags", "torchrun", "slurm", "tpu"]

_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class ProcessSettings:
    """How processes find each other and how long they wait for each other.

    `coordinator` (host:port of process 0), `processes` and `process` are the explicit flags: all
    three or none. `source` forces one way of detection; auto takes the first that is there.
    `cache` is a folder for compiled programs, kept between runs; empty is off. A process that is
    silent for `silence_seconds` counts as dead, and ends the others.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1
    source: Source = "auto"
    cache: str = ""
    connect_seconds: int = 300
    beat_seconds: float = 2.0
    silence_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.beat_seconds * 3 <= self.silence_seconds:
            raise ValueError(
                f"silence_seconds {self.silence_seconds} must be at least three beat_seconds "
                f"({self.beat_seconds}), or a slow beat would count as a death"
            )
        if self.connect_seconds < 1:
            raise ValueError(f"connect_seconds is {self.connect_seconds}; it must be at least 1")


@dataclass(frozen=True)
class Launched:
    """What a process was told. `devices` are the local GPUs it may see, None for all. On a TPU the
    runtime's metadata tell, so that the numbers are not known here."""

    source: Source
    coordinator: str = ""
    processes: int = 1
    process: int = 0
    devices: tuple[int, ...] | None = None


def detect(settings: ProcessSettings, environ: Mapping[str, str]) -> Launched:
    """Who this process is, by the first source that is there (or the one the settings name)."""
    asked = settings.source
    if asked == "one":
        return Launched("one")
    given = (settings.coordinator != "", settings.processes != 0, settings.process != -1)
    if asked == "flags" or (asked == "auto" and any(given)):
        return _from_flags(settings, given)
    if asked == "torchrun" or (asked == "auto" and any(name in environ for name in _TORCHRUN)):
        return _from_torchrun(environ)
    # Outside of srun (a batch script, salloc's shell) there is a job but no step: one process.
    if asked == "slurm" or (asked == "auto" and "SLURM_STEP_NODELIST" in environ):
        return _from_slurm(environ)
    if asked == "tpu" or (asked == "auto" and on_tpu(environ)):
        return Launched("tpu", processes=0)
    return Launched("one")


def on_tpu(environ: Mapping[str, str]) -> bool:
    """On a TPU VM, and meant to compute there. JAX sets the first variable on import where it finds
    chips and libtpu."""
    platforms = environ.get("JAX_PLATFORMS", "")
    return environ.get("TPU_ML_PLATFORM") == "JAX" and (not platforms or "tpu" in platforms)


def _from_flags(settings: ProcessSettings, given: tuple[bool, bool, bool]) -> Launched:
    names = ("coordinator", "processes", "process")
    if not all(given):
        missing = [name for name, there in zip(names, given, strict=True) if not there]
        raise ValueError(
            f"coordinator, processes and process must be given together; {missing} are missing"
        )
    _check_address(settings.coordinator, "coordinator")
    return _checked(
        Launched("flags", settings.coordinator, settings.processes, settings.process),
        "processes",
        "process",
    )


def _from_torchrun(environ: Mapping[str, str]) -> Launched:
    _all_there(_TORCHRUN, environ, "torchrun")
    port = _number(environ, "MASTER_PORT")
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1
    address = f"{environ['MASTER_ADDR']}:{port}"
    _check_address(address, "MASTER_ADDR:MASTER_PORT")
    devices = None
    if "LOCAL_RANK" in environ and environ.get("LOCAL_WORLD_SIZE") != "1":
        devices = _own_gpu(_number(environ, "LOCAL_RANK"), environ)
    world, rank = _number(environ, "WORLD_SIZE"), _number(environ, "RANK")
    return _checked(Launched("torchrun", address, world, rank, devices), "WORLD_SIZE", "RANK")


def _from_slurm(environ: Mapping[str, str]) -> Launched:
    _all_there(_SLURM, environ, "SLURM (a step of srun)")
    # A port of the job's own below the range from which Linux gives out ports.
    port = 12000 + _number(environ, "SLURM_JOB_ID") % 20000
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"])
    made = Launched(
        "slurm",
        f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        _number({"SLURM_NTASKS": tasks}, "SLURM_NTASKS"),
        _number(environ, "SLURM_PROCID"),
    )
    _checked(made, "SLURM_NTASKS", "SLURM_PROCID")
    devices = None
    if _tasks_a_node(environ, made.processes) > 1:
        devices = _own_gpu(_number(environ, "SLURM_LOCALID"), environ)
    return Launched("slurm", made.coordinator, made.processes, made.process, devices)


def first_host(nodes: str) -> str:
    """The first of SLURM's list: `a7,b2` -> a7, `n[003-007,9]` -> n003, `r[1-2]-n4` -> r1-n4."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST {nodes!r} names no host")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _tasks_a_node(environ: Mapping[str, str], tasks: int) -> int:
    """The most tasks that any node of the step runs: `4(x2),1` -> 4."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = [int(found) for found in re.findall(r"(?:^|,)(\d+)", text)]
    return max(counts, default=tasks)


def _own_gpu(local: int, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """One GPU for each process of a host, unless its launcher has already cut the view to one."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (local,)
    count = len([one for one in visible.split(",") if one])
    if count <= 1:
        return None
    if local >= count:
        raise ValueError(
            f"process {local} of this host has no GPU: CUDA_VISIBLE_DEVICES={visible} has {count}; "
            "start as many processes a host as it has GPUs, or one for all of them"
        )
    return (local,)


def _all_there(names: tuple[str, ...], environ: Mapping[str, str], what: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        found = {name: environ[name] for name in names if environ.get(name)}
        raise ValueError(
            f"{what} is half set: {missing} missing, {found} set. Set them all, unset them all, "
            "or name another source"
        )


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise ValueError(f"{name}={environ[name]!r} is no whole number") from None


def _check_address(address: str, name: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{name} {address!r} is not HOST:PORT, such as 10.0.0.2:8476")


def _checked(made: Launched, count: str, index: str) -> Launched:
    if made.processes < 1 or not 0 <= made.process < made.processes:
        raise ValueError(
            f"{index} {made.process} of {count} {made.processes}: {index} must be from 0 to "
            f"{count} - 1"
        )
    return made
