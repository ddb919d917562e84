"""A crop network's episode wherever episodes go: demonstrated, stored, read, drawn and printed."""

import json
from dataclasses import asdict, replace

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.cropvlm.proposing import write_box
from lfpc_jax.data import pictures
from lfpc_jax.report.album import Album
from lfpc_jax.report.conversation import Decoder
from lfpc_jax.report.episode_printer import EpisodePrinter
from lfpc_jax.report.episodes import Episodes
from lfpc_jax.report.sketch import draw
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.demonstration import demonstrated
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.replay import token_classes
from lfpc_jax.rollout.said import by_target, said
from support import handmade, small, small_boxes

RULES = Rules(max_turns=1, turn_tokens=24)
RECORD = small.record(0)  # 160 x 120


def wrote(text, *, stopped=True, tell=lambda episode: None):
    """The group of the episode in which the crop network writes this, stop token included."""
    dialogue = small_boxes.dialogue()
    episode = Episode(dialogue.open(RECORD), 0, RULES, dialogue, 128)
    ids = dialogue.tokenizer.encode(text).tolist() + [dialogue.tokenizer.im_end] * stopped
    nothing = [0.0] * len(ids)
    episode.drew(ids, nothing, nothing)
    assert episode.close_turn(stopped=stopped) is None, "a crop network has one turn"
    tell(episode)
    return episode.trajectory()


def group_of(*trajectories, rewards=()):
    dialogue = small_boxes.dialogue()
    box = demonstrated(dialogue.open(RECORD), ["[0, 0, 9, 9]."], dialogue, RULES, 128)
    return replace(box, trajectories=trajectories, crops=((),) * len(trajectories), rewards=rewards)


# ------------------------------------------------------------------------------------- its turns


def test_a_box_is_the_last_turn_and_its_crop_is_kept():
    trajectory = wrote("[25, 50, 75, 100].")
    assert trajectory.end == "proposed"
    [turn] = trajectory.turns
    assert (turn.call, turn.fault, turn.text) == (True, "", "[25, 50, 75, 100].")
    assert turn.crop.written == (25, 50, 75, 100)
    assert turn.crop.box == (40, 60, 120, 120)
    assert trajectory.original == (160, 120)
    assert trajectory.answer is None
    assert len(trajectory.ids) == turn.stop, "nothing comes back"


@pytest.mark.parametrize(
    ("text", "stopped", "end", "fault"),
    [
        ("[75, 50, 25, 100].", True, "max_turns", "reversed_box"),
        ("[10, 20, 10, 40].", True, "max_turns", "empty_box"),
        ("over there", True, "max_turns", "no_box"),
        ("<answer>red</answer>", True, "max_turns", "no_box"),
        ("", True, "max_turns", "no_box"),
        ("[25, 50, 75, 100].", False, "context_full", ""),  # it had not stopped
        ("[25, 50", False, "context_full", "no_box"),
    ],
)
def test_any_other_turn_ends_it_without_a_crop(text, stopped, end, fault):
    trajectory = wrote(text, stopped=stopped)
    [turn] = trajectory.turns
    assert (trajectory.end, turn.fault, turn.crop, turn.call) == (end, fault, None, True)
    assert trajectory.answer is None


@pytest.mark.parametrize("text", ["[25, 50, 75, 100].", "over there", "<answer>red</answer>"])
def test_its_text_is_never_an_answer_and_the_target_s_is(text):
    trajectory = wrote(text)
    assert said(trajectory) is None
    assert said(replace(trajectory, answer="blue")) == "blue"
    assert said(replace(trajectory, answer="")) == ""
    assert said(replace(trajectory, unanswered="no connection")) is None
    assert by_target(replace(trajectory, answer="blue"))
    assert by_target(replace(trajectory, unanswered="no connection"))
    assert by_target(replace(trajectory, likelihood=-1.0))
    assert by_target(trajectory) == (trajectory.end == "proposed")


def test_the_answer_of_a_model_that_answers_is_its_own():
    assert not by_target(handmade.episode(handmade.crop_turn(1, 1, 9, 9), answer="A"))
    assert not by_target(handmade.episode(handmade.refused_turn()))
    both = replace(handmade.answer_turn("A"), call=True, fault="answer_and_call")
    assert not by_target(replace(handmade.episode(answer="A"), turns=(both,)))
    assert by_target(replace(handmade.episode(), answer="A")), "no turn at all"


def test_a_demonstration_is_a_box_and_another_text_is_refused_by_its_fault():
    dialogue = small_boxes.dialogue()
    opening = dialogue.open(RECORD)
    text = write_box((40.0, 60.0, 120.0, 120.0), opening.view.frame)
    [trajectory] = demonstrated(opening, [text], dialogue, RULES, 128).trajectories
    assert (trajectory.end, trajectory.turns[0].text) == ("proposed", "[25, 50, 75, 100].")
    sampled = trajectory.ids[trajectory.sampled]
    assert dialogue.tokenizer.decode(sampled) == "[25, 50, 75, 100].<|im_end|>"
    with pytest.raises(ValueError, match=r"refused as reversed_box; it ended with max_turns"):
        demonstrated(opening, ["[75, 50, 25, 100]."], dialogue, RULES, 128)


