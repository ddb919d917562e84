"""docs/photographs.md is typed as it stands: from image files to a model for transformers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lfpc_jax.data import layout

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```", (ROOT / "docs/photographs.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture
def place(tmp_path):
    """An empty folder with the project's own in it, and `python` of this environment."""
    for name in ("launch", "configs", "lfpc_jax"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def typed(place, language, text):
    """What it printed. `python` is the tests' own."""
    here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    here |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    words = ["bash", "-ec", text] if not language else [sys.executable, "-c", text]
    done = subprocess.run(words, cwd=place, env=os.environ | here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return done.stdout


@pytest.mark.seconds
def test_the_set_that_is_written_by_hand_is_whole(place):
    for language, text in BLOCKS[:2]:
        typed(place, language, text)
    records = [*layout.read(place / "own")]
    assert [record.answer for record in records] == ["A", "B", "A", "B"]
    assert all((place / "own" / record.picture.path).is_file() for record in records)
    assert json.loads((place / "own/meta.json").read_text())["count"] == len(records)


@pytest.mark.slow
def test_every_block_runs_and_the_model_speaks(place):
    said = [typed(place, language, text) for language, text in BLOCKS]
    assert [language for language, _ in BLOCKS].count("python") == 1
    assert "done with step 4 of 4" in (place / "runs/own/log.txt").read_text()
    assert said[-1].strip()
    assert (place / "own-report.html").stat().st_size > 100_000
    results = json.loads((place / "own-eval/results.json").read_text())
    [budget] = results["benchmarks"]["own"]["budgets"].values()
    assert budget["conditions"]["tool"]["answered"] == 4
