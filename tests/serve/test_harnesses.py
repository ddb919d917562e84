"""The field's own harness and ours against the server: the same scores as without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = "LMMS_EVAL_PYTHON"


@pytest.mark.slow
@pytest.mark.compiles
def test_lmms_eval_and_a_served_model_give_the_scores_of_evaluate(tmp_path):
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no Python with lmms-eval installed (docs/harnesses.md)")
    words = [tmp_path / "out", "--questions", "20", "--lmms-eval", python]
    command = [sys.executable, str(ROOT / "bench/harnesses.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "lmms-eval: 20 scores, 0 differ" in done.stdout
    assert "--endpoint: " in done.stdout
