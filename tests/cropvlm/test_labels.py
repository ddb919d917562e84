"""Labels: a rigged target's best box is found, ties are said, everything is kept, bad records are
named, and what the labels came to is counted as by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.cropvlm.grid import cells, in_pixels, widened
from lfpc_jax.cropvlm.labelled import doubts, labels_of, report_of, write_labelled
from lfpc_jax.cropvlm.labels import (
    Label,
    Measured,
    Measuring,
    Rule,
    in_chunks,
    label_of,
    labels_of_target_boxes,
    measured_in,
)
from lfpc_jax.cropvlm.target import Likelihood
from lfpc_jax.data import layout
from lfpc_jax.data.rejected import Rejected, TooManyLost
from lfpc_jax.processing.geometry import Box
from lfpc_jax.rollout.engine import LogitsNotFinite
from lfpc_jax.trajectory import Picture
from support import rigged_labels
from support.rigged_labels import CELLS, GRID, SIZE, RiggedTarget, best_of

EXACT = Rule(noise=0.0)
ABOUT = {"records": "digest", "target": {"weights": "one"}}


def measure(records, folder, target=None, *, process=0, processes=1, max_lost=0.02, **settings):
    """The command's loop."""
    settings = {"grid": GRID, "chunk": 3} | settings
    measuring = Measuring(target or RiggedTarget(), ABOUT, **settings)
    journal = measuring.journal(folder, process, processes)
    chunks = in_chunks(records, measuring.chunk)[process::processes]
    share = [record for chunk in chunks for record in chunk]
    done = journal.resume(share, together=measuring.chunk)
    for _ in measuring.measure(share, done, journal, name="set", max_lost=max_lost):
        pass
    return measured_in(folder, records, "digest")[1] if processes == 1 else None


@pytest.fixture
def records(tmp_path):
    return rigged_labels.records(8, tmp_path / "pictures")


def test_the_rigged_best_box_is_found_and_all_likelihoods_are_kept(records, tmp_path):
    target = RiggedTarget()
    made = measure(records, tmp_path, target)
    assert target.asked == 8 * 37
    for record, one in zip(records, made, strict=True):
        assert (one.id, one.size, one.without) == (record.id, SIZE, -100.0)
        best = in_pixels(CELLS[best_of(record)], GRID, SIZE)
        expected = [target.like(record, best, in_pixels(cell, GRID, SIZE)) for cell in CELLS]
        assert one.likelihoods.tolist() == np.float32(expected).tolist()
        label = label_of(one, GRID, EXACT)
        assert label.best == label.box == best
        assert (label.ties, label.likelihood) == (1, -0.25)
        assert label.whole == pytest.approx(target.like(record, best, Box(0, 0, 200, 100)))
    assert len({best_of(record) for record in records}) == 8


def test_ties_are_said_and_the_smallest_or_the_largest_is_taken():
    """A grid of two: its boxes in order have 1, 2, 1, 2, 4, 2, 1, 2 and 1 cells."""
    values = [-3.0, -1.0, -3.0, -1.0, -1.0, -2.0, -1.00005, -3.0, -1.0]

    def label(**rule):
        measured = Measured.of("r", (40, 20), values, None)
        return label_of(measured, 2, Rule(noise=0.0, **rule))

    made = label()
    assert (made.ties, made.best) == (5, (0, 10, 20, 20))  # the seventh, of one cell; the first
    assert made.likelihood == pytest.approx(-1.00005)
    exactly = label(within=0.0)
    assert (exactly.ties, exactly.best) == (4, (20, 10, 40, 20))  # the ninth
    assert label(within=1.0).ties == 6
    largest = label(ties="largest")
    assert (largest.ties, largest.best) == (5, (0, 0, 40, 20))
    assert largest.without is None


def test_a_rule_cannot_be_negative():
    with pytest.raises(ValueError, match="must not be negative"):
        Rule(noise=-1.0)
    with pytest.raises(ValueError, match="both must be at least 1"):
        Measuring(RiggedTarget(), {}, chunk=0)


def test_another_grid_than_was_measured_is_refused():
    with pytest.raises(ValueError, match="9 likelihoods for the 36 boxes of a grid of 3 x 3"):
        label_of(Measured.of("r", (9, 9), [0.0] * 9, None), 3, Rule())


def test_noise_is_that_of_the_grid(records, tmp_path):
    """One cell at most, from seed and record."""
    (one,) = measure(records[:1], tmp_path)
    for seed in (0, 1):
        label = label_of(one, GRID, Rule(seed=seed))
        assert label.best == (0, 0, 200 / 3, 100 / 3)
        assert label.box == widened(Box(*label.best), SIZE, 1 / 3, seed=seed, record="r0")
    half = label_of(one, GRID, Rule(noise=0.5))
    assert half.box == widened(Box(*half.best), SIZE, 1 / 6, seed=0, record="r0")


