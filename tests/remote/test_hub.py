"""Names on the Hub, against a stand-in on loopback: fetched, resumed, refused in one line."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

import lfpc_jax
from lfpc_jax.cli import lfpc
from lfpc_jax.data import layout
from lfpc_jax.remote.hub import HubName
from lfpc_jax.trajectory import Picture, Record
from support import benchmark_files
from support.benchmark_files import jpeg
from support.hub import Hub, Repo

ROOT = Path(lfpc_jax.__file__).parents[1]
WARM = ROOT / "configs/micro/warm"
FETCH = """
import sys
from lfpc_jax.remote import hub
kind, *names = sys.argv[1:]
for name in names:
    try:
        print(hub.fetched(hub.HubName.parse(name), kind))
    except ValueError as error:
        print("error:", error)
"""
MORE_THAN_A_CHUNK = bytes(range(256)) * 48_000
"""12 MB: the client writes what it received in pieces of 10."""


@pytest.fixture
def hub():
    with Hub() as standing:
        yield standing


def started(hub, home, *words, cwd=None, **more):
    environment = hub.environment(home, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu", **more)
    return subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def fetched(hub, home, *names, kind="model", **more):
    """What the process printed for each name, and what it said beside."""
    process = started(hub, home, "-c", FETCH, kind, *names, cwd=home.parent, **more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines(), err.splitlines()


def test_what_is_a_name_and_what_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = HubName.parse
    assert known("Qwen/Qwen2.5-VL-3B-Instruct") == HubName("Qwen/Qwen2.5-VL-3B-Instruct")
    assert known(Path("a/b@v1.0")) == HubName("a/b", "v1.0")
    assert known("a/b/c/d-*.parquet") == HubName("a/b", "", "c/d-*.parquet")
    assert known("a/b@main/c.tsv") == HubName("a/b", "main", "c.tsv")
    assert known("Qwen2.5-VL-7B-Instruct") == HubName("Qwen/Qwen2.5-VL-7B-Instruct")
    for path in ("/a/b", "./a/b", "../a", "~/a", "a", "runs/stage1", "data/focus", "configs/x"):
        assert known(path) is None, path
    (tmp_path / "here").mkdir()
    assert known("here/typo") is None  # in a folder that is here
    (tmp_path / "Qwen2.5-VL-7B-Instruct").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    assert known("Qwen2.5-VL-7B-Instruct") is None
    assert known("a/b") is None
    assert [str(name) for name in (HubName("a/b"), HubName("a/b", "r", "c"))] == ["a/b", "a/b@r/c"]


@pytest.mark.seconds
def test_it_says_what_it_fetches_and_fetches_it_once(hub, tmp_path):
    repo = hub.repos["model", "o/a"] = Repo(
        {"config.json": b"{}", "x/y.json": b"[1]"}, tags=("v1",)
    )
    home = tmp_path / "home"
    [folder, again, tagged], said = fetched(hub, home, "o/a", "o/a@main", "o/a@v1")
    assert folder == again == tagged
    assert Path(folder).name == repo.commit
    assert (Path(folder) / "x/y.json").read_bytes() == b"[1]"
    [line] = said
    assert line == f"fetching model o/a from {hub.url}: 2 files, 0.0 MB, to {home / 'hub'}"
    assert sum(method == "GET" and "resolve" in path for method, path, _ in hub.asked) == 2
    assert fetched(hub, home, "o/a", HF_HUB_OFFLINE="1") == ([folder], [])


@pytest.mark.seconds
def test_every_refusal_is_one_line_with_a_remedy(hub, tmp_path):
    hub.repos["model", "o/gated"] = Repo({"config.json": b"{}"}, gated=True, token="mine")
    hub.repos["model", "o/own"] = Repo({"config.json": b"{}"}, token="mine")
    hub.repos["model", "o/a"] = Repo({"config.json": b"{}"})
    names = ("o/gated", "o/own", "o/none", "o/a@v9", "o/x..y")
    said, _ = fetched(hub, tmp_path / "one", *names)
    gated, private, missing, revision, malformed = said
    assert f"accept them at {hub.url}/o/gated, then `hf auth login`" in gated
    assert "`hf auth login` if it is private" in private
    assert "is no folder here, and no model at" in missing
    assert f"no such revision; its branches and tags are at {hub.url}/o/a/tree/main" in revision
    assert "cannot be a name on the Hub" in malformed
    (tmp_path / "two").mkdir()
    (tmp_path / "two/token").write_text("mine")  # where `hf auth login` keeps it
    said, _ = fetched(hub, tmp_path / "two", "o/gated", "o/own")
    assert not any(line.startswith("error") for line in said)
    [offline], _ = fetched(hub, tmp_path / "three", "o/a", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids to fetch it; unset that, or give the path" in offline
    [unreached], _ = fetched(hub, tmp_path / "four", "o/a", HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be fetched from http://127.0.0.1:9 (" in unreached
    assert "check the network and rerun" in unreached


@pytest.mark.parametrize("words", [
    ("ask", "--image", "a.png", "--question", "Which?", "--model"),
    ("serve", "--port", "0", "--model"), ("evaluate", "out", "--data", "set", "--model"),
    ("select", "set", "out", "--model"), ("convert", "to-orbax"), ("convert", "check"),
], ids=" ".join)  # fmt: skip
def test_every_command_that_takes_a_model_takes_a_name_and_its_revision(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("RGB", (64, 64)).save("a.png")
    layout.write(tmp_path / "set", [Record("a", "Which?", "red", Picture(path="a.png"))])
    out = ["out"] if words[1] == "to-orbax" else []
    assert lfpc.main([*words, "o/none", *out, "--revision", "v9"]) == 1
    assert "o/none@v9: is no folder here and not whole in " in capsys.readouterr().err
    assert lfpc.main([*words, str(WARM), *out, "--revision", "v9"]) == 1
    assert "--revision v9: is for a model that is named as on the Hub" in capsys.readouterr().err


@pytest.mark.seconds
def test_a_connection_that_breaks_goes_on_where_it_stopped(hub, tmp_path):
    files = {"model.safetensors": MORE_THAN_A_CHUNK}
    hub.repos["model", "o/big"] = Repo(files, breaks_after=11_000_000)
    [folder], _ = fetched(hub, tmp_path / "home", "o/big")
    assert (Path(folder) / "model.safetensors").read_bytes() == MORE_THAN_A_CHUNK
    [resumed] = [asked for _, _, asked in hub.asked if asked]
    assert int(resumed.removeprefix("bytes=").removesuffix("-")) > 1_000_000


@pytest.mark.long
def test_a_command_that_was_killed_fetches_only_what_was_not_whole(hub, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": MORE_THAN_A_CHUNK}
    repo = hub.repos["model", "o/big"] = Repo(files, stalls_after=11_000_000)
    process = started(hub, tmp_path / "home", "-c", FETCH, "model", "o/big", cwd=tmp_path)
    assert repo.stalled.wait(120)
    while not [*(tmp_path / "home").rglob("config.json")]:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    repo.stalls_after = 0
    [offline], _ = fetched(hub, tmp_path / "home", "o/big", HF_HUB_OFFLINE="1")
    assert "not whole" in offline
    [folder], [said] = fetched(hub, tmp_path / "home", "o/big")
    assert "1 files, 12.3 MB" in said
    assert (Path(folder) / "model.safetensors").read_bytes() == MORE_THAN_A_CHUNK
    bodies = [path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET"]
    assert bodies.count("config.json") == 1


def rows(colours):
    """ThinkLite's columns, with a plain picture of each colour embedded."""
    pictures = []
    for colour in colours:
        file = pyarrow.BufferOutputStream()
        PIL.Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(file, "PNG")
        pictures.append(file.getvalue().to_pybytes())
    table = pyarrow.table(
        {"problem": [f"<image>How bright, {c}?" for c in colours],
         "answer": [str(c) for c in colours], "image": pictures}
    )  # fmt: skip
    file = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue().to_pybytes()


