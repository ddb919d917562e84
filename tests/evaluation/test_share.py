"""Which questions a process asks."""

import itertools
import random
from dataclasses import replace

import pytest

from lfpc_jax.evaluation.benchmark import open_benchmark
from lfpc_jax.evaluation.share import dealt
from lfpc_jax.trajectory import Picture
from support import benchmark_files, small
from support.engines import engine, run


def about(numbers):
    """A question about each of these pictures."""
    return [
        small.record(place, picture=Picture(path=f"{number}.jpg"))
        for place, number in enumerate(numbers)
    ]


def test_questions_about_a_picture_each_are_dealt_in_turns():
    records = about(range(11))
    for processes in (1, 2, 3, 8):
        expected = [list(records[first::processes]) for first in range(processes)]
        assert dealt(records, processes) == expected


def test_every_question_is_asked_once_and_shares_are_even():
    rng = random.Random(0)
    for processes in (1, 2, 3, 8):
        pictures = [rng.randrange(12) for _ in range(97)] + [99] * 40
        records = [*about(pictures), small.record(500, picture=Picture())]
        rng.shuffle(records)
        shares = dealt(records, processes)
        asked = sorted(record.id for share in shares for record in share)
        assert asked == sorted(record.id for record in records)
        assert max(map(len, shares)) - min(map(len, shares)) <= 4


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_cycles_of_a_sample_are_asked_one_after_another_by_one_process(tmp_path, processes):
    """In whatever order the file has them."""
    rows = benchmark_files.rows(6)
    pictured = rows[::4]
    others = [row for row in rows if row not in pictured]
    for row in others:
        row[-1] = str(row[0] // 4 * 4)  # refers to the row that has the picture
    file = benchmark_files.write_tsv(tmp_path / "b.tsv", [*pictured, *others])
    records = open_benchmark(file, pictures=tmp_path / "pictures", seed=0, name="b").records
    assert len(records) == 24
    for share in dealt(records, processes):
        runs = [len([*of]) for _, of in itertools.groupby(share, lambda record: record.picture)]
        assert all(length % 4 == 0 for length in runs), "some samples have equal pictures"


@pytest.mark.compiles
def test_beginnings_are_computed_once_by_the_process_that_has_them():
    """Two processes with three samples of four cycles each, which the file has cycle by cycle."""
    pictures = [small.picture(40 * number, 90, 60) for number in range(6)]
    records = [
        small.record(6 * cycle + number, picture=picture, question="red " * cycle + "?")
        for cycle in range(4)
        for number, picture in enumerate(pictures)
    ]
    made = engine(replace(small.SHAPES, kept=2, prefill_rows=2, observation_text=8))
    calls = []
    timed = made.slots._timed
    made.slots._timed = lambda name, *args: calls.append(name) or timed(name, *args)
    made.rules = replace(made.rules, max_turns=1)
    for share in dealt(records, 2):
        made.load(small.params())
        calls.clear()
        assert len(run(made, share, 1)) == 12
        assert calls.count("prefill") == calls.count("encode") == 3