def test_a_target_that_always_sees_a_crop_is_not_asked_without_one(records, tmp_path):
    target = RiggedTarget()
    (one,) = measure(records[:1], tmp_path, target, shows_nothing=False)
    assert target.asked == 36
    assert one.without is None
    assert label_of(one, GRID, EXACT).best == (0, 0, 200 / 3, 100 / 3)


def test_bad_records_are_left_out_with_their_reasons_and_cost_no_others(records, tmp_path):
    gone = replace(records[3], id="r3", picture=Picture(path=str(tmp_path / "gone.png")))
    text = replace(records[6], picture=Picture())
    given = [*records[:3], gone, records[4], records[5], text, records[7]]

    class Sometimes(RiggedTarget):
        def like(self, record, best, box):
            return float("nan") if record.id == "r7" else super().like(record, best, box)

    target = Sometimes(unusable=("r5",))
    made = measure(given, tmp_path, target, max_lost=0.5)
    lost = {place: one for place, one in enumerate(made) if isinstance(one, Rejected)}
    assert {place: one.reason for place, one in lost.items()} == {
        3: "missing picture", 5: "unreadable picture", 6: "nothing to crop", 7: "cannot be asked"
    }  # fmt: skip
    assert "its last rows are missing" in lost[5].detail
    assert "nan" in lost[7].detail
    expected = [measure(records[:5], tmp_path / "sound")[place] for place in (0, 1, 2, 4)]
    assert [made[place] for place in (0, 1, 2, 4)] == expected
    with pytest.raises(TooManyLost, match="set: 2 of 8 records cannot be used"):
        measure(given, tmp_path / "strict", target)  # at the second chunk, not at the end: no nan


def test_a_target_that_is_broken_is_no_question_s_fault(records, tmp_path):
    class Broken(RiggedTarget):
        def like(self, record, best, box):
            raise LogitsNotFinite("record 'r0', box None: nan")

    with pytest.raises(LogitsNotFinite, match="box None: nan"):
        measure(records, tmp_path, Broken(), max_lost=1.0)


