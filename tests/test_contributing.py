"""The pages on adding a tool, a reward, a reader and a model: their files, and their tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lfpc_jax.run.config_files import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/contributing").glob("*.md"))
BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)
PACKAGE_TOO = """
from pathlib import Path

import lfpc_jax.data
import lfpc_jax.rollout

for room in (lfpc_jax.data, lfpc_jax.rollout):
    room.__path__.append(str(Path(__file__).parent / "lfpc_jax" / room.__name__.split(".")[-1]))
"""
"""The new files of the package lie beside the real ones, as far as imports can tell."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All files that the pages say to save, in a folder of their own."""
    folder = tmp_path_factory.mktemp("contributed")
    (folder / "conftest.py").write_text(PACKAGE_TOO)
    for page in PAGES:
        for name, text in BLOCK.findall(page.read_text()):
            file = folder / name
            assert not (ROOT / name).exists(), f"{page.name}: {name} is there already"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return folder


def test_every_python_block_says_which_file_it_is():
    assert [page.stem for page in PAGES] == ["model", "reader", "reward", "tool"]
    for page in PAGES:
        text = page.read_text()
        assert text.count("```python") == len(BLOCK.findall(text)) > 0, page.name


@pytest.mark.seconds
def test_the_tests_of_all_pages_pass(written):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(written)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # else its own lfpc_jax/ hides the package
    done = subprocess.run(command, capture_output=True, text=True, cwd=written, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    [passed] = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) == 17


def test_configs_of_the_pages_are_configs(written, monkeypatch):
    monkeypatch.syspath_prepend(str(written))
    monkeypatch.setattr("lfpc_jax.data.__path__", [*data_rooms(), str(written / "lfpc_jax/data")])
    reward = load_config(str(written / "configs/square.py"), ROOT / "configs")
    assert [own.name for own in reward.rewards.own] == ["square"]
    reader = load_config(str(written / "configs/doors.py"), ROOT / "configs")
    assert reader.data.train[0].reader.__name__ == "read_csv"


def data_rooms() -> list[str]:
    import lfpc_jax.data

    return list(lfpc_jax.data.__path__)
