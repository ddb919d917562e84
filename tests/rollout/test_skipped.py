"""What is logged of records that could not be shown."""

import logging

import pytest

from lfpc_jax.rollout.skipped import PromptTooLong, SkippedLog


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("lfpc_jax"), "propagate", True)


def too_long(numbers):
    return [(f"r{n}", str(PromptTooLong(1000 + n, (512,)))) for n in numbers]


def test_a_cause_is_one_line_with_a_count(caplog):
    """A line a record and a validation was all that one saw of a run."""
    log = SkippedLog()
    log.tell([*too_long(range(80)), ("gone", "missing picture: 'a/b.png'")])
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("record 'r0' skipped: 1000 text tokens of a prompt are more than")
    assert "rollout.prompt_text (512,); a bucket of 1000 would hold them" in first
    assert first.endswith("(80 such records so far)")
    assert second == "record 'gone' skipped: missing picture: 'a/b.png'"


def test_the_same_records_are_not_told_again_and_others_when_they_have_doubled(caplog):
    log = SkippedLog()
    for _ in range(5):
        log.tell(too_long(range(4)))
    assert len(caplog.records) == 1
    for n in range(4, 64):
        log.tell(too_long([n]))
    counts = [record.getMessage().rpartition("(")[2].split()[0] for record in caplog.records]
    assert counts == ["4", "8", "16", "32", "64"]
