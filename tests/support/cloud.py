"""A checkout, its settings, and a stand-in cloud in which pod.sh runs."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "launch" / "stand_in"
SETTINGS = """
PROJECT=p1 ZONE=z1 NAME=slice ACCELERATOR=v5litepod-16 SLICES=1 RUNTIME=rt TIER=spot
NETWORK="" SUBNETWORK="" SERVICE_ACCOUNT="" WAIT_MINUTES=1
BUCKET=store CONFIG=stage1.py RUN=first SECRETS="$CLOUD/secrets"
ARGS=(--model.path ../bucket/weights/7b --note "two words")
TRIES=3 PAUSE_SECONDS=0 POLL_SECONDS=0.2 GRACE_SECONDS=20 MAX_RESTARTS=3 KEEP_ON_FAILURE=no
"""
SECRET = "not-to-be-seen"


class Cloud:
    def __init__(self, folder: Path):
        self.folder, self.code = folder / "cloud", folder / "code"
        (self.folder / "bucket").mkdir(parents=True)
        (self.folder / "train").write_text("0\n" * 9)
        (self.folder / "secrets").write_text(f"JUDGE_KEY={SECRET}\n")
        (folder / "settings.sh").write_text(SETTINGS)
        shutil.copytree(ROOT / "launch" / "tpu_vm", self.code / "launch" / "tpu_vm")
        (self.code / "launch" / "train.py").write_text("the trainer\n")
        (self.code / "constraints.txt").write_text("jax==0\n")
        (self.code / "weights.bin").write_bytes(os.urandom(40_000))  # which gzip cannot shrink
        for command in (["init", "-q"], ["add", "."]):
            subprocess.run(["git", *command], cwd=self.code, check=True)
        (self.code / "untracked").write_text("stays here")
        self.settings = folder / "settings.sh"

    def orders(self, **orders: list[str]) -> None:
        (self.folder / "orders.json").write_text(json.dumps(orders))

    def pod(self, *words: str, code: int = 0) -> str:
        command, env = self.command(*words)
        done = subprocess.run(
            command, env=env, cwd=self.folder, timeout=120, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert SECRET not in done.stdout
        assert done.returncode == code, done.stdout
        return done.stdout

    def command(self, *words: str) -> tuple[list, dict[str, str]]:
        env = {
            **os.environ,
            "CLOUD": str(self.folder),
            "PATH": f"{STAND_IN}:{os.environ['PATH']}",
            "PYTHON": str(STAND_IN / "python3.13"),
        }
        return [self.code / "launch/tpu_vm/pod.sh", "--settings", self.settings, *words], env

    @contextmanager
    def keeping(self):
        command, env = self.command("keep")
        with (self.folder / "said").open("w") as said:
            keep = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        try:
            yield keep
        finally:
            keep.kill()
            keep.wait()

    @property
    def calls(self) -> list[str]:
        """What was asked of gcloud: its verb, and for workers what they did."""
        path = self.folder / "calls"
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            words = json.loads(line)
            verb = words[1] if words[0] == "storage" else words[3]
            verb = "machine" if words[2:4] == ["tpu-vm", "describe"] else verb
            if verb == "ssh":
                command = next(w for w in words if w.startswith("--command="))
                verb = command.split()[2] if "worker.sh" in command else "unpack"
                verb = "secrets" if ".lfpc_secrets" in command else verb
            found.append(verb)
        return found

    def count(self, verb: str) -> int:
        return self.calls.count(verb)

    @property
    def started(self) -> list[str]:
        path = self.folder / "started"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def there(self) -> bool:
        return (self.folder / "states.json").exists()

    def pids(self) -> list[int]:
        return [int(path.read_text()) for path in self.folder.glob("**/worker-*/lfpc_run/pid")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
