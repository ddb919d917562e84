"""Damaged sets and pictures, as a training run audits them and as a dry run looks at them."""

import base64
import json
import random
import shutil

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.data import layout
from lfpc_jax.trajectory import Picture, Record
from support import damage, micro
from support.formats import encoded

from .conftest import assert_sound

pytestmark = pytest.mark.slow

COUNT = 12


@pytest.fixture
def home(models, tmp_path, monkeypatch):
    """The folder of the micro config: its model, and a set for a test to make."""
    (tmp_path / "hf").symlink_to(models[0])
    monkeypatch.setenv("MICRO", str(tmp_path))
    return tmp_path


def records(count=COUNT):
    png = encoded("PNG")
    return [
        Record(
            id=f"r{place}", question="What is it?", answer="A", picture=Picture(data=png),
            options=("red", "blue"), targets=(((1.0, 2.0, 20.0, 30.0),),), longest_side=40,
        )
        for place in range(count)
    ]  # fmt: skip


def words(path, max_lost):
    return [
        *("--config", micro.__file__, "--data.train", path, "--data.validation", path),
        *("--data.max_lost", max_lost),
    ]


def surface(case):
    return ("audit", "dry_run")[case % 2], (0.5, 0.02)[case // 2 % 2]


@pytest.mark.parametrize("seed", range(2))
def test_records_as_lines(home, judged, seed):
    rng = random.Random(seed)
    path = home / "set"
    layout.write(path, records())
    table = path / "records.jsonl"
    lines = table.read_text().splitlines()
    for case in range(100):
        place = rng.randrange(COUNT)
        new = [line.encode() for line in lines]
        new[place] = damage.of_json(lines[place], rng).replace(b"\n", b" ")
        whole = b"\n".join(new) + b"\n"
        table.write_bytes(damage.of_bytes(whole, rng) if case % 10 == 9 else whole)
        name, lost = surface(case)
        judged(f"{seed}:{case} line {place + 1}", name, *words(path, lost), within=path)
    assert_sound(judged)


def test_meta_files(home, judged):
    rng = random.Random(7)
    path = home / "set"
    layout.write(path, records(), about={"selected from": ["x"], "selection": {"weights": "a"}})
    file = path / "meta.json"
    text = file.read_text()
    for case in range(100):
        file.write_bytes(damage.of_json(text, rng))
        name, lost = surface(case)
        judged(f"{case} meta.json", name, *words(path, lost), within=path)
    assert_sound(judged)


@pytest.mark.parametrize("seed", range(2))
def test_parquet_of_the_own_layout(home, judged, seed):
    rng = random.Random(seed)
    path = home / "set"
    layout.write(path, records(), table="parquet")
    table = path / "records.parquet"
    sound = table.read_bytes()
    for case in range(50):
        table.write_bytes(_parquet_damaged(sound, rng))
        name, lost = surface(case)
        judged(f"{seed}:{case} records.parquet", name, *words(path, lost), within=path)
    assert_sound(judged)


@pytest.mark.parametrize("seed", range(2))
def test_parquet_of_published_sets(home, judged, seed):
    rng = random.Random(seed)
    rows = {
        "problem": ["What?"] * COUNT,
        "answer": ["red"] * COUNT,
        "image": [{"bytes": encoded("PNG"), "path": None}] * COUNT,
        "question": ["What?"] * COUNT,
        "answers": [["red"] * 10] * COUNT,
        "question_id": list(range(COUNT)),
    }
    folder = home / "published"
    folder.mkdir()
    table = folder / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table(rows), table)
    sound = table.read_bytes()
    for case in range(50):
        table.write_bytes(_parquet_damaged(sound, rng))
        name, lost = surface(case)
        reader = ("think_lite", "text_vqa", "doc_vqa")[case % 3]
        judged(f"{seed}:{case} {reader}", name, *words(f"{reader}:{folder}", lost), within=folder)
    assert_sound(judged)


def _parquet_damaged(data, rng):
    """The footer, which says where everything lies, is damaged as often as the pages."""
    if rng.random() < 0.5:
        return damage.of_bytes(data, rng)
    size = int.from_bytes(data[-8:-4], "little")
    footer = damage.of_bytes(data[-8 - size : -8], rng)
    return data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + data[-4:]


def test_lists_of_published_sets(home, judged):
    rng = random.Random(3)
    row = {
        **{"problem": "What?", "solution": "red", "images": ["a.png"], "data_source": "x"},
        **{"question": "What?", "answers": ["red"] * 10, "image": "a.png", "question_id": 1},
    }
    path = home / "list.json"
    (home / "a.png").write_bytes(encoded("PNG"))
    text = json.dumps([row] * COUNT)
    for case in range(60):
        path.write_bytes(damage.of_json(text, rng))
        name, lost = surface(case)
        reader = ("visual_probe", "text_vqa", "doc_vqa")[case % 3]
        judged(f"{case} {reader}", name, *words(f"{reader}:{path}", lost), within=path)
    assert_sound(judged)


PIL.Image.init()
FORMATS = sorted(PIL.Image.OPEN)


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures(home, judged, picture, models, kind):
    """200 damaged pictures in a set, which an audit counts as lost or keeps, and 10 of them in
    front of a model."""
    rng = random.Random(kind)
    sound = encoded(kind)
    path = home / "set"
    line = records(1)[0]
    layout.write(path, [line])
    [entry] = map(json.loads, (path / "records.jsonl").read_text().splitlines())
    good = entry["image"]
    lines = []
    for place in range(200):
        (path / f"{place}.img").write_bytes(damage.of_bytes(sound, rng))
        lines.append(entry | {"id": f"r{place}", "image": f"{place}.img", "targets": []})
    lines += [entry | {"id": f"good{place}", "image": good} for place in range(20)]
    (path / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | {"count": len(lines)}))
    outcome = judged(kind, "audit", *words(path, 0.95), within=path)
    assert outcome.code == 0
    judged(kind, "dry_run", *words(path, 0.95), within=path)
    for place in range(10):
        file = path / f"{place}.img"
        asked = ["--model", models[0], "--image", file, "--question", "Which way?"]
        judged(f"{kind} {place}", "ask", *asked, "--out", home / "asked.png", within=file)
    shutil.rmtree(path)
    assert_sound(judged)


def test_tables_of_hr_bench_and_lists_of_v_star(home, judged):
    """Read as `evaluate.py` reads them, without a model."""
    rng = random.Random(5)
    image = base64.b64encode(encoded("PNG")).decode()
    head = "index\tquestion\tanswer\tA\tB\tC\tD\tcycle_category\tcategory\timage\n"
    row = f"0\tWhat?\tA\tred\tblue\tgreen\tgrey\tsingle_0\tsingle\t{image}\n"
    table = home / "hr_bench_4k.tsv"
    entry = {"image": "a.png", "text": "What?\n(A) red\n(B) blue", "category": "x"}
    text = json.dumps(entry | {"question_id": 1, "label": "A"})
    (home / "a.png").write_bytes(encoded("PNG"))
    listed = home / "test_questions.jsonl"
    for case in range(100):
        table.write_bytes(damage.of_bytes((head + row * 4).encode(), rng))
        listed.write_bytes(b"\n".join([damage.of_json(text, rng).replace(b"\n", b" ")] * 2))
        judged(f"{case} {table.name}", "benchmark", table, home / "pictures", within=home)
        judged(f"{case} {listed.name}", "benchmark", listed, home / "pictures", within=home)
    assert_sound(judged)