@pytest.mark.seconds
def test_one_command_leads_from_names_to_a_set_and_one_more_to_boxes(hub, tmp_path):
    published = "russwang/ThinkLite-VL-hard-11k"
    hub.repos["dataset", published] = Repo({"data/a.parquet": rows([10, 20]), "README.md": b""})
    hub.repos["dataset", "o/other"] = Repo({"x.parquet": rows([30]), "y.parquet": rows([40, 50])})
    words = ("-m", "lfpc_jax", "gather", published, "think_lite:o/other@main/x.parquet")
    process = started(hub, tmp_path / "home", *words, "data/focus", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "wrote data/focus: 3 records, 0 left out" in out
    assert f"fetching dataset {published} from " in err
    assert not any("y.parquet" in path for _, path, _ in hub.asked if "resolve" in path)
    focus = [*layout.read(tmp_path / "data/focus")]
    assert [record.answer for record in focus] == ["10", "20", "30"]
    assert all(Path(record.picture.path).is_file() for record in focus)
    drawn = {focus[1].id: [[[8, 8, 20, 20], [4, 4, 40, 40]]], focus[2].id: [[[9, 9, 99, 99]]]}
    (tmp_path / "drawn.json").write_text(json.dumps(drawn))
    words = ("-m", "lfpc_jax", "gather", "data/focus", "data/boxes", "--boxes", "drawn.json")
    process = started(hub, tmp_path / "home", *words, "--max-lost", "1", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "left out, box outside picture: 1" in err
    [boxed] = layout.read(tmp_path / "data/boxes")
    assert boxed.id == focus[1].id
    assert boxed.targets == (((8, 8, 20, 20), (4, 4, 40, 40)),)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def parquet(*given):
    file = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*given]), file)
    return file.getvalue().to_pybytes()


