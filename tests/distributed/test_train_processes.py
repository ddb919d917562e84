"""The trainer itself in several processes, over three real steps: uneven shares, some of them
without any picture; killed, gone on with by another number, told to stop."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lfpc_jax.checkpoint import training
from lfpc_jax.data import layout
from lfpc_jax.data.pipeline import MixedSet, Stream
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.trajectory import Picture
from support import micro, small
from support.left import facts, metrics, near
from support.processes import ROOT, environment, free_port

pytestmark = pytest.mark.compiles

TARGET = ((20.0, 20.0, 60.0, 60.0),)
PROMPTS, STEPS = 5, 3
LOST = 75
SLICES = Path(__file__).with_name("as_slices.py")


class Processes:
    """Of one run, as torchrun would start them."""

    def __init__(
        self,
        folder: Path,
        name: str,
        count: int,
        *more: str,
        devices: int = 1,
        script: Path = ROOT / "launch/train.py",
    ):
        env = environment(
            devices=devices, MICRO=str(folder), MASTER_ADDR="localhost",
            MASTER_PORT=str(free_port()), WORLD_SIZE=str(count),
        )  # fmt: skip
        self.run = folder / name
        sizes = ["--rollout.prompts", str(PROMPTS), "--update.mini_batch", str(PROMPTS)]
        command = [
            sys.executable, str(script), "--config",
            micro.__file__, "--run", str(self.run), *sizes, *more,
        ]  # fmt: skip
        self.logs = [folder / f"{name}-{count}-{rank}" for rank in range(count)]
        self.members = []
        for rank, log in enumerate(self.logs):
            with log.open("wb") as out:
                self.members.append(
                    subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=out, stderr=out)
                )

    def ended(self) -> list[int]:
        return [member.wait(timeout=900) for member in self.members]

    def said(self) -> str:
        return "\n---\n".join(log.read_text()[-3000:] for log in self.logs)

    def until_step(self, step: int) -> None:
        deadline = time.monotonic() + 900
        while newest(self.run) < step:
            assert time.monotonic() < deadline, self.said()
            assert all(member.poll() is None for member in self.members), self.said()
            time.sleep(0.05)


def newest(run: Path) -> int:
    saved = training.latest(RunFolder(run).checkpoints)
    return 0 if saved is None else saved.step


RECORDS = [
    small.record(i, targets=(TARGET,)) if i % 2 else small.record(i, picture=Picture())
    for i in range(6)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    small.hf_folder(path / "hf")
    layout.write(path / "set", RECORDS)
    return path


@pytest.fixture
def start(folder, reaped):
    def start(name: str, count: int, *more: str, **how: Any) -> Processes:
        made = Processes(folder, name, count, *more, **how)
        reaped.extend(made.members)
        return made

    return start


@pytest.fixture(scope="module")
def alone(folder):
    """The run of one process."""
    made = Processes(folder, "alone", 1)
    assert made.ended() == [0], made.said()
    return made.run


@pytest.mark.parametrize("count", [2, 4])
def test_shares_are_uneven_and_some_have_no_picture(count):
    """What the others stand on; 1, 1, 1 and 2 prompts, or 2 and 3."""
    streams = [
        Stream([MixedSet("set", RECORDS)], lambda record: record, batch=PROMPTS, seed=0,
               process=process, processes=count, threads=1)
        for process in range(count)
    ]  # fmt: skip
    blind = []
    for _ in range(STEPS):
        shares = [next(stream) for stream in streams]
        assert len({len(share) for share in shares}) == 2
        pictures = [sum(record.picture != Picture() for record in share) for share in shares]
        blind.append(min(pictures) == 0 < max(pictures))
    for stream in streams:
        stream.close()
    assert any(blind)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_are_as_one(start, alone, count):
    made = start("several", count)
    assert made.ended() == [0] * count, made.said()
    near(made.run, alone)
    assert facts(made.run) == facts(alone)


@pytest.mark.slow
def test_copies_of_several_devices_are_as_one(start, alone):
    """Two processes of four devices, updates in groups of 4 and rollouts in groups of 2. Unless
    each array of the rollouts' is waited for, the processes come to wait for each other."""
    made = start("split", 2, "--mesh.tensor", "4", "--rollout.tensor", "2", devices=4)
    assert made.ended() == [0, 0], made.said()
    near(made.run, alone)
    assert facts(made.run) == facts(alone)


@pytest.mark.slow
def test_two_processes_as_two_slices_are_as_one(start, alone):
    """Parameters are split over the four devices of each, and gradients are summed between both."""
    made = start("slices", 2, "--mesh.data", "2", "--mesh.tensor", "2", devices=4, script=SLICES)
    assert made.ended() == [0, 0], made.said()
    near(made.run, alone)
    assert facts(made.run) == facts(alone)


@pytest.mark.slow
def test_slices_that_the_mesh_does_not_know_are_refused(start):
    made = start("unknown", 2, devices=2, script=SLICES)
    assert made.ended() == [1, 1], made.said()
    assert "2 slices reach each other only through" in made.said()
    assert "set --mesh.data 2 --mesh.fsdp -1" in made.said()


@pytest.mark.slow
def test_one_of_four_is_killed_and_any_number_goes_on(start, alone, folder):
    four = start("killed", 4)
    four.until_step(1)
    four.members[2].kill()
    killed = time.monotonic()
    assert four.ended() == [LOST, LOST, -signal.SIGKILL, LOST], four.said()
    assert time.monotonic() - killed < 60
    for rank in (0, 1, 3):
        named = f"process {rank} stops: process 2 of 4 gave no sign of life"
        assert named in four.logs[rank].read_text()
    assert newest(four.run) < STEPS
    for count in (1, 2, 4):
        name = f"killed-{count}"
        shutil.copytree(four.run, folder / name)
        again = start(name, count)
        assert again.ended() == [0] * count, again.said()
        near(again.run, alone)
        assert facts(again.run) == facts(alone)
        assert steps(again.run) == [1, 2, 3]


@pytest.mark.slow
def test_sigterm_at_one_of_two_saves_and_stops_both(start):
    two = start("stopped", 2, "--steps", "50")
    two.until_step(1)
    two.members[1].send_signal(signal.SIGTERM)
    assert two.ended() == [0, 0], two.said()
    done = newest(two.run)
    assert 1 <= done < 50
    assert steps(two.run) == [*range(1, done + 1)]


def steps(run: Path) -> list[int]:
    """Those of which metrics tell, each once."""
    return sorted(step for kind, step in metrics(run) if kind == "train")
