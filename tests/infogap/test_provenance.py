"""Trainable on as it was selected: the same budget, the same model, or it is said."""

from dataclasses import replace

import PIL.Image
import pytest

from lfpc_jax.cli import train
from lfpc_jax.data import layout
from lfpc_jax.infogap.provenance import check_budget, doubts, selection_of
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Picture, Record
from support import micro, small

PROCESSOR = ImageProcessor()


def selected(folder, **made):
    made = {"strategy": "answer", "image_tokens": 1024} | made
    record = Record("r", "Which?", "A", small.picture(0), ("red", "blue"), longest_side=56)
    layout.write(folder, [record], about={"selected from": ["set"], "selection": made})
    return str(folder)


def test_another_budget_than_the_selections_is_refused_with_the_remedies(tmp_path):
    source = selected(tmp_path / "set")
    assert selection_of(source)["image_tokens"] == 1024
    check_budget([source], 1024)
    for name in (source, f"layout:{source}"):
        with pytest.raises(ValueError, match=r"set: was selected .* 1024 .* is 64: .*--image-tok"):
            check_budget([name], 64)


def test_sets_without_a_gap_and_those_that_were_not_selected_are_trained_at_any_budget(tmp_path):
    layout.write(tmp_path / "plain", [small.record(0)])
    layout.write(tmp_path / "old", [small.record(0)],
                 about={"selected from": ["set"], "settings": {"strategy": "answer"}})  # fmt: skip
    names = [selected(tmp_path / "none", strategy="none"), str(tmp_path / "plain"),
             str(tmp_path / "old"), "deep_eyes:nowhere", "nowhere"]  # fmt: skip
    check_budget(names, 64)
    assert [selection_of(name) for name in names[1:]] == [None, {}, None, None]


@pytest.mark.compiles
def test_train_refuses_it_before_anything_is_loaded_and_may_be_told_not_to(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MICRO", str(tmp_path))
    small.hf_folder(tmp_path / "hf")
    selected(tmp_path / "set")
    command = ["--config", micro.__file__, "--dry-run"]
    assert train.main(command) == 1
    assert "rollout.image_tokens is 24" in capsys.readouterr().err
    assert train.main([*command, "--other-budget", "--rollout.prompt_text", "48,64"]) == 0


def test_records_without_a_gap_are_counted(tmp_path):
    PIL.Image.new("RGB", (896, 448)).save(tmp_path / "p.png")
    whole = Record("r", "Which?", "A", Picture(str(tmp_path / "p.png")), ("red", "blue"))
    records = [replace(whole, longest_side=side) for side in (None, 224, 448, 896, 2000)]

    def told(tokens):
        return list(doubts("nowhere", records, PROCESSOR.with_tokens(tokens), lambda: "w"))

    # 512 tokens show all of it; 128 show 448 x 224; 32 show 224 x 112.
    assert [one.split(" records")[0] for one in told(512)] == ["2 of 5"]
    assert [one.split(" records")[0] for one in told(128)] == ["3 of 5"]
    assert [one.split(" records")[0] for one in told(32)] == ["4 of 5"]


def test_another_model_is_told(tmp_path):
    source = selected(tmp_path / "set", weights="one")

    def told(weights):
        return list(doubts(source, [], PROCESSOR, lambda: weights))

    assert told("one") == []
    assert "selected by another model" in told("two")[0]
    assert list(doubts(selected(tmp_path / "hard"), [], PROCESSOR, pytest.fail)) == []
