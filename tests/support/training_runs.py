"""Training runs of the small model, each a process as a user starts it."""

import subprocess
import sys

from support import micro
from support.processes import ROOT, environment

CONFIG = micro.__file__


TARGET = ((20.0, 20.0, 60.0, 60.0),)


def start(folder, run, *more, config=CONFIG):
    env = environment(MICRO=str(folder))
    script = str(ROOT / "launch" / "train.py")
    cache = ["--cache", str(folder / "compiled")]
    command = [sys.executable, script, "--config", config, "--run", str(run), *cache, *more]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE)


def finished(process, code=0):
    _, errors = process.communicate(timeout=900)
    assert process.returncode == code, errors.decode()[-3000:]
    return errors.decode()
