"""Pictures as they are found: damaged in every format that Pillow reads, or no files at all."""

import io
import os
import random
import signal

import PIL.Image
import pytest

from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.report.album import Album
from lfpc_jax.trajectory import Picture
from support.formats import encoded

PIL.Image.init()


FILES = {name: encoded(name) for name in sorted(PIL.Image.OPEN)}
UNREADABLE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Pillow knows these by their heads alone, or (EPS) calls a program that may not be there."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    match rng.randrange(4):
        case 0:
            del changed[rng.randrange(len(changed)) :]
        case 1:
            for _ in range(rng.randrange(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        case 2:  # the head, where sizes and kinds stand
            for _ in range(rng.randrange(1, 4)):
                changed[rng.randrange(min(64, len(changed)))] = rng.choice((0, 1, 127, 128, 255))
        case _:
            start = rng.randrange(len(changed))
            changed[start : start + rng.randrange(1, 32)] = rng.randbytes(rng.randrange(64))
    return bytes(changed)


def outcomes(name: str, count: int) -> set[str]:
    """What became of damaged files: `read`, or why they were refused. All else is raised."""
    rng = random.Random(name)
    seen = set()
    for _ in range(count):
        picture = Picture(data=damaged(FILES[name], rng))
        for read in (pictures.original, pictures.measured, pictures.size):
            try:
                read(picture)
            except Unusable as unusable:
                seen.add(unusable.reason)
            else:
                seen.add("read")
    return seen


@pytest.mark.parametrize("name", sorted(FILES.keys() - UNREADABLE))
def test_what_is_damaged_below_is_a_sound_picture_before(name):
    assert PIL.Image.open(io.BytesIO(FILES[name])).format.upper() == name
    size = {"ICNS": (1024, 1024), "ICO": (48, 36), "PCD": (768, 512)}.get(name, (64, 48))
    assert pictures.original(Picture(data=FILES[name])).size == size


def test_the_usual_formats_are_among_them():
    assert {"PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "DDS"} <= FILES.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["AVIF", "DDS", "JPEG", "PNG", "TIFF", "WEBP"])
def test_damaged_files_are_read_or_refused(name):
    assert outcomes(name, 100) <= {"read", "unreadable picture", "too narrow"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_many_damaged_files_of_every_format_are_read_or_refused(name):
    assert outcomes(name, 2000) <= {"read", "unreadable picture", "too narrow"}


@pytest.fixture
def no_hang():
    """Interrupts a read that does not end."""

    def interrupt(signum, frame):
        raise TimeoutError("still reading after 10 s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READS = [pictures.original, pictures.measured, pictures.size, pictures.contents]


@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("path", ["/dev/zero", "a pipe", "a folder", "nowhere.png", "a\0b"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, no_hang, read, path):
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(Unusable) as refused:
        read(Picture(str(tmp_path / path)))
    assert refused.value.reason == "missing picture"


@pytest.mark.parametrize("read", READS[:3], ids=lambda read: read.__name__)
def test_a_picture_without_pixels_is_refused(read):
    """Pillow opens whatever begins like BUFR or HDF5, and tells no size."""
    empty = b"BUFR" + bytes(60)
    assert PIL.Image.open(io.BytesIO(empty)).size == (0, 0)
    with pytest.raises(Unusable, match=r"unreadable picture.*: 0x0 pixels"):
        read(Picture(data=empty))


def test_one_that_asks_for_more_memory_than_there_is_is_refused(monkeypatch):
    """A damaged PSD says of one of its parts that it has up to 4 GB."""

    def greedy(source):
        raise MemoryError

    monkeypatch.setattr(PIL.Image, "open", greedy)
    with pytest.raises(Unusable, match="unreadable picture"):
        pictures.size(Picture(data=FILES["PSD"]))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(Unusable, match="1073741825 bytes, and at most 1073741824 are read"):
        pictures.size(Picture(str(path)))
    with pytest.raises(Unusable, match="at most 1073741824 are read"):
        Album().open(Picture(str(path)), (1, 1))
