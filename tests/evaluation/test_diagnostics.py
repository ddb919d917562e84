"""Models that are rigged to look in one way, and what the diagnostics say of them."""

import io
import json

import pytest

from lfpc_jax.data.hr_bench import DATASET
from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.conditions import CONDITIONS
from lfpc_jax.evaluation.diagnostics import answer_first, diagnose
from lfpc_jax.evaluation.intervals import share
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.measures import measure
from lfpc_jax.evaluation.plots import plot
from lfpc_jax.evaluation.results import encoded, timing
from lfpc_jax.evaluation.run import ask
from lfpc_jax.evaluation.sheet import printed
from lfpc_jax.evaluation.tables import sheets
from lfpc_jax.trajectory import Picture
from support import rigged, small
from support.played import IMAGE, Said, episode, record
from support.rigged import counted

COUNT = 60


@pytest.fixture(scope="module")
def records():
    return tuple(rigged.world(COUNT))


def evaluated(folder, say, records, conditions=CONDITIONS):
    engine = rigged.RiggedEngine(say, small.dialogue())
    benchmark = Benchmark("set", "layout", records, ())
    journal = Journal(folder)
    token = engine.dialogue.tokenizer.image_pad
    about = {"questions": len(records), "digest": benchmark.digest, "column": None}
    journal.begin({"rollouts": 1, "image_token": token}, {"set": about})
    ask(lambda: engine, benchmark, 32, conditions, journal, rollouts=1, seed=0)
    assert engine.dialogue.alter is None
    assert engine.dialogue.toolbox == small.TOOLBOX
    assert engine.rules.max_turns == 5
    found = counted(journal)
    return found, found["benchmarks"]["set"]["budgets"]["32"], engine


def by_test(budget):
    return {one["test"]: one["found"] for one in budget["diagnostics"]}


@pytest.mark.long
def test_who_reads_only_the_whole_loses_nothing(records, tmp_path):
    _, budget, _ = evaluated(tmp_path, rigged.reads_the_whole, records)
    assert budget["conditions"]["tool"]["accuracy"]["overall"]["value"] == 1.0
    found = by_test(budget)
    for name in ALTERATIONS:
        assert found[name]["questions"] == COUNT
        assert found[name]["change"]["value"] == 0
        assert -0.1 < found[name]["change"]["low"] < 0 < found[name]["change"]["high"] < 0.1
    assert found["tool over direct"]["change"]["value"] == 0
    assert found["noise, needed"] is None  # nothing that it could not do without
    assert found["truth, missed"]["change"]["value"] == 0
    assert found["truth, missed"]["questions"] > COUNT // 2
    assert budget["answer_first"]["share"]["value"] == 0


@pytest.mark.long
def test_who_reads_only_the_crop_falls_to_chance(records, tmp_path):
    """Chance is a quarter; 60 guesses have a standard error of 5.6 points."""
    _, budget, _ = evaluated(tmp_path, rigged.reads_the_crop, records)
    found = by_test(budget)
    assert budget["conditions"]["tool"]["accuracy"]["overall"]["value"] == 1.0
    for name in ("noise", "blank"):
        assert found[name]["before"] == 1.0
        assert 0.08 < found[name]["after"] < 0.42
        assert found[name]["change"]["high"] < -0.5
    assert found["truth"]["change"]["value"] == 0
    assert found["downsampled"]["after"] == 1.0  # so large a square is seen there too
    assert found["truth, missed"] is None
    gain = found["tool over direct"]
    assert 0.08 < gain["before"] < 0.42
    assert gain["after"] == 1.0
    needed = found["noise, needed"]
    assert needed["questions"] == COUNT - round(gain["before"] * COUNT)
    assert needed["before"] == 1.0
    assert needed["after"] < 0.5
    measured = budget["conditions"]["tool"]["measures"]
    assert measured["crop/overlap"] > 0.9
    assert measured["crop/rate"] == measured["end/answered"] == 1


@pytest.mark.seconds
def test_a_missed_target_is_what_the_true_box_mends(records, tmp_path):
    _, budget, _ = evaluated(tmp_path, rigged.misses_half, records, ("truth",))
    missed = by_test(budget)["truth, missed"]
    expected = sum(rigged.digest(record.id) % 2 for record in records)
    assert missed["questions"] == expected > 20
    assert missed["before"] < 0.5
    assert missed["after"] == 1.0
    assert missed["change"]["low"] > 0.4
    whole = by_test(budget)["truth"]
    assert whole["questions"] == COUNT
    assert whole["after"] == 1.0


