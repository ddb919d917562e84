"""The stream: a mixture in fixed proportions, the same for any number of processes, resumable."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from lfpc_jax.data import layout
from lfpc_jax.data.audit import audit
from lfpc_jax.data.pipeline import MixedSet, Stream, in_turn
from lfpc_jax.data.rejected import TooManyLost, Unusable
from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.data.world import World
from lfpc_jax.trajectory import Picture, Record
from support.pictured import dialogue, jpeg, record


def part(name: str, count: int, weight: float = 1.0, **changes) -> MixedSet:
    records = [record(f"{name}{i}", picture=Picture()) for i in range(count)]
    return MixedSet(name, records, weight, **changes)


def name_of(entry: Record) -> str:
    return entry.id


def take(stream: Stream, batches: int) -> list[tuple]:
    taken = [next(stream) for _ in range(batches)]
    stream.close()
    return taken


def mixture(**changes) -> Stream[str]:
    settings = {"batch": 12, "seed": 5, "threads": 2} | changes
    return Stream([part("a", 130, 3.0), part("b", 70, 1.0)], name_of, **settings)


def test_every_epoch_has_every_record_once_in_another_order():
    stream = Stream([part("a", 120)], name_of, batch=12, seed=5)
    first, second = (sum((next(stream) for _ in range(10)), ()) for _ in range(2))
    stream.close()
    assert sorted(first) == sorted(second) == sorted(f"a{i}" for i in range(120))
    assert first != second
    assert take(Stream([part("a", 120)], name_of, batch=120, seed=6), 1) != [first]


@pytest.mark.parametrize(
    ("most", "wanted"),
    [(5, "a0 b0 c0 a1 b1"), (0, ""), (9, "a0 b0 c0 a1 b1 a2 a3 a4"), (2, "a0 b0")],
)
def test_no_set_hides_behind_a_larger_one(most, wanted):
    sets = [part(name, count).records for name, count in (("a", 5), ("b", 2), ("c", 1))]
    assert [one.id for one in in_turn(sets, most)] == wanted.split()


def test_weights_are_shares_of_what_is_drawn():
    """Also past the end of the smaller set, which begins anew."""
    drawn = Counter(name[0] for batch in take(mixture(), 50) for name in batch)
    assert drawn == {"a": 450, "b": 150}


@pytest.mark.parametrize("threads", [1, 4])
def test_a_restored_stream_continues_as_the_saved_one(threads):
    stream = mixture(threads=threads)
    before = [next(stream) for _ in range(7)]
    state = stream.get_state()
    expected = take(stream, 20)
    fresh = mixture()
    fresh.set_state(state)
    assert take(fresh, 20) == expected
    stream = mixture()
    stream.set_state(state)
    stream.set_state(json.dumps(json.loads(state) | {"taken": 0}).encode())
    assert take(stream, 27) == before + expected


@pytest.mark.seconds
@pytest.mark.parametrize("processes", [2, 3, 5, 12])
def test_processes_share_the_batches_of_one(processes):
    """Of 12 in a batch, 5 have 2 or 3 each. The state of any restores any number of them."""
    whole = take(mixture(), 9)
    streams = [mixture(process=p, processes=processes) for p in range(processes)]
    for expected in whole[:4]:
        assert sum((next(stream) for stream in streams), ()) == expected
    states = {stream.get_state() for stream in streams}
    assert len(states) == 1
    for stream in streams:
        stream.close()
    one = mixture()
    one.set_state(states.pop())
    assert take(one, 5) == whole[4:]


_PROCESS = """
import sys
from pathlib import Path
from lfpc_jax.data import layout
from lfpc_jax.data.audit import audit
from lfpc_jax.data.pipeline import MixedSet, Stream

records = audit(layout.read(Path(sys.argv[1])), name="set").records
stream = Stream(
    [MixedSet("set", records)], lambda r: r.id, batch=10, seed=1,
    process=int(sys.argv[2]), processes=2,
)
for _ in range(3):
    next(stream)
print(stream.get_state().hex())
for _ in range(6):
    print(*next(stream))
