"""`bench/device.py` runs on this CPU, in an image that has little beside JAX, and keeps what it has
found when a part fails, hangs or is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
MISSING = ("grain", "tensorboardX", "orbax", "pyarrow", "rapidfuzz", "rich", "matplotlib",
           "jinja2", "flax", "beartype", "pytest", "hypothesis", "scipy")  # fmt: skip
"""What the bench must do without, though this machine has it."""

_WITHOUT = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def started(*args, **more):
    env = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"JAX_PLATFORMS": "cpu", **more}
    command = [sys.executable, str(BENCH / "device.py"), "--size", "tiny", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_it_runs_where_little_is_installed(tmp_path):
    """`sitecustomize` is imported by every Python that starts, so the parts lack the packages, too.
    transformers finds some of them by itself, so `parity` runs with them."""
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT)
    path = f"{tmp_path}{os.pathsep}{BENCH.parent}"
    out = tmp_path / "found.json"
    parts = ("device", "kernels", "decode-64", "update")
    ran = started("--seconds", "3000", "--json", str(out), "--parts", *parts, PYTHONPATH=path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(out.read_text())["parts"]
    assert [*found] == [*parts]
    values = {row["what"]: row for part in found.values() for row in part["rows"]}
    assert values["update, 2 micro-batches of rows, 1 of pictures"]["value"] > 0
    assert "decode, 4 slots, 30 own tokens a row" in values
    assert values["trained"]["value"] == "everything"
    assert "decode, 4 slots" in ran.stdout


@pytest.mark.slow
def test_logits_beside_transformers(tmp_path):
    out = tmp_path / "found.json"
    assert started("--seconds", "3000", "--json", str(out), "--parts", "parity").returncode == 0
    [full, same, low, _] = json.loads(out.read_text())["parts"]["parity"]["rows"]
    assert full["value"] < 1e-4
    assert same["value"] == 1
    assert low["value"] < 0.1


@pytest.mark.seconds
def test_a_part_that_fails_loses_nothing(tmp_path):
    """One part raises, one is killed, one hangs; each has found something before."""
    (tmp_path / "device_parts.py").write_text("""
import os, signal, time

def run(part, size, record):
    record("first", value=1.5, unit="s", share=0.5)
    if part == "kernels":
        raise RuntimeError("a chip that is broken")
    if part == "parity":
        os.kill(os.getpid(), signal.SIGKILL)
    if part == "update":
        time.sleep(600)
""")
    copy = (BENCH / "device.py").read_text().replace('"update": 240', '"update": 4')
    (tmp_path / "device.py").write_text(copy)
    out = tmp_path / "found.json"

    def ran(*parts, seconds):
        command = [sys.executable, str(tmp_path / "device.py"), "--json", str(out)]
        command += ["--seconds", str(seconds), "--parts", *parts]
        done = subprocess.run(command, capture_output=True, text=True)
        return done, json.loads(out.read_text())["parts"]

    done, found = ran("device", "kernels", "parity", "update", seconds=400)
    assert done.returncode == 1
    row = {"what": "first", "value": 1.5, "unit": "s", "share": 0.5}
    assert all(part["rows"] == [row] for part in found.values())
    assert "error" not in found["device"]
    assert found["kernels"]["error"] == "exit code 1: RuntimeError: a chip that is broken"
    assert found["parity"]["error"] == "SIGKILL: it said nothing"
    assert found["update"]["error"] == "stopped after 4 seconds"
    assert "first  " in done.stdout
    assert "50%" in done.stdout
    assert ran("device", seconds=1)[1] == {"device": {"rows": [], "error": "no time was left"}}
