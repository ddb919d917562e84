"""Crops of an evaluation as its report shows them: what the model saw, and not what was cut."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.cli import report
from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.conditions import CONDITIONS, under
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.run import ask
from lfpc_jax.evaluation.seen import shown_crops
from lfpc_jax.evaluation.tables import sheets
from support import rigged, small

SEED = 3
BLOCK = r'<script type="[^"]+" id="([^"]+)">(.*?)</script>'


@pytest.fixture(scope="module")
def records():
    return tuple(rigged.world(5))


@pytest.fixture(scope="module")
def engine():
    return rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())


@pytest.fixture(scope="module")
def journal(tmp_path_factory, records, engine):
    journal = Journal(tmp_path_factory.mktemp("evaluation"))
    shutil.copytree(small.folder(), journal.folder / "assets")
    benchmark = Benchmark("set", "layout", records, ())
    asked = {
        "rollouts": 1,
        "image_token": engine.dialogue.tokenizer.image_pad,
        "crop_tokens": 16,
        "convention": "shown",
        "seed": SEED,
    }
    journal.begin(
        asked, {"set": {"digest": benchmark.digest, "questions": len(records), "column": None}}
    )
    ask(lambda: engine, benchmark, 32, CONDITIONS, journal, rollouts=1, seed=SEED)
    return journal


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_crop_comes_out_again_as_the_model_saw_it(journal, engine, records, name):
    with under(engine, name, records, seed=SEED):
        seen = {
            group.record.id: group.crops for group in engine.run(records, rollouts=1, seed=SEED)
        }
    show = shown_crops(journal, Trial("set", 32, name))
    assert show is not None
    groups = list(journal.read(Trial("set", 32, name), 1))
    assert len(groups) == len(records)
    for group in groups:
        [trajectory] = group.trajectories
        found = show(group.record, trajectory, 0, pictures.original(group.record.picture))
        np.testing.assert_array_equal(found, seen[group.record.id][0][0])


@pytest.fixture
def twice(tmp_path):
    """Of two targets each, and what was seen in three crops of the same corner."""

    def three_times(episode):
        if episode.dialogue.toolbox.tools and len(episode.turns) < 3:
            return rigged.call((2, 2, 20, 20))
        return rigged.answer(episode.opening.record, "red")

    far = ((270.0, 270.0, 310.0, 310.0),)
    records = [replace(one, targets=(*one.targets, far)) for one in rigged.world(3)]
    engine = rigged.RiggedEngine(three_times, small.dialogue())
    journal = Journal(tmp_path)
    shutil.copytree(small.folder(), journal.folder / "assets")
    asked = {"rollouts": 1, "image_token": engine.dialogue.tokenizer.image_pad, "crop_tokens": 16,
             "convention": "shown", "seed": SEED}  # fmt: skip
    benchmark = Benchmark("set", "layout", tuple(records), ())
    journal.begin(
        asked, {"set": {"digest": benchmark.digest, "questions": len(records), "column": None}}
    )
    ask(lambda: engine, benchmark, 32, ("truth",), journal, rollouts=1, seed=SEED)
    with under(engine, "truth", records, seed=SEED):
        seen = {one.record.id: one.crops[0] for one in engine.run(records, rollouts=1, seed=SEED)}
    return journal, asked, benchmark, seen


def shown_again(journal):
    """By record, every crop of an episode under `truth`."""
    show = shown_crops(journal, Trial("set", 32, "truth"))
    return {
        group.record.id: [
            show(group.record, one, number, pictures.original(group.record.picture))
            for number in range(3)
        ]
        for group in journal.read(Trial("set", 32, "truth"), 1)
        for one in group.trajectories
    }


@pytest.mark.seconds
def test_every_crop_of_several_targets_comes_out_again(twice):
    journal, _, _, seen = twice
    found = shown_again(journal)
    assert set(found) == set(seen)
    for name, crops in found.items():
        assert [one.tolist() for one in crops] == [one.tolist() for one in seen[name]]
        both, near, far = crops
        assert rigged.named(near) is not None  # the square alone
        assert near.tolist() != far.tolist() != both.tolist() != near.tolist()


def test_a_folder_of_before_is_shown_as_it_was_and_does_not_go_on(twice):
    """When of several targets each crop showed the nearest."""
    journal, asked, benchmark, _ = twice
    path = journal.folder / "evaluation.json"
    old = json.loads(path.read_text())
    assert old.pop("truth") == "all, then each"
    path.write_text(json.dumps(old))
    for crops in shown_again(journal).values():
        assert rigged.named(crops[0]) is not None
        assert crops[0].tolist() == crops[1].tolist() == crops[2].tolist()
    about = {"set": {"digest": benchmark.digest}}
    with pytest.raises(ValueError, match=r"set-32-truth was shown one alone.*choose another fold"):
        journal.begin(asked, about)
    for part in (journal.folder / "trajectories").glob("set-32-truth-p*"):
        part.unlink()
    journal.begin(asked, about)
    assert "truth" in json.loads(path.read_text())


def test_results_say_which_answers_are_of_the_rule_of_before(twice):
    journal, _, _, _ = twice

    def told():
        found = rigged.counted(journal)
        [budget] = found["benchmarks"]["set"]["budgets"].values()
        warned = [line for sheet in sheets(found, {}) for line in sheet.warnings]
        return budget["conditions"]["truth"].get("one_target_alone"), " ".join(warned)

    assert told() == (0, "")
    path = journal.folder / "evaluation.json"
    old = json.loads(path.read_text())
    del old["truth"]
    path.write_text(json.dumps(old))
    count, said = told()
    assert count == 3
    assert "set, 32: truth: 3 questions of several targets were shown one alone with every" in said


def test_other_pictures_are_made_again_only_of_all_that_were_asked(journal, tmp_path):
    """Each record was shown the next one's picture; without one of them it would be another's."""
    folder = tmp_path / "evaluation"
    shutil.copytree(journal.folder, folder)
    part = folder / "trajectories" / "set-32-tool-p0.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-1]))
    assert shown_crops(Journal(folder), Trial("set", 32, "noise")) is not None
    with pytest.raises(ValueError, match="4 of the 5 questions have an answer"):
        shown_crops(Journal(folder), Trial("set", 32, "other"))


def test_crops_that_were_shown_as_they_are_need_nothing(journal):
    assert shown_crops(journal, Trial("set", 32, "tool")) is None


def test_the_page_has_what_the_model_saw(journal, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert report.main([str(journal.folder), "--out", str(page)]) == 0
    assert "as they were cut" not in capsys.readouterr().err
    blocks = dict(re.findall(BLOCK, page.read_text(), re.DOTALL))
    lines = json.loads(blocks["index"])["episodes"]
    for number, line in enumerate(lines):
        name = line["part"].split("-")[2]
        if name == "direct":
            continue
        crop = json.loads(blocks[f"episode-{number}"])["turns"][0]["crop"]
        assert crop.get("by") == (None if name == "tool" else name)
        url = blocks[f"picture-{crop['image']}"]
        with PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert [*pixels.shape[1::-1]] == crop["seen"]
        if name == "blank":
            assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[123, 117, 104]]
        if name == "noise":
            assert pixels.std() > 60  # uniform bytes have 73.9


def test_what_cannot_be_made_again_is_said_and_shown_as_cut(journal, tmp_path, capsys):
    folder = tmp_path / "evaluation"
    shutil.copytree(journal.folder, folder)
    (folder / "assets" / "preprocessor_config.json").unlink()
    assert report.main([str(folder), "--parts", "*-noise-*"]) == 0
    assert "crops are shown as they were cut, which is not how the model" in capsys.readouterr().err
