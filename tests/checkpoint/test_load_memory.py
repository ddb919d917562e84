"""Loading more than 2 GB takes little more memory than the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "load_memory.py"
LIMIT = 1.1


@pytest.mark.compiles
@pytest.mark.slow
def test_the_peak_is_within_a_tenth_of_the_weights(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH), "--dtype", "bfloat16", "--json", str(out)]
    subprocess.run(command, check=True)
    (row,) = json.loads(out.read_text())
    assert row["weight_bytes"] > 2e9
    # Beside Python, JAX and torch themselves: to import a torch for GPUs takes 300 MB more.
    assert row["ratio"] <= LIMIT
