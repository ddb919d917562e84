"""The notebook runs from its first cell to its last, and what is stored of it is fit to be read."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from support.processes import environment

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "docs/tour.ipynb"
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

tour = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(tour, timeout=600, kernel_name="python3").execute(cwd=sys.argv[2])
[said] = [o.text for o in tour.cells[-2].outputs]
print(said)
"""


@pytest.mark.long
@pytest.mark.compiles
def test_all_cells_run_in_a_fresh_process(tmp_path):
    """With few programs (see support/lean.py), which the kernel's start-up sees to."""
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "lean.py").write_text("from support import lean\n\nlean.apply()\n")
    runtime = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "IPYTHONDIR": str(tmp_path)}
    command = [sys.executable, "-c", EXECUTE, str(TOUR), str(TOUR.parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**runtime))
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = done.stdout.strip().splitlines()
    assert "over 64 episodes" in before
    assert "over 64 episodes" in after


def test_its_outputs_are_stored_small_and_without_places_of_a_machine():
    assert TOUR.stat().st_size < 1_000_000
    tour = nbformat.read(TOUR, as_version=4)
    nbformat.validate(tour)
    cells = [cell for cell in tour.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 5
    for output in outputs:
        assert output.output_type != "error"
        text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
        assert not any(place in text for place in ("/home", "/root", "/tmp", "/work")), text
