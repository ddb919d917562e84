"""Commands that are told to stop, or killed, at random moments: their code and words, and the bytes
that the same command leaves afterwards."""

import signal
import subprocess
import time

import numpy as np
import pytest

from support import rigged, rigged_selection, told
from support.left import same
from support.training_runs import CONFIG

pytestmark = [pytest.mark.slow, pytest.mark.compiles]

SEED = 26
MOMENTS = 20
KINDS = ((signal.SIGTERM,), (signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGKILL,))
ALLOWED = {
    (signal.SIGTERM,): {0, 143},
    (signal.SIGINT,): {0, 130},
    (signal.SIGINT, signal.SIGINT): {0, 130},
    (signal.SIGKILL,): {0, -9},
}


def disturbed(words, seconds, moment, kind, **more):
    """Runs a command, and tells it at `moment` of the time that it takes."""
    process = told.start(*words, **more)
    told.until_it_hears(process)
    try:
        printed, errors = process.communicate(timeout=moment * seconds)
    except subprocess.TimeoutExpired:
        for number in kind:
            process.send_signal(number)
            time.sleep(0.05)
        printed, errors = process.communicate(timeout=120)
    code = process.returncode
    assert "Traceback" not in errors, errors
    assert code in ALLOWED[kind], (code, errors)
    if code in (130, 143):
        assert errors.splitlines()[-1].startswith("stopped "), errors
    return code, printed, errors


def one_moment(words, seconds, number, finished=None, **more):
    """Tells a command once, in one of four ways, and then lets the same command finish. One that
    has written the file `finished` would be refused."""
    kind = KINDS[number % len(KINDS)]
    moment = np.random.default_rng([SEED, number]).uniform(0, 1)
    print(f"{words[0]}, {number}: {[n.name for n in kind]} after {moment * seconds:.2f} s")
    _, printed, errors = disturbed(words, seconds, moment, kind, **more)
    if "wrote " in printed or (finished is not None and finished.exists()):
        return
    code, _, errors = told.ended(told.start(*words, **more), within=600)
    assert code == 0, errors


def whole(words, **more):
    """The seconds of a command that is left alone."""
    begun = time.monotonic()
    code, _, errors = told.ended(told.start(*words, **more), within=600)
    assert code == 0, errors
    return time.monotonic() - begun


def contents(folder, names):
    return {name: (folder / name).read_bytes() for name in names}


def test_select_resolution(tmp_path):
    data = rigged_selection.make_set(tmp_path / "set", 20)
    seconds = whole(("support.rigged_selection", data, tmp_path / "whole"))
    names = ("records.jsonl", "levels.jsonl", "report.json", "meta.json", "journal-0.jsonl")
    for number in range(MOMENTS):
        out = tmp_path / f"out{number}"
        words = ("support.rigged_selection", data, out)
        one_moment(words, seconds, number, finished=out / "meta.json")
        assert contents(out, names) == contents(tmp_path / "whole", names)


def test_evaluate(tmp_path):
    data = rigged.write_set(tmp_path / "set", 6)
    seconds = whole(("support.rigged", tmp_path / "whole", data, "0.1"))
    for number in range(MOMENTS):
        out = tmp_path / f"out{number}"
        one_moment(("support.rigged", out, data, "0.1"), seconds, number)
        names = ("results.json", "scores.jsonl")
        assert contents(out, names) == contents(tmp_path / "whole", names)


def test_train(folder, timed):
    undisturbed, seconds = timed
    for number in range(MOMENTS):
        run = folder / f"told{number}"
        words = ("train.py", "--config", CONFIG, "--run", run, "--cache", folder / "compiled")
        one_moment(words, seconds, number, MICRO=str(folder))
        same(run, undisturbed)