@pytest.mark.seconds
def test_the_other_public_sets_by_their_names(hub, tmp_path):
    """Their pictures are links in the Hub's cache, and one set has them in an archive."""
    eyes = {
        "prompt": [{"role": "user", "content": "<image>"}], "data_source": "vstar",
        "images": [{"bytes": jpeg(1), "path": None}], "reward_model": {"ground_truth": "red"},
        "extra_info": {"question": "Which colour?"},
    }  # fmt: skip
    probe = {"images": ["images/one.jpg"], "problem": "<image>What is it?", "solution": "Bakery",
             "data_source": "train"}  # fmt: skip
    reasoner = {"question": "<image>Which?", "answer": [r"\boxed{B}"], "image": ["images/a.jpg"],
                "is_video": False, "qid": "q"}  # fmt: skip
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("images/a.jpg", jpeg(3))
    sets = {
        "ChenShawn/DeepEyes-Datasets-47k": {f"{n}.parquet": parquet(eyes) for n in "abc"},
        "Mini-o3/VisualProbe_train": {
            "train.json": json.dumps([probe]).encode(), "images/one.jpg": jpeg(2),
        },
        "TIGER-Lab/PixelReasoner-RL-Data": {
            "train.parquet": parquet(reasoner), "images.zip": archive.getvalue(),
        },
    }  # fmt: skip
    hub.repos |= {("dataset", name): Repo(files) for name, files in sets.items()}
    code, out, err = typed(hub, tmp_path, "gather", *sets, "data/focus")
    assert code == 0, err
    assert "wrote data/focus: 5 records, 0 left out" in out
    focus = [*layout.read(tmp_path / "data/focus")]
    assert [record.answer for record in focus] == ["red"] * 3 + ["Bakery", "B"]
    assert all(Path(record.picture.path).stat().st_size for record in focus)