CORNER, SQUARE = (0, 0, 20, 20), (40, 40, 60, 60)


def answered(name, *rollouts):
    """A question with one target; a rollout is whether it is right, and its crops."""
    one = record(name, targets=[[SQUARE]])
    said = [
        episode(*(Said(1, box=box) for box in boxes), Said(1), name=name, rollout=place)
        for place, (_, *boxes) in enumerate(rollouts)
    ]
    measured = tuple(
        measure(each, one, float(right), image_token=IMAGE)
        for each, (right, *_) in zip(said, rollouts)
    )
    return Answered(one, ("A",) * len(said), measured, (None,) * len(said))


def found_of(**conditions):
    return {one.test: one.found for one in diagnose(conditions)}


def test_a_target_that_an_earlier_crop_held_was_not_missed():
    """The first crop holds the target, the last does not."""
    tool = [
        answered("held", (True, SQUARE, CORNER)),
        answered("missed", (False, CORNER, CORNER)),
        answered("uncropped", (False,)),
    ]
    again = [answered(name, (True, SQUARE)) for name in ("held", "missed")]
    found = found_of(tool=tool, truth=again)
    assert found["truth"].questions == 3
    missed = found["truth, missed"]
    assert (missed.questions, missed.before, missed.after) == (1, 0, 1)


def test_noise_is_needed_only_where_there_was_a_crop():
    """`luck` is right with the tool at hand, which it never called: no noise can change that."""
    tool = [answered("crop", (True, SQUARE)), answered("luck", (True,))]
    direct = [answered("crop", (False,)), answered("luck", (False,))]
    noise = [answered("crop", (False, SQUARE))]
    needed = found_of(tool=tool, direct=direct, noise=noise)["noise, needed"]
    assert (needed.questions, needed.before, needed.after) == (1, 1, 0)


def test_of_several_rollouts_at_least_half_must_have_cropped():
    asked = {
        "half": [(True, CORNER), (True,)],
        "few": [(True, CORNER), (True,), (True,)],
        "held once": [(True, CORNER), (True, CORNER), (True, SQUARE)],
        "all": [(True, CORNER)] * 3,
    }
    tool = [answered(name, *rollouts) for name, rollouts in asked.items()]
    direct = [answered(name, (False,)) for name in asked]
    again = [answered(name, (False, CORNER)) for name in asked]
    found = found_of(tool=tool, direct=direct, truth=again, noise=again)
    assert found["truth, missed"].questions == 2  # half, all
    assert found["noise, needed"].questions == 3  # not few


def test_who_answers_first_is_flagged(records, tmp_path):
    _, budget, _ = evaluated(tmp_path, rigged.answers_first, records[:12], ("tool",))
    assert budget["answer_first"]["share"]["value"] == 1.0
    assert budget["answer_first"]["share"]["samples"] == 12
    assert budget["answer_first"]["right_first"] == 1.0
    assert budget["answer_first"]["right_after"] is None


def test_who_answers_first_is_counted_by_samples_not_by_rows():
    """Four cycles of a sample, by two rollouts each, are eight episodes and one observation."""
    rows = [
        record(f"s{sample}@{cycle}", picture=Picture(f"{sample}.png"), dataset=DATASET)
        for sample in range(3)
        for cycle in range(4)
    ]
    said = tuple(episode(Said(2, box=CORNER), Said(1), rollout=place) for place in range(2))
    measured = tuple(measure(one, rows[0], 1.0, image_token=IMAGE) for one in said)
    told = [Answered(one, ("A",) * 2, measured, (True, False)) for one in rows]
    found = answer_first(told)
    assert found.episodes == 24
    assert (found.share.value, found.share.samples) == (0.5, 3)
    assert found.share == share(0.5, 3)


@pytest.mark.seconds
def test_altered_questions_are_asked_only_where_there_was_a_crop(records, tmp_path):
    def says_at_once(episode):
        if rigged.digest(episode.opening.record.id) % 3 == 0:
            return rigged.answer(episode.opening.record, "red")
        return rigged.reads_the_crop(episode)

    _, budget, engine = evaluated(tmp_path, says_at_once, records, ("noise",))
    crops = sum(rigged.digest(record.id) % 3 != 0 for record in records)
    assert engine.asked == 2 * COUNT + crops
    assert budget["conditions"]["noise"]["questions"] == crops
    assert by_test(budget)["noise"]["questions"] == COUNT
    # those that answer at once keep their answers, right or wrong
    at_once = [one for one in records if rigged.digest(one.id) % 3 == 0]
    kept = sum(one.options["ABCD".index(one.answer)] == "red" for one in at_once)
    assert by_test(budget)["noise"]["before"] == pytest.approx((crops + kept) / COUNT)