stream.close()
"""


@pytest.mark.seconds
def test_what_two_real_processes_saved_in_mid_epoch_resumes(tmp_path):
    layout.write(tmp_path / "set", [record(f"r{i}") for i in range(64)])
    command = [sys.executable, "-c", _PROCESS, str(tmp_path / "set")]
    runs = [
        subprocess.Popen([*command, str(process)], stdout=subprocess.PIPE, text=True)
        for process in range(2)
    ]
    outputs = [run.communicate(timeout=120)[0].splitlines() for run in runs]
    assert outputs[0][0] == outputs[1][0]
    records = audit(layout.read(tmp_path / "set"), name="set").records
    for process, (state, *lines) in enumerate(outputs):
        part = MixedSet("set", records)
        stream = Stream([part], name_of, batch=10, seed=1, process=process, processes=2)
        stream.set_state(bytes.fromhex(state))
        assert [tuple(line.split()) for line in lines] == take(stream, 6)


def test_a_state_of_another_stream_is_refused():
    state = mixture().get_state()
    for other in (mixture(seed=6), mixture(batch=24)):
        with pytest.raises(ValueError, match="restore it with the mixture, seed and batch"):
            other.set_state(state)
        other.close()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="batch of 12 for process 0 of 13"):
        mixture(processes=13)
    with pytest.raises(ValueError, match="process 2 of 2"):
        mixture(process=2, processes=2)
    with pytest.raises(ValueError, match=r"a: weight 1.0, 0 records"):
        Stream([part("a", 0)], name_of, batch=1, seed=0)
    for parts in ([], [part("a", 3), part("a", 4)]):
        with pytest.raises(ValueError, match="at least one set, and each another name"):
            Stream(parts, name_of, batch=1, seed=0)


def unless(bad: set[str], entry: Record) -> str:
    if entry.id in bad:
        raise Unusable("unreadable picture", "broken")
    return entry.id


def test_a_record_that_fails_is_counted_and_the_next_stands_in():
    sound = take(Stream([part("a", 100)], name_of, batch=10, seed=5), 20)
    bad = {"a3", "a4"}
    stream = Stream([part("a", 100)], partial(unless, bad), batch=10, seed=5)
    found = [next(stream) for _ in range(20)]
    instead = {"a3": "a5", "a4": "a5"}
    assert found == [tuple(instead.get(name, name) for name in batch) for batch in sound]
    assert sorted((loss.record, loss.reason) for loss in stream.rejected) == [
        ("a3", "unreadable picture"),
        ("a4", "unreadable picture"),
    ]
    stream.close()


def test_more_than_the_share_stops_with_the_list():
    bad = {f"a{i}" for i in range(6)}
    stream = Stream([part("a", 100, max_share=0.05)], partial(unless, bad), batch=10, seed=5)
    with pytest.raises(TooManyLost, match="a: 6 of 100") as caught:
        list(stream)
    assert {loss.record for loss in caught.value.rejected} == bad
    stream.close()


def test_pictures_that_break_after_the_audit_are_counted(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(70)]
    for i, path in enumerate(paths):
        path.write_bytes(jpeg(seed=i))
    entries = [record(f"r{i}", picture=Picture(path=str(path))) for i, path in enumerate(paths)]
    records = audit(entries, name="set", max_share=0.0).records
    paths[7].write_bytes(jpeg(seed=7)[:-500])
    paths[20].unlink()
    part = MixedSet("set", records, max_share=0.05)
    stream = Stream([part], dialogue(tmp_path / "assets", image_tokens=64).open, batch=10, seed=0)
    names = Counter(sample.record.id for batch in take(stream, 7) for sample in batch)
    assert (names["r7"], names["r8"], names["r20"], names["r21"]) == (0, 2, 0, 2)
    assert sorted((loss.record, loss.reason) for loss in stream.rejected) == [
        ("r20", "missing picture"),
        ("r7", "unreadable picture"),
    ]


def test_records_are_opened_in_threads_and_not_before_their_turn():
    opened = []

    def prepare(entry: Record) -> str:
        opened.append(threading.current_thread() is threading.main_thread())
        return entry.id

    stream = Stream([part("a", 100)], prepare, batch=10, seed=5, threads=2)
    assert not opened
    next(stream)
    stream.close()
    assert len(opened) <= 10 + 10
    assert not any(opened)


@pytest.mark.parametrize("batch", [2, 12])
def test_the_next_batch_is_prepared_while_this_one_is_used(batch):
    """As training leaves it: the stream is not asked again before the update is through."""
    make = partial(Stream, [part("a", 100)], batch=batch, seed=5, threads=2)
    _, following = take(make(lambda entry: entry.id), 2)
    awaited, whole = set(following), threading.Event()

    def prepare(entry: Record) -> str:
        awaited.discard(entry.id)
        if not awaited:
            whole.set()
        return entry.id

    stream = make(prepare)
    next(stream)
    assert whole.wait(60)
    stream.close()


def test_the_world_streams_as_a_set(tmp_path):
    settings = WorldSettings(size=(224, 224), objects=(2, 3), object_side=(36, 52))
    world = World(settings, 0, "train", 70)
    open_ = dialogue(tmp_path, image_tokens=64).open
    (batch,) = take(Stream([MixedSet("world", world)], open_, batch=4, seed=0), 1)
    assert [opening.view.shown.shape for opening in batch] == [(224, 224, 3)] * 4
    assert len({opening.record.id for opening in batch}) == 4


@pytest.mark.seconds
def test_memory_stays_flat_over_large_originals(tmp_path):
    """The short form of bench/data_stream.py: 4K originals, decoded one after the other."""
    settings = WorldSettings(size=(3840, 2160), object_side=(80, 160))
    path = tmp_path / "4k.jpg"
    path.write_bytes(World(settings, 0, "train", 1)[0].picture.data or b"")
    entries = [record(f"r{i}", picture=Picture(path=str(path))) for i in range(100)]
    open_ = dialogue(tmp_path / "assets", image_tokens=256).open
    stream = Stream([MixedSet("set", entries)], open_, batch=1, seed=0, threads=2)
    resident = []
    for _ in range(20):
        next(stream)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
    stream.close()
    original, in_flight = 3840 * 2160 * 3, 4 + 2 + 1  # read ahead, in the threads, taken
    assert max(resident[6:]) - resident[5] < in_flight * original < 14 * original
