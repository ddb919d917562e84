"""Selection with rigged models: searches, strategies, losses, journals, and a judge."""

from collections import Counter
from dataclasses import replace

import PIL.Image
import pytest

from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap.selection import Selected, Settings, check_journal, select
from lfpc_jax.infogap.summary import AnswerCounts, summarise, unmeasured
from lfpc_jax.rewards.verdict import Verdict
from lfpc_jax.stopping import Interrupted
from lfpc_jax.trajectory import Picture
from support import rigged_selection
from support.rigged_selection import PROCESSOR, SIDES, Rigged, critical


@pytest.fixture
def records(tmp_path):
    return rigged_selection.records(16, tmp_path)


def choose(records, tmp_path, ask=None, judge=None, about=None, **settings):
    ask, journal = ask or Rigged(), tmp_path / "journal"
    return select(records, ask, PROCESSOR, Settings(**settings), journal, judge=judge, about=about)


@pytest.mark.parametrize("search", ["scan", "bisect"])
def test_the_rigged_level_is_found_exactly(records, tmp_path, search):
    ask = Rigged()
    made = choose(records, tmp_path, ask, search=search, chunk=5)
    for record, one in zip(records, made):
        level = critical(record.id)
        assert one.id == record.id
        assert one.level == min(level, 7)
        assert one.longest_side == SIDES[one.level]
        assert one.diverged == (level < 8)
    summary = summarise(made)
    assert summary.records == 16
    assert summary.levels == {**dict.fromkeys(range(1, 7), 2), 7: 4}  # level 8 falls on 7
    assert summary.never_diverged == 2 / 16
    assert summary.scan == 16 * 8
    assert summary.asked == ask.asked == (16 * 8 if search == "scan" else 16 * 4)


def test_all_answers_are_kept_so_that_a_choice_can_be_made_again(records, tmp_path):
    (one,) = choose(records[2:3], tmp_path, Rigged(n_answers=3), n_answers=3)
    assert one.answers == {str(i): ("red",) * 3 if i < 3 else ("blue",) * 3 for i in range(8)}


@pytest.mark.parametrize("search", ["scan", "bisect"])
def test_a_record_without_an_answer_at_level_0_is_marked_and_counted(records, tmp_path, search):
    """As from a model that calls the tool whatever it is shown."""

    def ask(questions):
        silent = {"r1", "r2"}
        return [(None,) if q.id.split("@")[0] in silent else Rigged()([q])[0] for q in questions]

    made = choose(records, tmp_path, ask, search=search)
    assert [one.id for one in made if one.unanswered] == ["r1", "r2"]
    for one in made[1:3]:
        assert (one.level, one.longest_side, one.diverged) == (7, 224, False)
        assert set(one.agree["0"]) == {None}
    summary = summarise(made)
    assert summary.unanswered == 2
    assert summary.never_diverged == 2 / 14  # r7 and r15; of the others that answered
    assert summary.answers[0] == AnswerCounts(same=14, different=0, undecided=0, unanswered=2)
    assert choose(records, tmp_path, None, search=search) == made  # from the journal


def warnings_of(made, n_answers=1):
    settings = Settings(n_answers=n_answers)
    return list(unmeasured(summarise(made), settings, image_tokens=1024, judged=False))


def test_a_model_that_answers_only_what_it_sees_in_full_is_warned_of(records, tmp_path):
    """Below, it calls a tool that it has not, or is cut off: no level diverges, none is told."""

    def ask(questions):
        return [("red",) if "@2520" in q.id else (None,) for q in questions]

    made = choose(records[:2], tmp_path, ask)
    assert [(one.diverged, one.unanswered) for one in made] == [(False, False)] * 2
    (line,) = warnings_of(made)
    assert line.startswith("14 of 14 answers at levels under the original are none")
    assert "--turn-tokens" in line


def test_records_too_small_to_have_a_gap_are_not_among_those_asked(records, tmp_path):
    """Of 4 that were asked one is not answered, at three answers each; 16 more are small."""
    PIL.Image.new("RGB", (200, 200)).save(tmp_path / "small.png")
    few = Picture(path=str(tmp_path / "small.png"))
    small_ones = [replace(records[0], id=f"s{n}", picture=few) for n in range(16)]

    def ask(questions):
        return [(None,) * 3 if q.id.startswith("r0@") else ("red",) * 3 for q in questions]

    made = choose([*records[:4], *small_ones], tmp_path, ask, n_answers=3)
    assert [len(one.sides) for one in made[3:5]] == [8, 1]
    first, *_, last = warnings_of(made, n_answers=3)
    assert "1 of 4 records were not answered even in full" in first
    assert last.startswith("16 of 20 records have no gap: --image-tokens 1024 shows them no")
    assert not any("no gap" in line for line in warnings_of(made[:4], n_answers=3))


