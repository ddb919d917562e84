"""Commands that are told to stop, or killed, at random moments: their code and words, and the bytes
that the same command leaves afterwards."""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from support import rigged, rigged_selection, told
from support.left import same
from support.processes import ROOT
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


def moment_of(number):
    return np.random.default_rng([SEED, number]).uniform(0, 1)


def one_moment(words, seconds, number, finished=None, **more):
    """Tells a command once, in one of four ways, and then lets the same command finish. One that
    has written the file `finished` would be refused."""
    kind = KINDS[number % len(KINDS)]
    moment = moment_of(number)
    print(f"{words[0]}, {number}: {[n.name for n in kind]} after {moment * seconds:.2f} s")
    _, printed, errors = disturbed(words, seconds, moment, kind, **more)
    if "wrote " in printed or (finished is not None and finished.exists()):
        return
    code, _, errors = told.ended(told.start(*words, **more), within=600)
    assert code == 0, errors


def whole(words, within=600, **more):
    """The seconds of a command that is left alone."""
    begun = time.monotonic()
    code, _, errors = told.ended(told.start(*words, **more), within=within)
    assert code == 0, errors
    return time.monotonic() - begun


def again_and_again(words, seconds, finished, **more):
    """Tells a command at all moments, until it finishes; then it begins anew. `finished` says from
    what it printed whether it has, and checks that. Returns how often."""
    count = 0
    for number in range(MOMENTS):
        kind, moment = KINDS[number % len(KINDS)], 0.6 * moment_of(number)
        print(f"{words[0]} {count}, {number}: {[n.name for n in kind]}, {moment * seconds:.2f} s")
        _, printed, errors = disturbed(words, seconds, moment, kind, **more)
        if number == MOMENTS - 1 and not finished(printed, errors):
            code, printed, errors = told.ended(told.start(*words, **more), within=3600)
            assert code == 0, (printed, errors)
            assert finished(printed, errors)
            count += 1
        elif number < MOMENTS - 1:
            count += finished(printed, errors)
    return count


def contents(folder, names):
    return {name: (folder / name).read_bytes() for name in names}


def everything(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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


def test_train(folder):
    """All but the first run find its compiled programs, so that some get to their end."""
    run, done = folder / "told", folder / "done"
    words = ("train.py", "--config", CONFIG, "--run", run, "--cache", folder / "compiled")
    done.mkdir()
    seconds = whole(words, MICRO=str(folder))
    undisturbed = run.rename(done / "undisturbed")

    def finished(printed, errors):
        if "done with step 3 of 3" not in errors + printed:
            return False
        same(run, undisturbed)
        run.rename(done / f"{len(list(done.iterdir()))}")
        return True

    assert again_and_again(words, seconds, finished, MICRO=str(folder)) > 1


def test_synthesize(tmp_path):
    def words(out, workers):
        return ("synthesize.py", out, "--count", 40, "--size", 448, "--workers", workers)

    seconds = {workers: whole(words(tmp_path / f"whole{workers}", workers)) for workers in (1, 2)}
    expected = everything(tmp_path / "whole1")
    assert len(expected) > 40
    assert everything(tmp_path / "whole2") == expected
    for number in range(MOMENTS):
        out, workers = tmp_path / f"out{number}", 1 + number // len(KINDS) % 2
        one_moment(words(out, workers), seconds[workers], number, finished=out / "meta.json")
        assert everything(out) == expected
        assert not list(tmp_path.glob(".*"))


DEMO = ("--arms", "stage1", "--steps", 6, "--scenes", 12, "--questions", 4, "--jobs", 2)
"""The smallest demo: the learning rate's warm-up needs six steps."""


def test_demo(tmp_path):
    """A demo is told again and again until it is finished; then another begins, in the same place,
    which its files name. All but the first find its compiled programs."""
    out, warm = tmp_path / "out", ROOT / "configs" / "micro" / "warm"
    words = ("demo.py", "--out", out, *DEMO, "--warm", warm)
    done = tmp_path / "done"
    done.mkdir()

    def put_away(name):
        out.rename(done / name)
        shutil.copytree(done / name / "compiled", out / "compiled")

    whole(words, within=3600)
    put_away("first")
    seconds = whole(words, within=3600)
    assert demo_results(out) == demo_results(done / "first")
    put_away("undisturbed")

    def finished(printed, errors):
        if "What to type next" not in printed:
            return False
        assert demo_results(out) == demo_results(done / "undisturbed")
        same(out / "stage1-0", done / "undisturbed" / "stage1-0")
        put_away(f"{len(list(done.iterdir()))}")
        return True

    assert again_and_again(words, seconds, finished)


def demo_results(out):
    """All data, what every model came to, and their comparison."""
    evaluated = out / "evaluated" / "temperature-0"
    found = {
        f"{arm} {name}": (evaluated / arm / name).read_bytes()
        for arm in ("warm", "stage1-0")
        for name in ("results.json", "scores.jsonl")
    }
    # A checkpoint's files have other bytes each time they are written; `same` compares its arrays.
    trained = json.loads(found["stage1-0 results.json"])
    del trained["asked"]["identity"]["weights"]
    found["stage1-0 results.json"] = trained
    found |= everything(out / "data") | everything(out / "compared-0")
    assert len(found) > 100
    return found


FIRST = [
    ("convert.py", "to-orbax", "nowhere", "out"),
    ("label_boxes.py", "nowhere", "out", "--boxes", "truth"),
    ("compare.py", "out", "--arm", "one", "nowhere"),
    ("report.py", "nowhere"),
    ("replay.py", "nowhere"),
    ("plan.py", "--config", "stage1.py", "--topology", "v5e:4x4"),
    ("ask.py", "--model", "nowhere", "--image", "none.png", "--question", "?"),
]


@pytest.mark.parametrize("words", FIRST, ids=lambda words: words[0])
def test_in_the_first_seconds(words):
    """While a command imports what it needs. One that is not told in time says its error."""
    for number in range(4 * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        process = told.start(*words)
        told.until_it_hears(process)
        time.sleep(4 * moment_of(number))
        for signalled in kind:
            process.send_signal(signalled)
            time.sleep(0.05)
        code, _, errors = told.ended(process, within=10)
        if code == 1:
            assert errors.splitlines()[-1].startswith("error: "), errors
        else:
            assert code in ALLOWED[kind] - {0}, (words, number, code, errors)
