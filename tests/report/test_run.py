"""What is damaged in an archive is named and left out; the rest is there."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.report.run import _spread, open_run
from lfpc_jax.trajectory import Crop, Group, Picture
from support import runs
from support.gather import gather

PART = "step-000001"


def test_a_sound_run_has_no_problems(tmp_path):
    run, episodes = gather(runs.write(tmp_path / "run", {PART: runs.groups()}))
    assert run.problems == episodes.problems == []
    assert run.config == {"stage": 1}
    assert [line["right"] for line in episodes.lines] == [True, False] * 3
    assert [line["crops"] for line in episodes.lines] == [1, 0] * 3
    detail = json.loads(episodes.details[0])
    crop = detail["turns"][0]["crop"]
    assert crop["box"] == [500, 250, 900, 650]
    assert crop["pixels"] == [500, 250, 900, 650]
    assert crop["shown"] == [140, 70, 252, 182]  # 0.28 of the original
    assert crop["seen"] == [112, 112]  # 4 x 4 tokens of 28 pixels
    assert detail["rewards"]["iou"] == 1.0
    assert len(episodes.records) == 3
    # one original and one shown image a record and not a rollout, and one crop a record
    assert len(episodes.album.urls) == 9


def test_an_answer_that_is_partly_right_keeps_its_score(tmp_path):
    groups = runs.groups()
    references = ("a door", "door", "a door")
    graded = replace(groups[0].record, references=references, metric="vqa")
    rewards = tuple(one | {"accuracy": score} for one, score in zip(groups[0].rewards, (0.3, 1.0)))
    groups[0] = replace(groups[0], record=graded, rewards=rewards)
    _, episodes = gather(runs.write(tmp_path / "run", {PART: groups}))
    assert [line["right"] for line in episodes.lines] == [0.3, True, *[True, False] * 2]
    assert (episodes.records[0]["metric"], episodes.records[0]["references"]) == (
        "vqa", [*references],
    )  # fmt: skip
    assert "references" not in episodes.records[1]


def damage(folder, change):
    """Rewrites the second line of the part."""
    file = folder / "trajectories" / f"{PART}.jsonl"
    lines = file.read_text().splitlines()
    entry = json.loads(lines[1])
    lines[1] = change(entry)
    file.write_text("\n".join(lines) + "\n")


def entry_with(*path, value):
    def change(entry):
        at = entry
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return json.dumps(entry)

    return change


FIRST = ("trajectories", 0)
TURN = (*FIRST, "turns", 0)


CASES = [
    (lambda entry: json.dumps(entry)[:200], 2, "line 2"),
    (lambda entry: "[" * 100_000, 2, "line 2"),
    (entry_with("version", value=[9]), 4, "not read to its end"),
    (entry_with("version", value=99), 4, "version 99"),
    (entry_with(*FIRST, "arrays", value="AAAA"), 2, "line 2"),
    (entry_with(*TURN, "start", value=-3), 1, "turn 0 spans -3"),
    (entry_with(*TURN, "stop", value=10**6), 1, "turn 0 spans"),
    (entry_with(*TURN, "start", value=9.5), 1, "turn 0 spans 9.5"),
    (entry_with(*TURN, "text", value=7), 1, "text of turn 0"),
    (entry_with(*TURN, "crop", "box", value=[1, 2, 3]), 1, "box of turn 0"),
    (entry_with(*TURN, "crop", "box", value=[1, 2, 3, "x"]), 1, "box of turn 0"),
    (entry_with(*TURN, "crop", "box", value=[0, 0, float("inf"), 1]), 1, "box of turn 0"),
    (entry_with(*TURN, "crop", "written", value=[0, 0, float("nan"), 1]), 1, "written box"),
    (entry_with(*FIRST, "original", value=[0, 0]), 1, "no picture"),
    (entry_with(*FIRST, "shown", value=[10**7, 10**7]), 1, "shown size"),
    (entry_with(*FIRST, "shown", value=["a", "b"]), 1, "shown size"),
    (entry_with(*FIRST, "end", value=None), 1, "end or answer"),
    (entry_with(*FIRST, "rollout", value=float("nan")), 1, "rollout is no number"),
    (entry_with("rewards", 0, "total", value=float("nan")), 1, "reward 'total' is nan"),
    (entry_with("rewards", value=[{}, {}, {}]), 2, "line 2"),
    (entry_with("record", "question", value=None), 2, "must be texts"),
    (entry_with("record", "longest_side", value=float("nan")), 2, "longest_side is nan"),
    (entry_with("record", "longest_side", value=0), 2, "longest_side is 0"),
    (entry_with("record", "targets", value=[[[1, 2]], [[0, 0, 5, 5]]]), 0, "no boxes"),
    (entry_with("record", "picture", value={"path": "/no/such.png"}), 0, "missing picture"),
    (entry_with("record", "picture", value={"path": "/dev"}), 0, "missing picture"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folders, groups = [], runs.groups(dict.fromkeys("abc", runs.SIZES["small"]))
    for number, (change, _, _) in enumerate(CASES):
        place = tmp_path_factory.mktemp(f"damaged{number}") / "run"
        folder = runs.write(place, {PART: groups}, with_tokenizer=False)
        damage(folder, change)
        folders.append(str(folder))
    found = subprocess.run(
        [sys.executable, gather.__globals__["__file__"], *folders],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in found.stdout.splitlines()], found.stderr


@pytest.mark.seconds
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case[2] for case in CASES])
def test_damage_costs_only_what_it_hits(outcomes, number):
    _, lost, said = CASES[number]
    (no_tokenizer, *problems), count, details = outcomes[0][number]
    assert "no tokenizer" in no_tokenizer
    assert count == 6 - lost
    assert len(problems) == 1, problems
    assert said in problems[0]
    assert len(details) == count
    for detail in details:
        json.loads(detail, parse_constant=pytest.fail)


def test_damage_is_said_once_and_not_by_the_log_as_well(outcomes):
    assert "skipped" not in outcomes[1]


def test_a_changed_picture_is_not_drawn_under_boxes(tmp_path):
    size, shown, green = runs.SIZES["wide"]
    of = runs.record("wide", size, green)
    group = Group(of, (runs.trajectory(of, size, shown, green),))
    smaller = replace(of, picture=runs.picture((1000, 500), (0, 0, 9, 9)))
    _, episodes = gather(runs.write(tmp_path / "run", {PART: [replace(group, record=smaller)]}))
    detail = json.loads(episodes.details[0])
    assert detail["image"] is None
    assert detail["turns"][0]["crop"]["image"] is None
    assert "is 1000x500 now and was 2000x1000" in str(episodes.problems[0])
    assert episodes.lines[0]["right"] is None  # no rewards


def test_a_crop_outside_of_the_picture_is_cut_to_it(tmp_path):
    size, shown, green = runs.SIZES["wide"]
    of = runs.record("wide", size, green)
    one = runs.trajectory(of, size, shown, green)
    crop = Crop((0.0, 0.0, 1.0, 1.0), (1900.0, 950.0, 2100.0, 1100.0))
    one = replace(one, turns=(replace(one.turns[0], crop=crop), one.turns[1]))
    _, episodes = gather(runs.write(tmp_path / "run", {PART: [Group(of, (one,))]}))
    assert json.loads(episodes.details[0])["turns"][0]["crop"]["pixels"] == [1900, 950, 2000, 1000]


def test_a_record_without_a_picture_and_empty_arrays(tmp_path):
    of = replace(runs.record("text", (40, 40), (0, 0, 9, 9)), picture=Picture(), targets=())
    one = runs.trajectory(of, (0, 0), (0, 0))
    nothing = np.zeros(0, np.float32)
    empty = replace(one, rollout=1, ids=nothing.astype(np.int32), sampled=nothing.astype(bool),
                    logprobs=nothing, policy_logprobs=nothing, turns=(), answer=None,
                    end="no_action")  # fmt: skip
    run, episodes = gather(runs.write(tmp_path / "run", {PART: [Group(of, (one, empty))]}))
    assert run.problems == episodes.problems == []
    assert [line["turns"] for line in episodes.lines] == [1, 0]
    assert json.loads(episodes.details[0])["tokens"] == []


def test_an_untagged_answer_is_told_where_it_was_graded(tmp_path):
    """An evaluation grades it as right; training, whose rewards have a total, takes no such."""
    of = runs.record("wide", runs.WIDE, runs.WIDE_GREEN)
    one = runs.trajectory(of, runs.WIDE, runs.WIDE_SHOWN)
    untagged = replace(one.turns[0], text="<think>hm</think>a door")
    one = replace(one, turns=(untagged,), answer=None, end="no_action")
    for rewards, answer in (({"accuracy": 1.0}, "a door"), (runs.rewards(False), None)):
        folder = runs.write(
            tmp_path / f"run-{answer}", {PART: [Group(of, (one,), rewards=(rewards,))]}
        )
        _, episodes = gather(folder)
        assert [line["answer"] for line in episodes.lines] == [answer]


def test_missing_parts_of_a_run_are_said(tmp_path):
    (tmp_path / "run").mkdir()
    run, episodes = gather(tmp_path / "run")
    said = "\n".join(map(str, run.problems))
    for what in ("metrics.jsonl", "config.json", "trajectories", "assets", "--model"):
        assert what in said
    assert episodes.lines == []
    with pytest.raises(ValueError, match="no folder of a run"):
        open_run(tmp_path / "nowhere", None)


def test_an_evaluation_has_settings_of_its_own_and_no_curves(tmp_path):
    folder = runs.write(tmp_path / "run", {"hr4k-1024-noise": runs.groups()})
    (folder / "config.json").unlink()
    (folder / "metrics.jsonl").unlink()
    (folder / "evaluation.json").write_text('{"format": 1}')
    run, episodes = gather(folder)
    assert run.config == {"format": 1}
    [unscored] = run.problems
    assert "scores.jsonl: missing; verdicts are by rule" in str(unscored)
    assert len(episodes.lines) == 6


def test_the_verdicts_of_an_evaluation_are_those_that_count(tmp_path):
    """The first record's were turned around by a judge, who failed on the second's."""
    folder = runs.write(tmp_path / "run", {"set-32-tool-p0": runs.groups()})
    (folder / "evaluation.json").write_text('{"format": 1}')
    lines = [
        {"part": "set-32-tool", "record": "wide", "right": [0.0, 1.0]},
        {"part": "set-32-tool", "record": "large", "right": [None, 0.0]},
        {"part": "set-32-noise", "record": "small", "right": [0.0, 1.0]},
        {"part": "set-32-tool", "record": "small", "right": [1.0]},  # of another evaluation
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "scores.jsonl").write_text(text + '{"part": 3\n[]\n{"part": "x", "right": 1}\n')
    run, episodes = gather(folder)
    assert [line["right"] for line in episodes.lines] == [False, True, None, False, True, False]
    *damaged, unscored = run.problems
    for number, problem in zip((5, 6, 7), damaged, strict=True):
        assert f"scores.jsonl, line {number}: no line of scores, skipped" in str(problem)
    assert "has no verdicts on 1 of the questions here, which are shown by rule" in str(unscored)
    assert f"lfpc evaluate {folder} --rescore" in str(unscored)


def test_a_broken_config_and_tokenizer_are_said(tmp_path):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()})
    (folder / "config.json").write_text('{"lr": NaN, "big": 1e999}')
    (folder / "assets" / "vocab.json").write_text("{")
    run, episodes = gather(folder)
    assert run.config == {"lr": "NaN", "big": "1e999"}
    assert run.tokenizer is None
    assert len(run.problems) == 2
    assert len(episodes.lines) == 6
    (folder / "config.json").write_text("{")
    assert "config.json: cannot be read" in str(open_run(folder, None).problems[0])


def test_a_limit_takes_from_all_of_the_run(tmp_path):
    [first, *_] = runs.groups()
    parts = {f"step-{step:06d}": [first] * 3 for step in range(1, 10)}
    folder = runs.write(tmp_path / "run", {**parts, "validation-000009": [first]})
    run = open_run(folder, None)
    taken = [part for part, _ in run.groups("step-*", 6)]  # three groups of two
    assert sorted(taken) == ["step-000001", "step-000005", "step-000009"]
    assert "the limit" in str(run.problems[-1])
    assert [part for part, _ in open_run(folder, None).groups("val*", 99)] == ["validation-000009"]
    run = open_run(folder, None)
    assert list(run.groups("test-*", 9)) == []
    assert "no part matches 'test-*'" in str(run.problems[-1])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
def test_every_beginning_is_spread(count):
    parts = [f"{n:03d}" for n in range(count)]
    order = _spread(parts)
    assert sorted(order) == parts
    if count:
        assert order[0] == parts[-1]
    if count == 9:
        assert order[:3] == ["008", "000", "004"]