class Paraphrases:
    """A judge who knows that crimson is red."""

    def verdicts(self, claims):
        return [Verdict({c.reference, c.answer} == {"red", "crimson"}, judged=True) for c in claims]


@pytest.mark.parametrize("search", ["scan", "bisect"])
def test_a_paraphrase_is_no_gap_and_a_judge_finds_the_one_that_is(records, tmp_path, search):
    def ask(questions):
        return [("red", "crimson", "azure")[(SIDES.index(int(q.id.split("@")[1])) + 1) // 3 :][:1]
                for q in questions]  # fmt: skip

    free = [replace(records[0], options=(), answer="red")]
    (alone,) = choose(free, tmp_path / "alone", ask, search=search)
    assert (alone.level, alone.diverged) == (7, False)
    assert set(alone.agree["7"]) == {None}
    (judged,) = choose(free, tmp_path / "judged", ask, judge=Paraphrases(), search=search)
    assert (judged.level, judged.diverged) == (5, True)
    assert judged.agree["0"] == judged.agree["4"] == (True,)
    assert choose(free, tmp_path / "judged", None, search=search) == [judged]  # and no judge
    (exact,) = choose(free, tmp_path / "exact", ask, search=search, exact=True)
    assert (exact.level, exact.diverged) == (2, True)
    assert summarise([alone]).answers[7] == AnswerCounts(0, 0, 1, 0)
    assert summarise([judged]).answers[5] == AnswerCounts(0, 1, 0, 0)


@pytest.mark.seconds
def test_strategies_without_a_model(records, tmp_path):
    def sides(folder, **settings):
        (tmp_path / folder).mkdir()
        return [one.longest_side for one in choose(records, tmp_path / folder, None, **settings)]

    assert sides("hard", strategy="hard") == [224] * 16
    assert sides("none", strategy="none") == [None] * 16
    drawn = sides("random", strategy="random", seed=1)
    assert drawn == sides("again", strategy="random", seed=1, chunk=3)
    assert drawn != sides("other", strategy="random", seed=2)
    assert len(set(drawn)) > 3
    assert set(drawn) <= set(SIDES[1:])
    many = [replace(records[0], id=f"m{i}") for i in range(7000)]
    (tmp_path / "many").mkdir()
    counts = Counter(o.level for o in choose(many, tmp_path / "many", strategy="random"))
    assert max(abs(counts[level] - 1000) for level in range(1, 8)) < 5 * 29.3  # 5 deviations


def test_a_picture_that_cannot_be_opened_and_a_question_that_cannot_be_asked_are_losses(
    records, tmp_path
):
    gone = replace(records[0], id="r90", picture=Picture(path=str(tmp_path / "gone.png")))

    def ask(questions):
        found = Rigged()(questions)
        return [
            Rejected(q.id, "cannot be asked", "too long") if q.id.startswith("r1@") else answers
            for q, answers in zip(questions, found)
        ]

    made = choose([records[0], gone, records[1], records[2]], tmp_path, ask)
    assert [type(one) for one in made] == [Selected, Rejected, Rejected, Selected]
    assert [one.reason for one in made[1:3]] == ["missing picture", "cannot be asked"]
    assert [one.record for one in made[1:3]] == ["r90", "r1"]
    assert summarise(made).lost == {"missing picture": 1, "cannot be asked": 1}
    again = choose([records[0], gone, records[1], records[2]], tmp_path, None)
    assert again == made  # from the journal, where Rigged would answer r1


@pytest.mark.parametrize("strategy", ["answer", "hard", "random", "none"])
def test_a_question_in_text_alone_passes_without_a_gap(records, tmp_path, strategy):
    """Nobody is asked, and it is counted apart: it is no loss, and no picture that is too small."""
    text = replace(records[0], id="text", picture=Picture())
    given = [text, *records[:3], replace(text, id="more")]
    ask = Rigged()
    made = choose(given, tmp_path, ask, strategy=strategy)
    assert [one.id for one in made] == [one.id for one in given]
    for one in (made[0], made[-1]):
        assert one == Selected(one.id, None, 0, diverged=False, sides=(), answers={})
    assert ask.asked == (3 * 8 if strategy == "answer" else 0)
    summary, without = summarise(made), summarise(made[1:-1])
    assert (summary.records, summary.without_picture, summary.lost) == (5, 2, {})
    assert replace(summary, records=3, without_picture=0) == without
    assert choose(given, tmp_path, None, strategy=strategy) == made  # from the journal
    if strategy == "answer":
        assert not list(warnings_of(made))


@pytest.mark.seconds
def test_a_journal_goes_on_behind_its_last_whole_line(records, tmp_path):
    whole = choose(records, tmp_path, chunk=4)
    journal = tmp_path / "journal"
    expected = journal.read_bytes()
    for keep in (5, len(expected) // 2, len(expected) - 1):
        journal.write_bytes(expected[:keep])
        ask = Rigged()
        assert choose(records, tmp_path, ask, chunk=4) == whole
        assert journal.read_bytes() == expected
        lines = expected[:keep].count(b"\n")
        assert ask.asked == 8 * (16 - max(lines - 1, 0))


def test_nothing_is_written_to_a_journal_that_another_has_taken_over(records, tmp_path):
    """As by a command that was frozen for so long that it was taken for dead."""
    asked = []

    def still_ours():
        if len(asked) > 2:
            raise ValueError("the folder is another's")

    def ask(questions):
        asked.append(len(questions))
        return Rigged()(questions)

    journal = tmp_path / "journal"
    with pytest.raises(ValueError, match="is another's"):
        select(records, ask, PROCESSOR, Settings(chunk=4), journal, still_ours=still_ours)
    assert asked == [32, 32, 32]
    assert journal.read_bytes().count(b"\n") == 1 + 8


def test_another_journal_is_refused(records, tmp_path):
    choose(records[:3], tmp_path)
    with pytest.raises(ValueError, match=r"begun with another search \(was scan, now bisect\)"):
        choose(records[:3], tmp_path, search="bisect")
    with pytest.raises(ValueError, match="continues with record 'r0' where the set has 'r1'"):
        choose(records[1:3], tmp_path)


def test_a_selection_that_goes_on_with_another_model_is_refused_by_name(records, tmp_path):
    about = {"weights": "one", "image_tokens": 1024, "judge": ""}
    made = choose(records[:3], tmp_path, about=about)
    assert choose(records[:3], tmp_path, None, about=about) == made
    with pytest.raises(
        ValueError, match=r"begun with another weights \(was one, now two\); resume"
    ):
        choose(records[:3], tmp_path, about=about | {"weights": "two"})
    with pytest.raises(ValueError, match=r"judge \(was , now m\), prompt \(was None, now p\); re"):
        check_journal(tmp_path / "journal", Settings(), about | {"judge": "m", "prompt": "p"})
    check_journal(tmp_path / "journal", Settings(), about)
    check_journal(tmp_path / "none", Settings(), about)


def test_a_journal_of_an_earlier_version_is_refused(records, tmp_path):
    (tmp_path / "journal").write_text('{"settings": {"strategy": "answer"}}\n')
    with pytest.raises(ValueError, match=r"begun by an earlier version.* remove the journals of"):
        choose(records[:3], tmp_path)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="n_answers and chunk must be at least 1"):
        Settings(n_answers=0)
    with pytest.raises(ValueError, match="an image token has 28"):
        Settings(harshest=20)


def test_of_a_chunk_that_is_left_what_was_decided_first_is_kept(records, tmp_path):
    """A question in text alone needs no answer; the others are left at their second."""
    asked = []

    def ask(questions):
        asked.append(len(questions))
        if len(asked) == 2:
            raise Interrupted
        return Rigged()(questions)

    text = replace(records[0], id="text", picture=Picture())
    chunk, settings = [text, *records[:3]], Settings(search="bisect")
    expected = select(chunk, Rigged(), PROCESSOR, settings, tmp_path / "whole")
    assert select(chunk, ask, PROCESSOR, settings, tmp_path / "left") == expected[:1]
    assert select(chunk, Rigged(), PROCESSOR, settings, tmp_path / "left") == expected
    assert (tmp_path / "left").read_bytes() == (tmp_path / "whole").read_bytes()
    some = select(chunk, ask, PROCESSOR, settings, tmp_path / "told", stop=lambda: True)
    assert some == expected[:1]
    assert len(asked) == 2
