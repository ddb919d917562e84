"""The bench of labelling runs and writes its figures; sound ones need quiet cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "label_boxes.py"


@pytest.mark.slow
def test_labelling(tmp_path):
    file = tmp_path / "labels.json"
    size = ["--size", "tiny", "--grid", "2", "--repeats", "1"]
    subprocess.run([sys.executable, str(BENCH), *size, "--json", str(file)], check=True)
    figures = json.loads(file.read_text())
    assert figures["boxes"] == 9
    assert figures["answer_tokens"] >= 3
    assert figures["ratio"] > 1
    assert figures["most_apart_a_token"] < 1e-4
