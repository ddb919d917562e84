"""The wheel in its own environment, from another folder and without git, has all it needs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lfpc_jax
from lfpc_jax.cli import lfpc

ROOT = Path(lfpc_jax.__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git would give, without git."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("lfpc_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation",
             "-w", out, source]  # fmt: skip
    subprocess.run(words, check=True)
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    """An empty folder, beside an environment with the wheel; what it depends on is the tests'."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env/bin/python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.check_output(where, text=True).strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run(pip, check=True)
    (folder / "here").mkdir()
    return folder / "here"


def typed(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [place.parent / "env/bin/lfpc", *words]
    return subprocess.run(command, cwd=place, env=clean, capture_output=True, text=True)


def test_it_holds_the_configs_the_micro_models_and_the_page(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("lfpc_jax", "configs"):
        for file in (ROOT / part).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(ROOT).as_posix()
                assert (f"lfpc_jax/{name}" if part == "configs" else name) in names, name
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lfpc_jax"}


def test_every_command_answers(place):
    printed = typed(place, "--version")
    assert printed.returncode == 0, printed.stderr
    assert str(place.parent / "env") in printed.stdout
    for name in lfpc.modules():
        done = typed(place, name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: lfpc {name} ")


def test_configs_are_found_by_name_and_a_file_of_ones_own_by_path_wins(place):
    flags = ("--topology", "cpu:1", "--program", "none")
    named = typed(place, "plan", "--config", "stage1.py:micro", *flags)
    assert "program 'none': the run has" in named.stderr, named.stderr
    (place / "stage1.py").write_text(
        "from configs import common\ndef get_config(size):\n    raise ValueError(f'mine, {size}')\n"
    )
    own = typed(place, "plan", "--config", "stage1.py:micro", *flags)
    assert own.returncode == 1
    assert "mine, micro" in own.stderr
    (place / "stage1.py").unlink()


def test_it_asks_a_micro_model_by_name(place):
    assert typed(place, "synthesize", "scenes", "--world", "micro", "--count", "2").returncode == 0
    image = next((place / "scenes/images").rglob("*.*"))
    words = ("--model", "configs/micro/warm", "--image", str(image), "--question", "Which colour?")
    asked = typed(place, "ask", *words)
    assert asked.returncode == 0, asked.stderr
    assert (place / "ask.png").is_file()


def test_the_demo_runs_from_it(place):
    few = ("--steps", "1", "--scenes", "24", "--questions", "8", "--arms", "stage2", "--jobs", "1")
    done = typed(place, "demo", *few)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (place / "runs/demo/report.html").stat().st_size > 100_000
    compared = json.loads((place / "runs/demo/compared-0/comparison.json").read_text())
    assert compared
    assert "  lfpc ask --model runs/demo/stage2-0 " in done.stdout
