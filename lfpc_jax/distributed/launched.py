"""How a process learns that it is one of several: flags, torchrun's variables, SLURM or a TPU VM.

`detect` is a pure function of the settings and the environment. If only a part of a source is set,
it raises an error that names what is set and what is missing, since a process that took itself for
the only one would train alone.

Deviations from JAX's detection: the only task of a SLURM node uses all its GPUs (JAX would give it
just the GPU of its local number), a task that can already see only one GPU uses that one, and under
torchrun JAX's coordinator uses MASTER_PORT + 1 where torchrun's agent listens on MASTER_PORT.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Source = Literal["auto", "one", "flags", "torchrun", "slurm", "tpu"]

_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class ProcessSettings:
    """How processes find each other and how long they wait for each other.

    `coordinator` (host:port of process 0), `processes` (their count) and `process` (this one's
    number) are given together or not at all. `source` forces one way of detection; "auto" takes
    the first source that is set. `cache` is a folder that keeps compiled programs between runs;
    empty is off. A process that is silent for `silence_seconds` counts as dead, and the others end.
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
    """What a process was told at its start. `devices` are the local GPUs that it may use; None is
    all of them. On a TPU only the runtime knows the numbers, so `processes` is 0 there."""

    source: Source
    coordinator: str = ""
    processes: int = 1
    process: int = 0
    devices: tuple[int, ...] | None = None


def detect(settings: ProcessSettings, environ: Mapping[str, str]) -> Launched:
    """Which process this is, from the first source that is set, or from the one in the settings."""
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
    """Whether this is a TPU VM whose chips are to be used. JAX sets TPU_ML_PLATFORM when it is
    imported where there are chips and libtpu."""
    platforms = environ.get("JAX_PLATFORMS", "")
    return environ.get("TPU_ML_PLATFORM") == "JAX" and (not platforms or "tpu" in platforms)


def _from_flags(settings: ProcessSettings, given: tuple[bool, bool, bool]) -> Launched:
    names = ("coordinator", "processes", "process")
    if not all(given):
        missing = [name for name, there in zip(names, given, strict=True) if not there]
        raise ValueError(
            f"coordinator, processes and process must be given together; missing: {missing}"
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
    # Each job gets another port, below the range that Linux assigns to outgoing connections.
    port = 12000 + _number(environ, "SLURM_JOB_ID") % 20000
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"])
    launched = Launched(
        "slurm",
        f"{first_host(environ['SLURM_STEP_NODELIST'])}:{port}",
        _number({"SLURM_NTASKS": tasks}, "SLURM_NTASKS"),
        _number(environ, "SLURM_PROCID"),
    )
    _checked(launched, "SLURM_NTASKS", "SLURM_PROCID")
    if _tasks_a_node(environ, launched.processes) > 1:
        devices = _own_gpu(_number(environ, "SLURM_LOCALID"), environ)
        return replace(launched, devices=devices)
    return launched


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: `a7,b2` -> a7, `n[003-007,9]` -> n003, `r[1-2]-n4` ->
    r1-n4."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise ValueError(f"SLURM_STEP_NODELIST {nodes!r} names no host")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _tasks_a_node(environ: Mapping[str, str], tasks: int) -> int:
    """The largest number of tasks on a node of the step: `4(x2),1` -> 4."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts = [int(count) for count in re.findall(r"(?:^|,)(\d+)", text)]
    return max(counts, default=tasks)


def _own_gpu(local: int, environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """One GPU for each process of a host; None (all visible ones) if its launcher already lets it
    see only one."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return (local,)
    count = len([gpu for gpu in visible.split(",") if gpu])
    if count <= 1:
        return None
    if local >= count:
        raise ValueError(
            f"process {local} of this host has no GPU: CUDA_VISIBLE_DEVICES={visible} has {count}; "
            "start as many processes on a host as it has GPUs, or one process for all of them"
        )
    return (local,)


def _all_there(names: tuple[str, ...], environ: Mapping[str, str], what: str) -> None:
    missing = [name for name in names if not environ.get(name)]
    if missing:
        present = {name: environ[name] for name in names if environ.get(name)}
        raise ValueError(
            f"{what} is half set: {missing} missing, {present} set. Set them all, unset them all, "
            "or choose another source"
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


def _checked(launched: Launched, count: str, index: str) -> Launched:
    if launched.processes < 1 or not 0 <= launched.process < launched.processes:
        raise ValueError(
            f"{index} {launched.process} of {count} {launched.processes}: {index} must be from 0 "
            f"to {count} - 1"
        )
    return launched
