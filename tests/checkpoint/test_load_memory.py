"""Loading more than 2 GB takes little more memory than the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "load_memory.py"
LIMIT = 1.25


@pytest.mark.compiles
def test_the_peak_is_within_a_quarter_of_the_weights(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, str(BENCH), "--dtype", "bfloat16", "--json", str(out)]
    subprocess.run(command, check=True)
    (row,) = json.loads(out.read_text())
    assert row["weight_bytes"] > 2e9
    assert row["ratio"] <= LIMIT
    assert row["whole_process_ratio"] <= LIMIT  # with Python, JAX and the import of torch
