"""Training runs of the small model, each a process as a user starts it. With stacked layers and two
slots, programs are few and compile soon."""

import os
import subprocess
import sys

from support import micro, stacked
from support.processes import ROOT, environment

CONFIG = micro.__file__
FEW_SLOTS = ("--rollout.slots", "2")

TARGET = ((20.0, 20.0, 60.0, 60.0),)


def start(folder, run, *more, config=CONFIG):
    env = environment(MICRO=str(folder))
    script = [stacked.__file__, str(ROOT / "launch" / "train.py")]
    cache = ["--cache", os.environ["JAX_COMPILATION_CACHE_DIR"]]
    words = ["--config", config, "--run", str(run), *cache, *FEW_SLOTS, *more]
    command = [sys.executable, *script, *words]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)


def finished(process, code=0):
    _, errors = process.communicate(timeout=900)
    assert process.returncode == code, errors.decode()[-3000:]
    return errors.decode()
