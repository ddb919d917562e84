"""The command: where it writes, what it says, and what it refuses. The page is tested in
tests/report/test_page.py."""

import json
import re

import PIL.Image
import pytest

from lfpc_jax.cli import report
from support import runs, small

PART = "step-000004"


def blocks(page):
    text = page.read_text()
    found = re.findall(r'<script type="[^"]+" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return dict(found)


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


def test_texts_cannot_end_a_block(tmp_path):
    """The page's own four tags that open a script, a block an episode and a picture, no more."""
    folder = runs.write(tmp_path / "run", {PART: runs.groups()})
    report.main([str(folder)])
    text = (folder / "report.html").read_text()
    assert runs.HOSTILE[:9] == "</script>"
    assert text.count("</script>") == 1 + 1 + 6 + 9  # the page's script, index, episodes, pictures
    assert "\u202e" not in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)


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
        ([".", "--episodes", "-1"], "--episodes -1"),
        ([".", "--side", "5"], "--side 5"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