def test_cut_anywhere_a_journal_resumes_to_the_same_bytes_with_whole_chunks(records, tmp_path):
    class Neighbours(RiggedTarget):
        """Its values depend on what is asked together."""

        def likelihoods(self, questions):
            for values in super().likelihoods(questions):
                yield tuple(Likelihood(value.total - 1e-6 * len(questions)) for value in values)

    whole = measure(records, tmp_path / "whole", Neighbours())
    expected = (tmp_path / "whole" / "journal-0.jsonl").read_bytes()
    ends = [place for place, byte in enumerate(expected) if byte == 10]
    (tmp_path / "cut").mkdir()
    for keep in (5, ends[0] + 1, ends[1] + 7, ends[2] + 1, ends[4], ends[7] + 9, len(expected)):
        (tmp_path / "cut" / "journal-0.jsonl").write_bytes(expected[:keep])
        target = Neighbours()
        assert measure(records, tmp_path / "cut", target) == whole
        assert (tmp_path / "cut" / "journal-0.jsonl").read_bytes() == expected
        lines = max(expected[:keep].count(b"\n") - 1, 0)
        assert target.asked == 37 * (0 if lines == 8 else 8 - lines // 3 * 3)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_measure_what_one_does(records, tmp_path, processes):
    alone = measure(records, tmp_path / "alone")
    for process in range(processes):
        measure(records, tmp_path / "many", process=process, processes=processes)
    about, together = measured_in(tmp_path / "many", records, "digest")
    assert together == alone
    assert about == ABOUT | {"grid": GRID, "chunk": 3, "processes": processes}


def test_unfinished_likelihoods_and_those_of_another_set_are_refused(records, tmp_path):
    measure(records[:5], tmp_path)
    with pytest.raises(ValueError, match=r"of other records than these \(digest, now other\)"):
        measured_in(tmp_path, records, "other")
    with pytest.raises(ValueError, match=r"has 5 of 8 records; rerun the command that writes it"):
        measured_in(tmp_path, records, "digest")
    with pytest.raises(ValueError, match="missing, or not the beginning of a journal"):
        measured_in(tmp_path / "none", records, "digest")


def test_targets_become_labels_tight_or_expanded(records):
    """Of r0 and r4 each box covers 2 % of its picture: times 45 would be more than its height."""
    two = replace(
        records[1], targets=(((10.0, 10.0, 20.0, 20.0), (0.0, 0.0, 50.0, 50.0)),
                             ((30.0, 5.0, 40.0, 15.0),))
    )  # fmt: skip
    given = [records[0], two, records[2], records[4], replace(records[5], picture=Picture())]
    tight = labels_of_target_boxes(given, "truth", 5, EXACT)
    boxes = [label.box if isinstance(label, Label) else label.reason for label in tight]
    truth = (70, 40, 90, 60)
    assert boxes == [truth, (10, 5, 40, 20), "no target", truth, "nothing to crop"]
    outside = labels_of_target_boxes(given, "outside", 5, EXACT)
    side = 20 * 45**0.5
    assert outside[0].best == truth
    assert outside[0].box == pytest.approx((80 - side / 2, 0, 80 + side / 2, 100))
    # Two of three cover less: the fourth quintile, twice the area.
    wide, high = 30 * 2**0.5, 15 * 2**0.5
    assert outside[1].box == pytest.approx(
        (25 - wide / 2, 12.5 - high / 2, 25 + wide / 2, 12.5 + high / 2)
    )
    noisy = labels_of_target_boxes(given, "truth", 5, Rule(noise=1.0, seed=2))
    assert noisy[0].box == widened(Box(*truth), SIZE, 0.2, seed=2, record="r0")


def test_what_labels_came_to_is_counted_as_by_hand(records):
    """One label is the left half of its picture, the other the whole; targets are r0's and r4's."""
    left, whole = (0.0, 0.0, 100.0, 100.0), (0.0, 0.0, 200.0, 100.0)
    labels = [
        Label("r0", SIZE, left, left, 1, -1.0, -3.0, -4.0),
        Rejected("r1", "cannot be asked", "too long"),
        Label("r4", SIZE, (60.0, 40.0, 80.0, 60.0), whole, 4, -2.0, -2.0, -1.0),
    ]
    report = report_of(
        [records[0], records[1], records[4]], labels, [Rejected("x", "no target", "")]
    )
    assert report["records"] == 2
    assert report["lost"] == {"cannot be asked": 1, "no target": 1}
    assert report["size"]["label"]["mean"] == pytest.approx(0.75)
    assert report["size"]["best"]["mean"] == pytest.approx((0.5 + 0.02) / 2)
    assert report["size"]["label"]["histogram"] == [0] * 10 + [1] + [0] * 8 + [1]
    assert report["map"][0] == [1.0] * 10 + [0.5] * 10
    assert report["likelihood"] == -1.5
    assert report["gain"]["whole"]["mean"] == 1.0
    assert report["gain"]["whole"]["above_0"] == 0.5
    assert report["gain"]["without"]["mean"] == 1.0  # 3 and -1
    assert sum(report["gain"]["without"]["histogram"]["counts"]) == 2
    assert report["ties"] == {"records": 1, "boxes": {"1": 1, "4": 1}}
    # The target (70, 40, 90, 60): whole in the left half, 10 of 20 pixels of it in the best box.
    assert report["targets"]["records"] == 2
    label = report["targets"]["label"]
    assert (label["recall"], label["full_recall"]) == (1.0, 1.0)
    assert label["iou"] == pytest.approx((400 / 10000 + 400 / 20000) / 2)
    best = report["targets"]["best"]
    assert (best["recall"], best["full_recall"]) == (0.75, 0.5)
    assert best["iou"] == pytest.approx((400 / 10000 + 200 / 600) / 2)
    json.dumps(report, allow_nan=False)


def test_the_set_keeps_everything_but_its_targets(records, tmp_path):
    box = (1.5, 2.0, 30.0, 40.25)
    labels = [Label(record.id, SIZE, box, box) for record in records[:2]]
    labels[1] = Rejected("r1", "cannot be asked", "too long")
    origin = {"labelled from": "set", "labels": {"boxes": "grid"}}
    count = write_labelled(tmp_path / "out", records[:2], labels, (), origin, 0.5)
    assert count == 1
    (read,) = layout.read(tmp_path / "out")
    assert read == replace(records[0], targets=((box,),))
    meta = layout.read_meta(tmp_path / "out")
    assert meta["about"] == origin
    assert meta["losses"] == ["r1: cannot be asked: too long"]


def doubtful(folder, **made):
    made = {"boxes": "grid", "target": {"weights": "a", "presentation": "both"}} | made
    folder.mkdir()
    meta = {"format": layout.FORMAT, "version": layout.VERSION, "about": {"labels": made}}
    meta |= {"records": "records.jsonl", "count": 0}
    (folder / "meta.json").write_text(json.dumps(meta))
    return str(folder)


def test_training_is_told_of_labels_that_do_not_suit_it(tmp_path):
    source = doubtful(tmp_path / "set")
    assert labels_of(f"layout:{source}")["boxes"] == "grid"
    same = {"weights": "a", "presentation": "both", "answer_tokens": 32}
    assert not list(doubts(source, proposes=True, target=same))
    assert not list(doubts(source, proposes=True, target=None))
    other = same | {"weights": "b", "presentation": "crop"}
    (line,) = doubts(source, proposes=True, target=other)
    assert "another weights (was a, now b), presentation (was both, now crop)" in line
    (line,) = doubts(source, proposes=False, target=None)
    assert "labels for a crop network ('grid')" in line
    truth = doubtful(tmp_path / "truth", boxes="truth", target=None)
    assert not list(doubts(truth, proposes=False, target=other))
    layout.write(tmp_path / "plain", [])
    assert labels_of(str(tmp_path / "plain")) is None
    assert not list(doubts(str(tmp_path / "plain"), proposes=False, target=other))


def test_the_grid_of_the_paper():
    assert len(cells(Measuring(RiggedTarget(), {}).grid)) == 225
