"""Whatever lies where a file is read: an error in one line or a counted loss, and never a hang."""

import os
import shutil
import signal
import socket
import zipfile
from pathlib import Path

import pytest

from lfpc_jax import regular
from lfpc_jax.data import canvas, hr_bench, layout, parquet, public, rows, v_star
from lfpc_jax.data.audit import audit
from lfpc_jax.data.journal import RecordJournal, about_of
from lfpc_jax.data.pictures import MOST_BYTES
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.evaluation import journal as answers
from lfpc_jax.jsonfile import read_object
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.remote.store import Store
from lfpc_jax.report.run import open_run
from lfpc_jax.report.writer import MetricsWriter
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.run.claim import held
from lfpc_jax.trajectory import Picture, Record
from support import small


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path)


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {"pipe": pipe, "device": device, "folder": Path.mkdir, "loop": loop, "socket": listening}


@pytest.fixture(params=KINDS)
def put(request):
    """Puts something that is no file at a path."""

    def at(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.unlink()
        KINDS[request.param](path)
        return path

    return at


@pytest.fixture(autouse=True)
def _in_seconds():
    def late(*_):
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def layout_set(folder: Path, table: layout.Table = "jsonl") -> Path:
    layout.write(folder, [small.record(0)], table=table)
    return folder


def test_what_is_no_regular_file_is_named(tmp_path, put):
    path = put(tmp_path / "x")
    for read in regular.opened, regular.check, regular.contents, lambda p: list(regular.lines(p)):
        with pytest.raises((ValueError, OSError)) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert not isinstance(caught.value, TimeoutError)


def test_bounds_are_named_with_the_file(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"sparse: over 1000 bytes"):
        regular.contents(path, 1000)
    with pytest.raises(ValueError, match=r"sparse, line 1: over 1000 bytes"):
        list(regular.lines(path, 1000))
    path.write_bytes(b"one\n\ntwo")
    assert list(regular.lines(path)) == [b"one\n", b"\n", b"two"]
    assert regular.contents(path) == b"one\n\ntwo"


READERS = {
    "json": ("x.json", read_object),
    "json list": ("x.json", rows.json_list),
    "parquet": ("x.parquet", parquet.names),
    "list of V*": ("x.jsonl", lambda path: list(v_star.read_list(path))),
    "HR-Bench": ("x.tsv", lambda path: list(hr_bench._tsv(path))),
    "photograph": ("x.jpg", canvas._opened.__wrapped__),
    "archive": ("x.jsonl", lambda path: list(Archive(path.parent).read("x"))),
    "count of an archive": ("x.jsonl", lambda path: Archive(path.parent).count("x")),
    "journal": ("x.jsonl", lambda path: about_of(path)),
    "journal resumed": ("x.jsonl", lambda path: RecordJournal(path, {}, "k", 1, dict).resume([])),
    "evaluation": ("evaluation.json", lambda path: answers.Journal(path.parent).settings()),
    "tokenizer": ("vocab.json", lambda path: Tokenizer.from_folder(path.parent)),
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_say_so_in_one_line(tmp_path, put, reader, request):
    name, read = READERS[reader]
    path = put(tmp_path / name)
    if request.node.callspec.params["put"] == "loop" and "journal" in reader:
        pytest.skip("a link to itself is no file to begin with, and the journal begins anew")
    with pytest.raises((ValueError, OSError)) as caught:
        read(path)
    assert not isinstance(caught.value, TimeoutError)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["meta.json", "records.jsonl"])
def test_so_does_a_set(tmp_path, put, name):
    put(layout_set(tmp_path / "set") / name)
    with pytest.raises((ValueError, OSError)) as caught:
        list(layout.read(tmp_path / "set"))
    assert not isinstance(caught.value, TimeoutError)
    assert name in str(caught.value)


def test_and_a_table(tmp_path, put):
    put(layout_set(tmp_path / "set", "parquet") / "records.parquet")
    with pytest.raises((ValueError, OSError)) as caught:
        list(layout.read(tmp_path / "set"))
    assert not isinstance(caught.value, TimeoutError)


def test_a_picture_is_a_counted_loss(tmp_path, put):
    path = put(tmp_path / "picture.png")
    record = Record("r", "Which?", "A", Picture(path=str(path)), ("a", "b"))
    _, rejected = layout.write(tmp_path / "set", [record, small.record(0)], max_share=1.0)
    assert [entry.reason for entry in rejected] == ["missing picture"]
    sound = audit([record, small.record(0)], name="set", max_share=1.0)
    assert [entry.reason for entry in sound.rejected] == ["missing picture"]


def test_archives_of_pictures_are_regular_and_their_pictures_bounded(tmp_path, put, monkeypatch):
    put(tmp_path / "images.zip")
    with pytest.raises((ValueError, OSError)) as caught, public._opened(tmp_path / "images.zip"):
        raise ValueError("images.zip: no archive")  # a link to itself counts as none
    assert "images.zip" in str(caught.value)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2000))
    assert MOST_BYTES >= 1 << 30
    monkeypatch.setattr(public.pictures, "MOST_BYTES", 1000)
    with (
        public._opened(tmp_path / "bomb.zip") as archive,
        pytest.raises(Unusable, match=r"a\.png: 2000 bytes"),
    ):
        public._file_or_member("a.png", tmp_path, archive)


def test_a_report_shows_the_rest(tmp_path, put):
    run = tmp_path / "run"
    for name in ("metrics.jsonl", "config.json", "trajectories/step-1.jsonl"):
        put(run / name)
    opened = open_run(run, None)
    assert list(opened.groups("*", 10)) == []
    named = " ".join(str(problem) for problem in opened.problems)
    assert "metrics.jsonl" in named
    assert "config.json" in named


def test_a_run_is_not_claimed_or_resumed_over_what_is_no_file(tmp_path, put, request):
    put(tmp_path / "run" / "lock" / "x.json")
    with pytest.raises((ValueError, OSError)) as caught, held(tmp_path / "run"):
        pass
    assert not isinstance(caught.value, TimeoutError)
    if request.node.callspec.params["put"] != "loop":
        put(tmp_path / "metrics.jsonl")
        with pytest.raises((ValueError, OSError)) as caught:
            MetricsWriter(tmp_path)
        assert not isinstance(caught.value, TimeoutError)


def test_a_store_of_verdicts_does_not_wait(tmp_path, put):
    path = put(tmp_path / "x.jsonl")
    if path.is_dir() or (path.is_symlink() and not path.exists()):
        with pytest.raises(OSError, match=r"x\.jsonl"):
            Store(tmp_path, "same", bool)
    else:  # nothing that has a length can be read of it
        assert Store(tmp_path, "same", bool).get("key") is None


def test_a_file_beside_a_tokenizer_is_not_waited_for(tmp_path, put):
    """Transformers opens files that this package does not name."""
    folder = tmp_path / "model"
    shutil.copytree(small.folder(), folder)
    path = put(folder / "added_tokens.json")
    if path.is_dir() or not path.exists():
        return
    with pytest.raises(ValueError, match=r"added_tokens\.json"):
        Tokenizer.from_folder(folder)


def test_rejected_rows_keep_their_name(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\xff\n')
    read = list(v_star.read_list(tmp_path / "x.jsonl"))
    assert [type(entry) for entry in read] == [Rejected, Rejected]
