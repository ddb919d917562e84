"""The command from files of the exact public formats to scores worked by hand."""

import csv
import json

import pyarrow.parquet
import pytest

from lfpc_jax.cli import evaluate
from lfpc_jax.data import v_star
from support import rigged, small
from support.benchmark_files import rows, v_star_folder, write_tsv

# Samples 0 and 2 are FSP, 1 is FCP; a row a cycle, right or wrong.
RIGHT = ((1, 0, 1), (1, 1, 0), (0, 1, 0), (0, 1, 0))


@pytest.fixture
def score(tmp_path, monkeypatch):
    """What answers come to: `says` gives the answer to a record."""

    def run(path, says):
        def say(episode):
            return f"<answer>{says(episode.opening.record)}</answer>"

        engine = rigged.RiggedEngine(say, small.dialogue())
        monkeypatch.setattr(evaluate, "Engines", rigged.engines(engine))
        out = tmp_path / "out"
        assert evaluate.main([str(out), "--model", "rigged", "--data", f"set={path}"]) == 0
        found = json.loads((out / "results.json").read_text())["benchmarks"]["set"]
        return found["budgets"]["1024"]["conditions"]["tool"]["accuracy"]

    return run


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_hr_bench(score, tmp_path, suffix):
    """FSP by cycle 1, 1/2, 0, 0: 3/8. FCP 0, 1, 1, 1: 3/4. All 2/3, 2/3, 1/3, 1/3: 1/2."""
    path = write_tsv(tmp_path / "hr_bench_8k.tsv", rows(3))
    if suffix == "parquet":
        with path.open(newline="") as file:
            table = pyarrow.Table.from_pylist(list(csv.DictReader(file, delimiter="\t")))
        path = tmp_path / "hr_bench_8k.parquet"
        pyarrow.parquet.write_table(table, path)

    def says(record):
        index, cycle = map(int, record.id.rpartition("/")[2].split("@"))
        other = "ABCD"[("ABCD".index(record.answer) + 1) % 4]
        return record.answer if RIGHT[cycle][index // 4] else f"{other}. because"

    found = score(path, says)
    assert found["single"]["value"] == pytest.approx(3 / 8)
    assert found["cross"]["value"] == pytest.approx(3 / 4)
    assert found["overall"]["value"] == pytest.approx(1 / 2)
    assert [found[name]["samples"] for name in ("single", "cross", "overall")] == [2, 1, 3]


def test_hr_bench_is_not_won_by_one_letter(score, tmp_path):
    """In the cycles of a sample each letter is right once."""
    found = score(write_tsv(tmp_path / "x.tsv", rows(3)), lambda record: "A")
    assert {name: one["value"] for name, one in found.items()} == {
        "overall": 0.25, "single": 0.25, "cross": 0.25
    }  # fmt: skip


def test_v_star(score, tmp_path):
    """Right on 2 of 3 attributes and 1 of 2 relations: 3 of 5 samples."""
    wrong = {"direct_attributes/sa_1", "relative_position/sa_0"}
    published_first = {"direct_attributes": "rubber", "relative_position": "left"}

    def says(record):
        right = published_first[record.category]
        others = [text for text in record.options if text != right]
        return others[0] if record.id in wrong else right

    found = score(v_star_folder(tmp_path / "v"), says)
    assert found["direct_attributes"]["value"] == pytest.approx(2 / 3)
    assert found["relative_position"]["value"] == pytest.approx(1 / 2)
    assert found["overall"]["value"] == pytest.approx(3 / 5)


def test_v_star_is_not_won_by_the_letter_of_the_published_first_option(score, tmp_path):
    """Always A, which is 100% where options are not shuffled: as often as the shuffle has it."""
    folder = v_star_folder(tmp_path / "v", attributes=40, relations=20)
    letters = [record.answer for record in v_star.read_folders(folder, seed=0)]
    found = score(folder, lambda record: "A")
    assert found["overall"]["value"] == letters.count("A") / 60
    assert found["direct_attributes"]["value"] == letters[:40].count("A") / 40 < 0.5
    assert found["relative_position"]["value"] == letters[40:].count("A") / 20 < 0.8


def test_v_star_list_keeps_its_letters(score, tmp_path):
    """Right on the first, its letter on the second, the wrong one on the third."""
    text = "What about the glove?\n(A) rubber\n(B) cotton\nAnswer with the option's letter."
    entries = [
        {"image": f"{n}.jpg", "text": text, "category": "direct_attributes", "question_id": n,
         "label": "B"}
        for n in range(3)
    ]  # fmt: skip
    folder = v_star_folder(tmp_path / "v")
    for n in range(3):
        picture = folder / "direct_attributes" / f"sa_{n}.jpg"
        (tmp_path / f"{n}.jpg").write_bytes(picture.read_bytes())
    path = tmp_path / "test_questions.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    said = {"test_questions/0": "cotton", "test_questions/1": "(B)", "test_questions/2": "A"}
    assert score(path, lambda record: said[record.id])["overall"]["value"] == pytest.approx(2 / 3)
