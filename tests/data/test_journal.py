"""A journal of records: cut at any byte it resumes to the same bytes."""

from dataclasses import dataclass

import pytest

from lfpc_jax.data.journal import RecordJournal, joined
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.trajectory import Picture, Record

RECORDS = [Record(f"r{i}", "?", "A", Picture()) for i in range(7)]


@dataclass(frozen=True)
class Length:
    id: str
    value: int


def journal(folder, **about):
    return RecordJournal(folder / "j.jsonl", about, "length", 1, lambda fields: Length(**fields))


def work(folder, together=1, reached=7):
    """The entries up to `reached`, and the records that were worked on."""
    kept, worked = journal(folder, size=3), []
    done = kept.resume(RECORDS, together=together)
    for first in range(len(done), reached, together):
        for record in RECORDS[first : min(first + together, reached)]:
            worked.append(record.id)
            lost = Rejected(record.id, "malformed row", "é\n")
            entry = lost if record.id == "r2" else Length(record.id, first)
            kept.add([entry])
            done.append(entry)
    return done, worked


@pytest.mark.seconds
@pytest.mark.parametrize("together", [1, 3])
def test_cut_at_any_byte_it_resumes_to_the_same_bytes(tmp_path, together):
    whole, _ = work(tmp_path / "whole", together)
    expected = (tmp_path / "whole" / "j.jsonl").read_bytes()
    (tmp_path / "cut").mkdir()
    for keep in range(len(expected) + 1):
        (tmp_path / "cut" / "j.jsonl").write_bytes(expected[:keep])
        journal(tmp_path / "cut", size=3).check()
        done, worked = work(tmp_path / "cut", together)
        assert done == whole
        assert (tmp_path / "cut" / "j.jsonl").read_bytes() == expected
        lines = max(expected[:keep].count(b"\n") - 1, 0)
        reached = 7 if lines == 7 else lines // together * together
        assert worked == [record.id for record in RECORDS[reached:]]


def test_records_that_belong_together_are_worked_on_together_again(tmp_path):
    """The seventh is alone: whoever stopped behind it stopped behind all."""
    work(tmp_path, together=3, reached=5)
    assert work(tmp_path, together=3)[1] == ["r3", "r4", "r5", "r6"]
    assert work(tmp_path, together=3)[1] == []


def test_another_beginning_or_order_is_refused_by_name(tmp_path):
    work(tmp_path, reached=2)
    with pytest.raises(
        ValueError, match=r"another more \(was None, now 1\), size \(was 3, now 4\)"
    ):
        journal(tmp_path, size=4, more=1).check()
    with pytest.raises(ValueError, match="continues with record 'r0' where the set has 'r1'"):
        journal(tmp_path, size=3).resume(RECORDS[1:])
    with pytest.raises(ValueError, match="continues with record 'r1' where the set has None"):
        journal(tmp_path, size=3).resume(RECORDS[:1])
    later = RecordJournal(tmp_path / "j.jsonl", {"size": 3}, "length", 2, lambda fields: fields)
    with pytest.raises(ValueError, match=r"earlier version \(format 1, now 2\).*remove the journ"):
        later.check()
    journal(tmp_path, size=3).check()
    journal(tmp_path / "none", size=3).check()


def test_shares_are_joined_in_the_order_of_the_set():
    for together in (1, 2, 3):
        for processes in (1, 2, 3):
            chunks = [list(range(7))[first : first + together] for first in range(0, 7, together)]
            shares = [
                [entry for chunk in chunks[process::processes] for entry in chunk]
                for process in range(processes)
            ]
            assert joined(shares, together) == list(range(7))
