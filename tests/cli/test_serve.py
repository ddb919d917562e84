"""The command: who it serves, what it says, and how it ends."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from lfpc_jax.cli import serve
from lfpc_jax.cli.parsers.serve import parser
from lfpc_jax.data.scene import WORLDS
from lfpc_jax.data.world import World
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.dialogue import question
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.said import said
from lfpc_jax.run.session import Session
from support.served import data_url, message

ROOT = Path(__file__).parents[2]
WARM = str(ROOT / "configs/micro/warm")


@pytest.fixture(autouse=True)
def _without_a_token(monkeypatch):
    monkeypatch.delenv("LFPC_SERVE_KEY", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com"])
def test_other_machines_are_not_served_without_a_token(host, capsys):
    assert serve.main(["--model", WARM, "--host", host]) == 1
    assert "LFPC_SERVE_KEY" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_the_model_loads(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main(["--model", "nowhere", "--port", port]) == 1
    said_ = capsys.readouterr().err
    assert f"--port {port}" in said_
    assert "in use" in said_


def test_once_it_says_where_it_serves_it_can_be_asked(monkeypatch, capsys):
    reached = []

    def served(service, listening):
        reached.append(f"at http://127.0.0.1:{listening.getsockname()[1]}/v1")
        socket.create_connection(listening.getsockname(), timeout=5).close()
        return 0

    monkeypatch.setattr(serve, "engine_of", lambda args: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(serve, "service_of", lambda *_: SimpleNamespace(name="small"))
    monkeypatch.setattr(serve, "serve_until_told", served)
    assert serve.main(["--model", "x", "--port", "0", "--cache", ""]) == 0
    assert reached[0] in capsys.readouterr().out


def test_a_folder_of_pictures_must_be_there(tmp_path, capsys):
    flags = ["--allow-files", str(tmp_path / "none")]
    assert serve.main(["--model", WARM, "--port", "0", *flags]) == 1
    assert "--allow-files" in capsys.readouterr().err


def test_a_crop_network_answers_no_questions(capsys):
    assert serve.main(["--model", str(ROOT / "configs/micro/boxes"), "--port", "0"]) == 1
    assert "crop network" in capsys.readouterr().err


@pytest.mark.parametrize("slots", [1, 3, 4, 16, 64])
def test_any_number_of_slots_has_shapes(slots):
    args = parser().parse_args(["--model", WARM, "--slots", str(slots)])
    shapes = serve.shapes_of(Asking(), Rules(), args, window=4, groups=1)
    assert shapes.slots == slots
    assert shapes.kept >= shapes.prefill_rows


@pytest.mark.parametrize(
    ("flag", "environment", "wanted"),
    [
        (None, {}, "~/.cache/lfpc_jax/programs"),
        (None, {"XDG_CACHE_HOME": "/elsewhere"}, "/elsewhere/lfpc_jax/programs"),
        (None, {"JAX_COMPILATION_CACHE_DIR": "gs://bucket/programs"}, "gs://bucket/programs"),
        ("/mine", {"JAX_COMPILATION_CACHE_DIR": "/theirs"}, "/mine"),
        ("", {}, ""),
    ],
)
def test_where_compiled_programs_are_kept(flag, environment, wanted, monkeypatch):
    for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    kept = []
    monkeypatch.setattr(serve, "keep_programs", kept.append)
    serve._keep_programs(flag)
    assert kept == [wanted]


def test_a_home_that_cannot_be_written_is_said_and_a_folder_that_was_asked_for_is_an_error(
    monkeypatch, capsys, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    serve._keep_programs(None)
    assert "compiled programs are not kept" in capsys.readouterr().err
    with pytest.raises(OSError, match="file"):
        serve._keep_programs(str(tmp_path / "file/programs"))


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


def all_there(url):
    found = urllib.request.urlopen(f"{url}/metrics").read().decode()
    return "lfpc_programs_left 0.0" in found


@pytest.mark.slow
@pytest.mark.compiles
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_the_command_answers_as_a_session_does_and_drains(told, programs):
    """Before all programs are compiled and afterwards; a second start compiles none."""
    openai = pytest.importorskip("openai")
    kept = {path.name for path in programs.glob("*-cache")}
    command = [sys.executable, "launch/serve.py", "--model", WARM, "--port", "0", "--slots", "4"]
    command += ["--cache", str(programs)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        [url] = re.findall(r"(http://127\.0\.0\.1:\d+)/v1", line)
        world = World(WORLDS["micro"], 3, "heldout", 6)
        session = Session.load(WARM)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
            for seed, record in enumerate([*world[:6], *world[:6]]):
                while seed == 6 and not all_there(url):
                    time.sleep(0.5)
                picture = record.picture.data
                asked = message(question(record), data_url(picture, "image/jpeg"))
                reply = client.chat.completions.create(
                    model="warm:look", messages=[asked], seed=seed, temperature=0.8,
                    extra_body={"longest_side": 56, "return_token_ids": True},
                )  # fmt: skip
                group = session.ask(
                    picture, question(record), longest_side=56, temperature=0.8, seed=seed
                )
                [trajectory] = group.trajectories
                wanted = trajectory.ids[trajectory.sampled].tolist()
                assert reply.choices[0].token_ids == wanted
                assert reply.choices[0].message.content == (said(trajectory) or "")
        process.send_signal(told)
        assert process.wait(60) == 0
        assert "stopped; 0 requests" in process.stdout.read()
        assert not kept or {path.name for path in programs.glob("*-cache")} == kept
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