def test_digits_are_a_class_of_their_own_in_a_replay():
    trajectory = wrote("[40, 30, 75, 80].")
    masks = token_classes(trajectory, small_boxes.dialogue())
    assert [int(mask.sum()) for mask in masks.values()] == [1, 4, 0]  # <|im_end|>, four numbers


# ------------------------------------------------------------------------------------- its places

ANSWERED = replace(wrote("[25, 50, 75, 100]."), answer="red", likelihood=-1.25)
UNANSWERED = replace(wrote("[25, 50, 75, 100]."), unanswered="target: no connection")
WITHOUT_BOX = replace(wrote("over there"), answer="blue")


def test_the_archive_keeps_what_the_target_said(tmp_path):
    archive = Archive(tmp_path)
    archive.append("part", [group_of(ANSWERED, UNANSWERED, WITHOUT_BOX)])
    [group] = archive.read("part")
    for stored, wanted in zip(group.trajectories, (ANSWERED, UNANSWERED, WITHOUT_BOX)):
        for name in ("end", "answer", "likelihood", "unanswered", "turns"):
            assert getattr(stored, name) == getattr(wanted, name)
        np.testing.assert_array_equal(stored.ids, wanted.ids)


def test_a_line_of_an_episode_without_a_target_is_as_before(tmp_path):
    """Its entry has the names that it always had, in their order."""
    before = ("record", "rollout", "original", "shown", "turns", "end", "answer", "arrays")
    archive = Archive(tmp_path)
    archive.append("part", [group_of(replace(ANSWERED, likelihood=None))])
    [line] = (tmp_path / "part.jsonl").read_text().splitlines()
    assert tuple(json.loads(line)["trajectories"][0]) == before
    [group] = archive.read("part")
    assert (group.trajectories[0].likelihood, group.trajectories[0].unanswered) == (None, "")


def shown(trajectory, rewards=()):
    """Its line and details on the report page."""
    episodes = Episodes(Album())
    decoder = Decoder(small_boxes.dialogue().tokenizer)
    episodes.add(0, "step-000001", "run", group_of(trajectory, rewards=rewards), decoder)
    assert episodes.problems == []
    return episodes.lines[0], json.loads(episodes.details[0])


def test_a_report_has_the_box_and_what_the_target_said():
    line, detail = shown(ANSWERED, ({"total": 1.0, "accuracy": 1.0, "likelihood": -1.25},))
    assert (line["end"], line["answer"], line["crops"], line["right"]) == (
        "proposed", "red", 1, True,
    )  # fmt: skip
    assert detail["turns"][0]["crop"]["box"] == [40, 60, 120, 120]
    assert detail["turns"][0]["crop"]["pixels"] == [40, 60, 120, 120]
    assert detail["turns"][0]["crop"]["image"] is not None
    assert detail["target"] == {"answer": "red", "likelihood": -1.25, "unanswered": ""}
    line, detail = shown(UNANSWERED, ({"total": None, "accuracy": None},))
    assert (line["answer"], line["total"], line["right"]) == (None, None, None)
    assert detail["target"]["unanswered"] == "target: no connection"
    line, detail = shown(WITHOUT_BOX)
    assert (line["answer"], line["crops"], line["faults"]) == ("blue", 0, {"no_box": 1})
    assert detail["target"]["answer"] == "blue"
    _, detail = shown(wrote("over there"))
    assert "target" not in detail, "nobody was asked"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"likelihood": float("inf")}, "its likelihood is inf"),
        ({"likelihood": "high"}, "its likelihood is 'high'"),
        ({"unanswered": None}, "why it is unanswered is no text"),
    ],
)
def test_what_no_target_says_is_a_named_problem(change, reason):
    damaged = replace(ANSWERED)
    for name, value in change.items():
        object.__setattr__(damaged, name, value)
    episodes = Episodes(Album())
    episodes.add(0, "part", "run", group_of(damaged), Decoder(None))
    assert episodes.lines == []
    [problem] = episodes.problems
    assert reason in str(asdict(problem))


def test_a_drawing_shows_the_box_and_the_pixels_that_it_cuts():
    group = group_of(ANSWERED)
    page = draw(group)
    original = pictures.original(RECORD.picture)
    crop = original.crop((40, 60, 120, 120))
    enlarged = crop.resize((320, 240), PIL.Image.Resampling.NEAREST)
    left = 960 + 12  # beside the original, 720 pixels high
    top = 22 + round(112 * 320 / 168) + 12 + 22  # below the shown image and two labels
    beside = page.crop((left, top, left + 320, top + 240))
    np.testing.assert_array_equal(np.array(beside), np.array(enlarged))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "[25, 50, 75, 100].",
            ["[25, 50, 75, 100].",
             "  -> crop of (40, 60, 120, 120) of the original, written as (25, 50, 75, 100)", "",
             "ended: proposed"],
        ),
        ("over there", ["over there", "  -> refused: no_box", "", "ended: max_turns"]),
    ],
)  # fmt: skip
def test_the_terminal_shows_the_box_and_leaves_the_answer_to_the_target(capsys, text, lines):
    printer = EpisodePrinter(small_boxes.dialogue())
    wrote(text, tell=printer.on_episode)
    assert capsys.readouterr().out.splitlines() == lines
