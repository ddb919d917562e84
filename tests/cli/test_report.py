"""The command: where it writes, what it says, and what it refuses. The page is tested in
tests/report/test_page.py."""

import json
import re
import threading
import time

import PIL.Image
import pytest

from lfpc_jax import stopping
from lfpc_jax.cli import report
from support import runs, small

PART = "step-000004"


def blocks(page):
    text = page.read_text()
    found = re.findall(r'<script type="[^"]+" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return dict(found)


@pytest.mark.seconds
def test_one_run_goes_into_its_folder(tmp_path, capsys):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()})
    assert report.main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert "6 episodes, 9 pictures" in printed.out
    assert "note:" not in printed.err
    found = blocks(folder / "report.html")
    index = json.loads(found["index"])
    assert [run["name"] for run in index["runs"]] == ["run"]
    assert [figure["key"] for figure in index["figures"]] == ["rewards", "crops", "validation"]
    assert len(index["episodes"]) == 6
    assert {f"episode-{n}" for n in range(6)} <= set(found)
    assert sum(name.startswith("picture-") for name in found) == 9
    for figure in ("rewards", "crops", "validation"):
        with PIL.Image.open(folder / f"report-{figure}.png") as image:
            assert min(image.size) > 200


@pytest.mark.seconds
def test_texts_cannot_end_a_block(tmp_path):
    """The page's own four tags that open a script, a block an episode and a picture, no more."""
    folder = runs.write(tmp_path / "run", {PART: runs.groups()})
    report.main([str(folder)])
    text = (folder / "report.html").read_text()
    assert runs.HOSTILE[:9] == "</script>"
    assert text.count("</script>") == 1 + 1 + 6 + 9  # the page's script, index, episodes, pictures
    assert "\u202e" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)


@pytest.mark.seconds
def test_several_runs_and_names_that_repeat(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    groups = runs.groups()
    first = runs.write(tmp_path / "a" / "run", {PART: groups})
    second = runs.write(tmp_path / "b" / "run", {PART: groups})
    assert report.main([str(first), str(second), "--episodes", "8"]) == 0
    index = json.loads(blocks(tmp_path / "report.html")["index"])
    assert [run["name"] for run in index["runs"]] == ["run", "run (2)"]
    assert [line["run"] for line in index["episodes"]] == [0] * 4 + [1] * 4
    assert len(index["records"]) == 2  # the same questions
    assert "the limit" in capsys.readouterr().err


@pytest.mark.seconds
def test_the_tokenizer_of_a_model_serves_where_the_run_has_none(tmp_path, capsys):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()}, with_tokenizer=False)
    assert report.main([str(folder)]) == 0
    assert "give --model DIR" in capsys.readouterr().err
    plain = json.loads(blocks(folder / "report.html")["episode-0"])
    assert [block["role"] for block in plain["blocks"]] == ["assistant"] * 2
    assert report.main([str(folder), "--model", str(small.folder())]) == 0
    assert "note:" not in capsys.readouterr().err
    whole = json.loads(blocks(folder / "report.html")["episode-0"])
    assert [block["role"] for block in whole["blocks"]][:2] == ["system", "user"]


@pytest.mark.seconds
def test_damage_is_reported_and_the_page_is_written(tmp_path, capsys):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()})
    with (folder / "trajectories" / f"{PART}.jsonl").open("a") as out:
        out.write("{" + "\n{" * 30)
    assert report.main([str(folder)]) == 0
    printed = capsys.readouterr().err
    assert f"{PART}.jsonl, line 4: no whole group" in printed
    assert "and 11 more, on the page" in printed
    index = json.loads(blocks(folder / "report.html")["index"])
    assert len(index["problems"]) == 31
    assert len(index["episodes"]) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no folder of a run"),
        (["."], "nothing of a run is here: none of config.json"),
        ([".", "--episodes", "-1"], "--episodes -1"),
        ([".", "--side", "5"], "--side 5"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def refreshed(page, wanted):
    """The page's index once `wanted` holds of it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if page.is_file() and wanted(index := json.loads(blocks(page)["index"])):
            return index
        time.sleep(0.05)
    raise AssertionError("the page did not change")


def steps_of(index):
    curves = [curve for run in index["runs"] for curve in run["curves"]]
    return max((step for curve in curves for step in curve["steps"]), default=0)


@pytest.mark.seconds
def test_a_page_follows_its_run_until_that_has_finished(tmp_path, capsys):
    """It is watched before it begins, and while a command holds its folder."""
    folder, ended = tmp_path / "run", []
    watched = threading.Thread(
        target=lambda: ended.append(report.main([str(folder), "--watch", "1"]))
    )
    watched.start()
    time.sleep(0.2)
    made = runs.write(tmp_path / "elsewhere", {PART: runs.groups()[:1]})
    last = steps_of({"runs": [{"curves": [{"steps": [4]}]}]})
    (made / "config.json").write_text(json.dumps({"steps": 9}))
    (made / "lock").mkdir()
    made.rename(folder)
    page = folder / "report.html"
    assert refreshed(page, lambda index: steps_of(index) == last)["refresh"] == 1
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 9, "kind": "train", "reward/total": 1.0}) + "\n")
    assert refreshed(page, lambda index: steps_of(index) == 9)["refresh"] == 1
    (folder / "lock").rmdir()
    watched.join(60)
    assert ended == [0]
    assert json.loads(blocks(page)["index"])["refresh"] == 0
    out = capsys.readouterr().out
    assert f"waiting for {folder}" in out
    assert out.count("wrote ") == 3 + 3  # the page three times; plots are named once


@pytest.mark.seconds
def test_watching_ends_with_0_when_it_is_told_to(tmp_path):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()[:1]})
    stopping.told.set()
    assert report.main([str(folder), "--watch"]) == 0
    assert json.loads(blocks(folder / "report.html")["index"])["refresh"] == 0
