"""The model that ships: what its README says it is, and transformers alone plays its episodes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from lfpc_jax.cli import synthesize

pytestmark = pytest.mark.compiles

ROOT = Path(__file__).parents[2]
WARM = ROOT / "configs/micro/warm"


def test_its_readme_knows_its_hash():
    digest = hashlib.sha256((WARM / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (WARM / "README.md").read_text()


@pytest.mark.slow
def test_transformers_alone_plays_the_same_episodes(tmp_path):
    """A small model's conversations are compared in `tests/rollout/test_transformers.py`."""
    data = tmp_path / "held"
    asked = ["--world", "micro", "--split", "heldout", "--count", "12", "--seed", "5"]
    assert synthesize.main([str(data), *asked]) == 0
    command = [sys.executable, str(ROOT / "bench/plain_loop.py"), str(WARM), "--data", str(data)]
    command += ["--image-tokens", "4"]  # blurred, where it crops; else as it was trained
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [said] = done.stdout.splitlines()[-1:]
    episodes, crops = (int(part.split()[0]) for part in said.split(", ")[:2])
    assert episodes == 12
    assert crops >= 4