@pytest.mark.seconds
def test_everything_is_shown_in_tables_and_a_picture(records, tmp_path):
    from rich.console import Console

    found, _, _ = evaluated(tmp_path, rigged.reads_the_crop, records[:8])
    assert json.loads(encoded(found)) == found
    console = Console(width=200, record=True, file=io.StringIO())
    seconds = timing(Journal(tmp_path))
    assert set(seconds) == {f"set-32-{name}" for name in CONDITIONS}
    console.print(printed(sheets(found, seconds)))
    text = console.export_text()
    for expected in ("100.0 [67.6, 100.0]", "noise, needed", "answer first", "near", "answered"):
        assert expected in text
    plot(found, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_the_papers_figures_stand_beside_ours_where_they_apply(records, tmp_path):
    """The same results under the name of a benchmark of the paper's, and under none."""
    from rich.console import Console

    found, _, _ = evaluated(tmp_path, rigged.reads_the_crop, records[:8], ("noise",))

    def text():
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(printed(sheets(found, {})))
        return [" ".join(line.split()) for line in console.export_text().splitlines()]

    assert not any("LFPC" in line for line in text())
    found["benchmarks"]["set"]["column"] = "V*"
    beside = text()
    assert "Mini-o3 1024 80.1" in beside
    assert "LFPC 1024 80.6" in beside
    assert "LFPC, 16,384 tokens 16384 89.5" in beside
    assert "LFPC, spatial 1024 77.6" in beside
    assert "this model 32 100.0 [67.6, 100.0]" in beside
    assert not any("paper, no gap" in line for line in beside)  # which was at 1,024 tokens
    budgets = found["benchmarks"]["set"]["budgets"]
    budgets["1024"] = budgets.pop("32")
    beside = text()
    noise = next(place for place, line in enumerate(beside) if line.startswith("1024 tokens noise"))
    assert beside[noise + 1 : noise + 3] == ["paper, no gap -3.2", "paper, Stage I -11.0"]
    assert "…" not in "".join(beside)  # nothing is cut
    plot(found, tmp_path / "results.png")


def test_two_benchmarks_of_one_column_have_a_row_each(records, tmp_path):
    from rich.console import Console

    found, _, _ = evaluated(tmp_path, rigged.reads_the_crop, records[:8], ("tool",))
    first = found["benchmarks"]["set"] | {"column": "V*"}
    second = json.loads(json.dumps(first))
    overall = second["budgets"]["32"]["conditions"]["tool"]["accuracy"]["overall"]
    overall |= {"value": 0.5, "low": 0.25, "high": 0.75}
    found["benchmarks"] = {"again": second, "set": first}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(printed(sheets(found, {})))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert "this model (again) 32 50.0 [25.0, 75.0]" in lines
    assert "this model (set) 32 100.0 [67.6, 100.0]" in lines


def test_what_to_know_before_believing_a_number_is_said(records, tmp_path):
    from rich.console import Console

    found, budget, _ = evaluated(tmp_path, rigged.reads_the_crop, records[:4], ("tool",))

    def text():
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(printed(sheets(found, {})))
        return console.export_text()

    assert "set, 32:" not in text()
    budget["conditions"]["tool"] |= {"missing": 3, "unscored": 1, "undecided_by_rule": 2}
    budget["conditions"]["noise"] = budget["conditions"]["tool"] | {"missing": 0}
    said = " ".join(text().split())
    assert "set, 32: questions without an answer, which do not count: tool 3" in said
    assert (
        "set, 32: questions that could not be judged, which do not count: tool 1, noise 1" in said
    )
    assert "set, 32: answers that no rule can tell, wrong without a judge: tool 2, noise 2" in said
    found["judge"] = "m"
    assert "no rule can tell" not in text()
    assert "left out" not in text()
    found["benchmarks"]["set"]["losses"] = ["a: missing picture: x.png", "b: empty answer: ''"]
    assert "set: 2 questions cannot be used and were left out" in " ".join(text().split())
    assert "scored by an earlier version" not in text()
    del budget["conditions"]["tool"]["measures"]["crop/iou_cropped"]  # as it was before
    assert "last crop's; `lfpc evaluate OUT --rescore` counts anew" in " ".join(text().split())
