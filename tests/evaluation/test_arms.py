"""Arms of a comparison, by models whose figures are known: one reads crops, one the whole image."""

import json
import math
import shutil
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from lfpc_jax.cli import compare
from lfpc_jax.data.hr_bench import DATASET
from lfpc_jax.evaluation import comparable
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.arms import MEASURES, Arm, Change, Comparison
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.diagnostics import diagnose
from lfpc_jax.evaluation.intervals import Z
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.measures import measure
from lfpc_jax.evaluation.run import ask
from lfpc_jax.evaluation.scoring import accuracies, paired
from lfpc_jax.trajectory import Picture
from support import rigged, small
from support.played import IMAGE, Said, episode, record

COUNT = 40


def evaluated(folder, say, records, seed=0):
    engine = rigged.RiggedEngine(say, small.dialogue())
    benchmark = Benchmark("set", "layout", tuple(records), ())
    journal = Journal(folder)
    about = {"questions": len(records), "digest": benchmark.digest, "column": None}
    token = engine.dialogue.tokenizer.image_pad
    journal.begin({"rollouts": 1, "image_token": token}, {"set": about})
    ask(lambda: engine, benchmark, 32, ("tool", "noise"), journal, rollouts=1, seed=seed)
    return folder


def test_arms_that_were_asked_otherwise_are_said(tmp_path):
    common = {"rollouts": 1, "convention": "percent", "max_turns": 5}
    for name, more in ("a", {"crop_tokens": 12}), ("b", {"crop_tokens": 1024}), ("c", {}), (
        "d", {"dtype": "bfloat16"}), ("e", {"dtype": "float32"}):  # fmt: skip
        Journal(tmp_path / name).begin(common | more, {})
    arms = [Arm("warm", (tmp_path / "a", tmp_path / "c")), Arm("stage1", (tmp_path / "b",))]
    assert [*comparable.asked_otherwise(arms)] == [
        "the arms were asked with another crop_tokens: 12 (warm); 1024 (stage1)"
    ]
    assert [*comparable.asked_otherwise(arms[:1])] == []
    [line] = comparable.asked_otherwise([Arm(name, (tmp_path / name,)) for name in "de"])
    assert line == "the arms were asked with another dtype: bfloat16 (d); float32 (e)"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A reader of crops, one of the whole, and one that reads crops in half of the world."""
    base = tmp_path_factory.mktemp("arms")
    records = rigged.world(COUNT)

    def half(episode):
        odd = int(episode.opening.record.id[1:]) % 2
        return (rigged.reads_the_crop if odd else rigged.reads_the_whole)(episode)

    return {
        "crops": evaluated(base / "crops", rigged.reads_the_crop, records),
        "half": evaluated(base / "half", half, records),
        "whole": evaluated(base / "whole", rigged.reads_the_whole, records),
        "other": evaluated(base / "other", rigged.reads_the_whole, rigged.world(COUNT + 1)),
    }


def comparison(folders):
    arms = [
        Arm("whole", (folders["whole"],)),
        Arm("mixed", (folders["crops"], folders["half"])),
    ]
    return Comparison(arms, "set", 32)


@pytest.mark.seconds
def test_what_noise_takes_is_the_mean_of_the_seeds(folders):
    found = comparison(folders)
    assert found.measured("whole", "accuracy").estimate.value == 1
    assert found.measured("whole", "drop").estimate.value == 0
    drop = found.measured("mixed", "drop")
    crops, half = drop.seeds
    assert crops > 0.6  # guesses of four
    assert half == pytest.approx(crops / 2, abs=0.1)
    assert drop.estimate.value == pytest.approx((crops + half) / 2)
    assert drop.estimate.low < drop.estimate.value < drop.estimate.high
    assert drop.estimate.samples == COUNT  # questions, whatever number of seeds
    noise = found.measured("mixed", "noise").estimate.value
    assert noise == pytest.approx(
        found.measured("mixed", "accuracy").estimate.value - (crops + half) / 2
    )


def test_a_change_is_paired_by_question_and_seed(folders):
    found = comparison(folders)
    drop = found.changed(Change("drop", "whole", "mixed"))
    assert drop.seeds == found.measured("mixed", "drop").seeds  # the whole loses nothing
    assert drop.estimate.value == pytest.approx(fmean(drop.seeds))
    assert drop.estimate.low > 0
    back = found.changed(Change("drop", "mixed", "whole", times=3.0))
    assert back.estimate.value == pytest.approx(-3 * fmean(drop.seeds))
    assert back.estimate.low < back.estimate.value < back.estimate.high < 0
    same = found.changed(Change("accuracy", "whole", "whole"))
    assert same.estimate.value == 0
    assert same.estimate.low < 0 < same.estimate.high


@pytest.mark.seconds
def test_over_seeds_an_interval_is_for_other_seeds_as_well(folders):
    """The two seeds lose 0.7 and 0.35: other seeds may lose anything, or nothing."""
    arms = [
        Arm("whole", (folders["whole"],)),
        Arm("mixed", (folders["crops"], folders["half"])),
    ]
    asked = Change("drop", "whole", "mixed")
    over_questions = comparison(folders).changed(asked)
    over_seeds = Comparison(arms, "set", 32, over_seeds=True).changed(asked)
    assert over_seeds.estimate.value == pytest.approx(over_questions.estimate.value)
    assert over_seeds.seeds == over_questions.seeds
    assert over_questions.estimate.low > 0 > over_seeds.estimate.low
    # One seed says nothing of others.
    one = Comparison(arms[:1], "set", 32, over_seeds=True).measured("whole", "accuracy")
    assert one == comparison(folders).measured("whole", "accuracy")


@pytest.mark.seconds
def test_seeds_that_are_all_right_make_nothing_certain(folders):
    """The interval is then that over questions, as for a single seed."""
    arms = [Arm("whole", (folders["whole"],) * 3), Arm("again", (folders["whole"],) * 3)]
    over_seeds, over_questions = (
        Comparison(arms, "set", 32, over_seeds=over) for over in (True, False)
    )
    right = over_seeds.measured("whole", "accuracy")
    assert right.estimate.low < right.estimate.value == right.estimate.high == 1
    assert right == over_questions.measured("whole", "accuracy")
    same = over_seeds.changed(Change("accuracy", "whole", "again"))
    assert same.estimate.low < 0 < same.estimate.high
    assert same == over_questions.changed(Change("accuracy", "whole", "again"))


def answered(one, rights):
    """With a crop each, by three rollouts."""
    said = [episode(Said(2, box=(0, 0, 50, 50)), Said(1), name=one.id, rollout=i) for i in range(3)]
    measured = [measure(e, one, r, image_token=IMAGE) for e, r in zip(said, rights)]
    return Answered(one, ("A",) * 3, tuple(measured), (False,) * 3)


def arm(name, answers):
    """Of a benchmark's answers by condition, nothing on disk."""
    made = Arm(name, (rigged.Path(name),))
    made.__dict__["answers"] = ({Trial("set", 32, one): found for one, found in answers.items()},)
    return made


