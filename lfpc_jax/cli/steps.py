"""Commands of launch/ that build on one another: several run at once, and none a second time.

What was done is noted beside its results with the words it had and the model that it began from, so
that the same commands, killed, go on where they were, and others are refused what these have made.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lfpc_jax.run.models import identity_of

LAUNCH = Path(__file__).parents[2] / "launch"


@dataclass(frozen=True)
class Step:
    """A command, done once it left with 0; it begins when all that it is `after` are. One that
    `gathers` may follow with other words, of more arms; anything else would leave what was built
    on it behind. `model` is a folder of its words that no other command made: a model of the same
    name and other weights is another."""

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    gathers: bool = False
    model: str = ""

    def __str__(self) -> str:
        return f"python launch/{shlex.join(self.words)}"


def check(steps: Sequence[Step], out: Path) -> None:
    """`out` holds nothing that was made with other words, or from another model."""
    models = {step.model: identity_of(Path(step.model)) for step in steps if step.model}
    unknown = set()
    for step in steps:
        before = _done(step, out)
        if before not in (None, step.words) and not step.gathers:
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
            f"{out}: notes of before do not say which weights {model} had; if they were replaced "
            "since, what is there is of two models",
            file=sys.stderr,
        )


def run(steps: Sequence[Step], out: Path, *, jobs: int) -> int:
    """The first exit code that is not 0; then nothing more begins, and what runs is waited for."""
    waiting = {step: f"[{number}/{len(steps)}]" for number, step in enumerate(steps, 1)}
    running: dict[Future[int], Step] = {}
    code = 0
    with ThreadPoolExecutor(jobs) as pool:
        while running or (waiting and not code):
            awaited = {step.name for step in (*waiting, *running.values())}
            ready = [step for step in waiting if awaited.isdisjoint(step.after) and not code]
            for step in ready[: jobs - len(running)]:
                alone = jobs == 1 or step.gathers
                running[pool.submit(_run, step, out, waiting.pop(step), alone)] = step
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                if left_with := future.result():
                    code = code or left_with
                    print(f"error: `{step}` left with {left_with}; the same command goes on there")
    return code


def _run(step: Step, out: Path, place: str, alone: bool) -> int:
    """Its exit code. What was done is noted with its command."""
    if _done(step, out) == step.words:
        print(f"{place} {step.name}: done before", flush=True)
        return 0
    print(f"\n{place} {step}", flush=True)
    begun = time.monotonic()
    model = {"model": identity_of(Path(step.model))} if step.model else {}
    command = [sys.executable, str(LAUNCH / step.words[0]), *step.words[1:]]
    code = subprocess.run(command).returncode if alone else _named(step, command)
    if code == 0:
        seconds = round(time.monotonic() - begun, 1)
        note = _note(step, out)
        note.parent.mkdir(parents=True, exist_ok=True)
        beside = note.with_suffix(".new")
        beside.write_text(json.dumps({"words": step.words, "seconds": seconds} | model) + "\n")
        beside.replace(note)
        print(f"{place} {step.name}: {seconds:.0f} s", flush=True)
    return code


def _named(step: Step, command: Sequence[str]) -> int:
    """Each line that it prints, behind its name."""
    lively = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=joined, text=True, errors="replace", env=lively
    ) as process:
        for line in process.stdout or ():
            print(f"{step.name} | {line.rstrip()}\n", end="", flush=True)
    return process.returncode


def _note(step: Step, out: Path) -> Path:
    return out / "done" / f"{step.name.replace(' ', '-')}.json"


def _done(step: Step, out: Path) -> tuple[str, ...] | None:
    """The words with which it was done, if it was."""
    return tuple(_read(step, out)["words"]) if _note(step, out).is_file() else None


def _read(step: Step, out: Path) -> dict[str, Any]:
    return json.loads(_note(step, out).read_text())
