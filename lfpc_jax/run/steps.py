"""Commands that build on one another. Several run at once, and none runs a second time.

For each command that is done, a note beside the results keeps its words and the identity of the
model that it began from. So the same commands resume after an interruption, and commands with other
words, or from another model, are refused.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lfpc_jax import stopping
from lfpc_jax.jsonfile import expecting, read_object
from lfpc_jax.run.commands import typed
from lfpc_jax.run.models import identity_of

_STOPPED = 85
"""Exit code with which a command says here that it was told to stop, and has not finished."""
_SIGNALLED = {_STOPPED, 128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT}
_POLL = 0.2


@dataclass(frozen=True)
class Step:
    """A command, as `train.py` and its arguments. It is done once it exits with 0, and begins when
    all steps named in `after` are done. A step that `gathers` may be run again with other words,
    for more arms; any other step may not, since what was built on its results would be left behind.
    `model` is a folder among the words that no other step makes; a folder of the same name with
    other weights is another model. `formerly` are words of an earlier version that gave the same
    results. `seal` is a file that the command writes last and with which it would refuse to run
    again. Without it, it makes the same results from its journal."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    gathers: bool = False
    model: str = ""
    formerly: tuple[str, ...] = ()
    seal: str = ""

    def __str__(self) -> str:
        return typed(self.words)


Identities = Mapping[str, Mapping[str, str]]
"""Of models, by the `model` of the steps that begin from them."""


def check(steps: Sequence[Step], out: Path) -> Identities:
    """Raises ValueError if `out` holds something that was made with other words, or from another
    model than the one that is there now, or is no folder. Returns the identities of those that
    are."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is no folder; choose another --out")
    models = {step.model: identity_of(Path(step.model)) for step in steps if step.model}
    unknown = set()
    for step in steps:
        before = _done(step, out)
        if before is not None and before not in (step.words, step.formerly) and not step.gathers:
            raise ValueError(
                f"{out} was made with `{replace(step, words=before)}`, which is not `{step}`: "
                f"choose another --out, or remove {out}"
            )
        if before is None or not step.model:
            continue
        if (noted := _read(step, out).get("model")) is None:
            unknown.add(step.model)
            continue
        now = models[step.model]
        if other := [part for part in now if now[part] != noted.get(part)]:
            raise ValueError(
                f"{out}: {step.name} was done with another model ({', '.join(other)}) in "
                f"{step.model}: choose another --out, remove {out}, or put the model back"
            )
    for model in sorted(unknown):
        print(
            f"warning: {out}: notes of an earlier version do not say which weights {model} had; if "
            "they have been replaced since, the results there are of two models",
            file=sys.stderr,
        )
    return models


def run(steps: Sequence[Step], out: Path, identities: Identities, *, jobs: int) -> int:
    """Returns the first exit code that is not 0, or 0. After a failure no further step begins, and
    those that run are waited for. If this command or a step is told to stop, all are, and 0 is
    returned; `stopping.told` says that it is so. `identities` are those that `check` returned."""
    stopping.patient("stops the commands that run; each keeps what it has")
    waiting = {step: f"[{number}/{len(steps)}]" for number, step in enumerate(steps, 1)}
    running: dict[Future[int], Step] = {}
    code = 0
    signalled = len(stopping.started)
    with ThreadPoolExecutor(jobs) as pool:
        while running or (waiting and not code and not stopping.told.is_set()):
            awaited = {step.name for step in (*waiting, *running.values())}
            ready = [step for step in waiting if awaited.isdisjoint(step.after) and not code]
            for step in ready[: jobs - len(running)]:
                alone = jobs == 1 or step.gathers
                place, model = waiting.pop(step), identities.get(step.model)
                running[pool.submit(_run, step, out, place, model, alone)] = step
            for future in wait(running, timeout=_POLL, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                exit_code = future.result()
                if exit_code in _SIGNALLED:
                    stopping.told.set()
                elif exit_code:
                    code = code or exit_code
                    print(
                        f"error: `{step}` exited with {exit_code}; rerun this command to resume "
                        "from there",
                        file=sys.stderr,
                    )
            while stopping.told.is_set() and signalled < len(stopping.started):
                stopping.started[signalled].terminate()  # which does nothing to one that has ended
                signalled += 1
    return code


def program(script: str) -> tuple[str, ...]:
    """How the command of launch/`script` starts in a process of its own, wherever the package
    is."""
    return sys.executable, "-m", "lfpc_jax", script.removesuffix(".py")


def _run(step: Step, out: Path, place: str, model: Mapping[str, str] | None, alone: bool) -> int:
    """Returns the exit code of the step. A step that is done is noted with its words."""
    if _done(step, out) in (step.words, step.formerly):
        print(f"{place} {step.name}: done before", flush=True)
        return 0
    if stopping.told.is_set():
        return _STOPPED
    print(f"\n{place} {step}", flush=True)
    start = time.monotonic()
    command = [*program(step.words[0]), *step.words[1:]]
    environment = stopping.environment_of_commands(**{stopping.CODE: str(_STOPPED)})
    if step.seal:  # it has finished, but this command did not live to note it
        Path(step.seal).unlink(missing_ok=True)
    if alone:
        process = subprocess.Popen(command, env=environment)
        stopping.started.append(process)
        code = process.wait()
    else:
        code = _prefixed(step, command, environment)
    if code == 0:
        seconds = round(time.monotonic() - start, 1)
        note = _note(step, out)
        note.parent.mkdir(parents=True, exist_ok=True)
        beside = note.with_suffix(".new")
        known = {"words": step.words, "seconds": seconds} | ({"model": model} if model else {})
        beside.write_text(json.dumps(known) + "\n")
        beside.replace(note)
        print(f"{place} {step.name}: {seconds:.0f} s", flush=True)
    return code


def _prefixed(step: Step, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs a command and prints each of its lines behind the name of its step."""
    lively = {**environment, "PYTHONUNBUFFERED": "1"}
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=joined, text=True, errors="replace", env=lively
    ) as process:
        stopping.started.append(process)
        for line in process.stdout or ():
            print(f"{step.name} | {line.rstrip()}\n", end="", flush=True)
    return process.returncode


def _note(step: Step, out: Path) -> Path:
    return out / "done" / f"{step.name.replace(' ', '-')}.json"


def _done(step: Step, out: Path) -> tuple[str, ...] | None:
    """The words with which the step was done; None if it is not done."""
    return tuple(_read(step, out)["words"]) if _note(step, out).is_file() else None


def _read(step: Step, out: Path) -> dict[str, Any]:
    note = read_object(_note(step, out))
    with expecting("note of a step that is done", _note(step, out)):
        return {**note, "words": [str(word) for word in note["words"]]}