def test_one_seed_s_interval_is_the_evaluation_s_own():
    """On the four cycles of 30 HR-Bench samples, by three rollouts each: to the last digit."""
    records = [
        record(f"s{sample}@{cycle}", picture=Picture(f"{sample}.png"), dataset=DATASET)
        for sample in range(30)
        for cycle in range(4)
    ]
    rng = np.random.default_rng(0)

    def asked(share):
        return [answered(one, (rng.random(3) < share).astype(float)) for one in records]

    first, second = asked(0.4), {"tool": asked(0.7), "noise": asked(0.5)}
    found = Comparison([arm("first", {"tool": first}), arm("second", second)], "set", 32)
    outcomes = [[one.outcome for one in answers] for answers in (first, second["tool"])]
    expected = paired(*outcomes).change
    assert found.changed(Change("accuracy", "first", "second")).estimate == expected
    assert expected.samples == 30
    noise = next(one.found for one in diagnose(second) if one.test == "noise").change
    drop = found.measured("second", "drop").estimate
    assert (drop.value, drop.low, drop.high) == (-noise.value, -noise.high, -noise.low)
    accuracy = found.measured("second", "accuracy").estimate
    whole = accuracies(outcomes[1])["overall"]
    assert accuracy.samples == whole.samples == 30
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx(
        (whole.value, whole.low, whole.high)
    )


