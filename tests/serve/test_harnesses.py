"""The field's own harnesses and ours against the server: the same scores as without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = "{} names no {} (docs/harnesses.md)"


def named(variable: str, what: str) -> str:
    if not (value := os.environ.get(variable)):
        pytest.skip(MISSING.format(variable, what))
    return value


def agrees(out: Path, *flags: str) -> str:
    words = [out, "--questions", "20", *flags]
    command = [sys.executable, str(ROOT / "bench/harnesses.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "--endpoint: " in done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.compiles
def test_lmms_eval_and_a_served_model_give_the_scores_of_evaluate(tmp_path):
    python = named("LMMS_EVAL_PYTHON", "Python with lmms-eval installed")
    assert "lmms-eval: 20 scores, 0 differ" in agrees(tmp_path / "out", "--lmms-eval", python)


@pytest.mark.slow
@pytest.mark.compiles
def test_vlmevalkit_and_a_served_model_give_the_scores_of_evaluate(tmp_path):
    python = named("VLMEVALKIT_PYTHON", "Python with what VLMEvalKit needs")
    flags = ("--vlmevalkit", python, named("VLMEVALKIT", "checkout of VLMEvalKit"))
    said = agrees(tmp_path / "out", *flags)
    assert "VLMEvalKit: 20 scores, 0 differ" in said
    assert "VLMEvalKit's answers: 20 scores, 0 differ" in said