BENCHMARKS = """
import sys
from pathlib import Path
from lfpc_jax.evaluation.benchmark import open_benchmark
for name in sys.argv[1:]:
    one = open_benchmark(Path(name), pictures=Path("pictures"), seed=0)
    print(one.name, one.kind, len(one.records))
"""


@pytest.mark.seconds
def test_benchmarks_by_their_names(hub, tmp_path):
    rows = benchmark_files.rows()
    table = benchmark_files.write_tsv(tmp_path / "hr_bench_4k.tsv", rows).read_bytes()
    tables = {"hr_bench_4k.tsv": table, "hr_bench_8k.tsv": table}
    hub.repos["dataset", "DreamMr/HR-Bench"] = Repo(tables)
    v_star = contents(benchmark_files.v_star_folder(tmp_path / "v_star"))
    hub.repos["dataset", "craigwu/vstar_bench"] = Repo(v_star)
    names = ("DreamMr/HR-Bench/hr_bench_8k.tsv", "craigwu/vstar_bench")
    process = started(hub, tmp_path / "home", "-c", BENCHMARKS, *names, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.splitlines() == ["hr_bench_8k hr_bench 8", "vstar_bench v_star 5"]
    assert not any("hr_bench_4k.tsv" in path for _, path, _ in hub.asked if "resolve" in path)


def typed(hub, folder, *words, **more):
    process = started(hub, folder / "home", "-m", "lfpc_jax", *words, cwd=folder, **more)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture
def small_model(hub):
    """The small world's model, as somebody's on the Hub."""
    files = {path.name: path.read_bytes() for path in WARM.iterdir()}
    repo = hub.repos["model", "somebody/micro"] = Repo(files | {"model.bin": b"other format"})
    repo.tags = ("v1",)
    return repo


@pytest.mark.slow
def test_a_model_is_taken_by_its_name_wherever_a_folder_is(hub, small_model, tmp_path):
    code, _, err = typed(hub, tmp_path, "convert", "to-orbax", "somebody/micro", "out",
                         "--revision", "v1")  # fmt: skip
    assert code == 0, err
    assert "fetching model somebody/micro@v1 from " in err
    assert not any("model.bin" in path for _, path, _ in hub.asked if "resolve" in path)
    PIL.Image.fromarray(np.full((224, 224, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    asked = ("ask", "--image", "grey.png", "--question", "Which colour?", "--model")
    code, here, err = typed(hub, tmp_path, *asked, str(WARM))
    assert code == 0, err
    there = ("somebody/micro", "--revision", "v1")  # main was never fetched
    code, there, err = typed(hub, tmp_path, *asked, *there, HF_HUB_OFFLINE="1")
    assert code == 0, err
    assert there == here


@pytest.mark.slow
def test_a_dry_run_and_a_plan_fetch_nothing(hub, small_model, tmp_path):
    hub.repos["dataset", "somebody/scenes"] = Repo({"meta.json": b"{}"})
    words = ("train", "--config", "stage1.py:3b", "--data.train", "think_lite:somebody/scenes",
             "--data.validation", "somebody/scenes", "--dry-run")  # fmt: skip
    code, out, err = typed(hub, tmp_path, *words, COLUMNS="200")
    assert code == 0, err
    assert out.count("still on the Hub") == 2
    assert "Qwen2.5-VL-3B-Instruct is not here: planned with the published model" in out
    words = ("plan", "--config", "stage1.py:micro", "--topology", "cpu:1", "--program", "none")
    code, out, err = typed(hub, tmp_path, *words, "--model.path", "somebody/micro")
    assert code == 1
    assert "model.path somebody/micro is not here, and its name says no size to plan with" in err
    assert not hub.asked


def test_help_asks_nobody(hub, tmp_path):
    process = started(hub, tmp_path / "home", "-m", "lfpc_jax", "gather", "--help", cwd=tmp_path)
    assert process.communicate(timeout=60)[0].startswith("usage: lfpc gather")
    assert not hub.asked
    assert not (tmp_path / "home").exists()
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # the tests' own process