def test_intervals_of_multiples_and_of_drops_by_hand():
    """Of accuracies, three times A to B lies in -3..1: of 4 questions that are wrong in A and right
    in B, (4 - 3 + 1) / 6 and (4 + 9 + 1) / 6. Of what noise takes, A to B lies in -2..2."""
    records = [record(f"r{i}") for i in range(4)]

    def asked(*rights):
        return [answered(one, (right,) * 3) for one, right in zip(records, rights)]

    first = {"tool": asked(0.0, 0.0, 0.0, 0.0), "noise": asked(0.0, 0.0, 1.0, 1.0)}
    second = {"tool": asked(1.0, 1.0, 1.0, 1.0), "noise": asked(0.0, 0.0, 1.0, 1.0)}
    found = Comparison([arm("first", first), arm("second", second)], "set", 32)
    thrice = found.changed(Change("accuracy", "first", "second", times=3.0)).estimate
    half = Z * math.sqrt((14 / 6 - (1 / 3) ** 2) / 6)
    assert (thrice.value, thrice.low, thrice.high) == (1, pytest.approx(1 / 3 - half), 1)
    # drops of 0, 0, -1, -1 become 1, 1, 0, 0: all differ by 1
    drops = found.changed(Change("drop", "first", "second")).estimate
    half = Z * math.sqrt((12 / 6 - (4 / 6) ** 2) / 6)
    assert (drops.value, drops.low) == (1, pytest.approx(4 / 6 - half))
    assert drops.high == pytest.approx(4 / 6 + half)
    assert drops.high > 1  # to 2 it could be


def test_each_seed_s_change_is_paired_too():
    """Of areas, which only episodes with a crop have: the second arm crops in one question more."""
    records = [record("a"), record("b")]

    def cropped(one, side):
        said = [Said(2, box=(0, 0, side, side))] if side else []
        tried = episode(*said, Said(1), name=one.id)
        return Answered(one, ("A",), (measure(tried, one, 1.0, image_token=IMAGE),), (False,))

    first = {"tool": [cropped(one, side) for one, side in zip(records, (50, 0))]}
    second = {"tool": [cropped(one, side) for one, side in zip(records, (60, 100))]}
    found = Comparison([arm("first", first), arm("second", second)], "set", 32)
    area = found.changed(Change("area", "first", "second"))
    assert area.estimate.value == pytest.approx(0.36 - 0.25)
    assert area.seeds == pytest.approx((0.36 - 0.25,))


@pytest.mark.seconds
def test_seeds_that_have_no_counterpart_are_not_paired(folders):
    arms = [
        Arm("two", (folders["crops"], folders["half"])),
        Arm("three", (folders["whole"],) * 3),
        Arm("one", (folders["whole"],)),
    ]
    found = Comparison(arms, "set", 32)
    assert found.changed(Change("accuracy", "two", "three")).seeds == ()
    assert len(found.changed(Change("accuracy", "one", "two")).seeds) == 2


def test_other_questions_are_refused(folders):
    arms = [Arm("whole", (folders["whole"],)), Arm("other", (folders["other"],))]
    with pytest.raises(ValueError, match=r"not asked the same questions.*'other': \[41\]"):
        Comparison(arms, "set", 32)
    with pytest.raises(ValueError, match=r"no answers to set at 64 tokens.*set-32-tool"):
        Comparison(arms[:1], "set", 64)


@pytest.mark.long
def test_other_questions_by_the_same_names_are_refused(folders, tmp_path):
    """Ids of two worlds are alike; a picture's place or the order of options may differ."""

    def against(change):
        records = [change(one) for one in rigged.world(COUNT)]
        again = evaluated(tmp_path / change.__name__, rigged.reads_the_whole, records)
        return Comparison([Arm("a", (folders["whole"],)), Arm("b", (again,))], "set", 32)

    def turned(one):
        options = (*one.options[1:], one.options[0])
        right = options.index(one.options["ABCD".index(one.answer)])
        return replace(one, options=options, answer="ABCD"[right])

    def asks_else(one):
        return replace(one, question="Which is it?") if one.id == "w7" else one

    def elsewhere(one):
        return replace(one, targets=(((0.0, 0.0, 9.0, 9.0),),)) if one.id == "w8" else one

    def blurred(one):
        return replace(one, longest_side=200)

    against(turned)
    with pytest.raises(ValueError, match=r"record 'w7' is another question in .*asks_else"):
        against(asks_else)
    with pytest.raises(ValueError, match=r"record 'w8' is another question"):
        against(elsewhere)
    [note] = against(blurred).notes
    assert "40 of 40 images were downsampled otherwise" in note


def test_what_noise_changes_is_of_all_questions_or_of_none(folders, tmp_path):
    """Killed under noise: what is there would count as if it were all."""
    folder = tmp_path / "killed"
    shutil.copytree(folders["crops"], folder)
    part = folder / "trajectories" / "set-32-noise-p0.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:10]))
    with pytest.raises(
        ValueError, match=r"killed: of 40 questions 30 have no answer yet to set-32"
    ):
        Comparison([Arm("killed", (folder,))], "set", 32)
    part.unlink()
    found = Comparison([Arm("killed", (folder,))], "set", 32)
    assert found.measured("killed", "drop") is None
    assert found.measured("killed", "accuracy").estimate.value == 1


def test_questions_that_nobody_answered_are_said(folders, tmp_path, capsys):
    folder = tmp_path / "short"
    shutil.copytree(folders["whole"], folder)
    for part in (folder / "trajectories").glob("*.jsonl"):
        part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:30]))
    assert compare.main([str(tmp_path / "out"), "--arm", "short", str(folder)]) == 0
    said = "short: 30 of 40 questions of set at 32 tokens have an answer; the others count nowhere"
    assert said in " ".join(capsys.readouterr().out.split())  # a long path wraps the line
    assert said in (tmp_path / "out" / "comparison.md").read_text()


def test_a_question_that_was_not_judged_everywhere_counts_in_no_accuracy():
    """`c` in one seed, `d` under noise, `e` in neither arm."""
    first, second = (
        {"tool": [answered(record(name), (right,) * 3) for name, right in zip("abcde", rights)]}
        for rights in ((1.0, 0.0, None, 1.0, None), (1.0, 1.0, 1.0, 1.0, None))
    )
    second["noise"] = [answered(one.record, (0.0,) * 3) for one in second["tool"]]
    second["noise"][3] = answered(record("d"), (None,) * 3)
    found = Comparison([arm("first", first), arm("second", second)], "set", 32)
    for name, value in ("first", 0.5), ("second", 1.0):
        accuracy = found.measured(name, "accuracy").estimate
        assert (accuracy.value, accuracy.samples) == (value, 2)
        assert found.measured(name, "calls").estimate.samples == 5
    assert found.measured("second", "drop").estimate.samples == 2
    assert found.changed(Change("accuracy", "first", "second")).estimate.samples == 2
    [note] = found.notes
    assert "3 of 5 questions could not be judged in every evaluation, and count in no acc" in note


@pytest.mark.seconds
def test_command_writes_what_it_prints(folders, tmp_path, capsys):
    words = ["--arm", "whole", folders["whole"], "--arm", "mixed", folders["crops"],
             folders["half"], "--change", "drop", "3*whole", "mixed"]  # fmt: skip
    assert compare.main([str(tmp_path / "out"), *map(str, words)]) == 0
    found = json.loads((tmp_path / "out/comparison.json").read_text())["set-32"]
    assert set(found["arms"]) == {"whole", "mixed"}
    assert set(found["arms"]["mixed"]) == set(MEASURES)
    assert len(found["arms"]["mixed"]["iou"]["seeds"]) == 2
    [(name, change)] = found["changes"].items()
    assert name == "drop, 3 x whole to mixed"
    assert change["estimate"]["value"] > 0.4
    page = (tmp_path / "out/comparison.md").read_text()
    figure = f"{100 * change['estimate']['value']:+.1f} ["
    assert figure in page
    assert figure in capsys.readouterr().out
    assert "| whole | 100.0 [" in page


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arm", "one"], "one: no folder"),
        (["--arm", "one", "a", "--arm", "one", "b"], "twice"),
        (["--arm", "one", "a", "--change", "luck", "one", "one"], "luck: no such measure"),
        (["--arm", "one", "a", "--change", "iou", "one", "two"], "no arm ['two']"),
        (["--arm", "one", "a", "--change", "iou", "x*one", "one"], "'x' is no number"),
        (["--arm", "one", "a", "--change", "iou", "0*one", "one"], "must be positive"),
        (["--arm", "one", "a"], "is a an evaluation's folder?"),
    ],
)
def test_what_makes_no_sense_is_refused(words, says, tmp_path, capsys):
    assert compare.main([str(tmp_path / "out"), *words]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
