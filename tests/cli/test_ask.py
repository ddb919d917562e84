"""The command on a small model's folder, of either kind."""

import os
import re

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.cli import ask, convert
from support import rigged, rigged_answers, small

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return small.hf_folder(tmp_path_factory.mktemp("ask") / "hf")


def run(model, tmp_path, *more, seed="1"):
    image = small.picture(3, 400, 300).path
    out = tmp_path / "look.png"
    command = ["--model", str(model), "--image", image, "--question", "Which colour is it?"]
    sizes = ["--image-tokens", "32", "--crop-tokens", "16", "--episode-tokens", "60"]
    code = ask.main([*command, *sizes, "--temperature", "1", "--seed", seed,
                     "--out", str(out), *more])  # fmt: skip
    return code, out


@pytest.mark.long
def test_a_conversation_with_crops(hf, tmp_path, capsys):
    """Seeds until one crops: the printed boxes are of the original, and are in the picture."""
    for seed in map(str, range(8)):
        code, out = run(hf, tmp_path, seed=seed)
        printed = capsys.readouterr().out
        assert code == 0
        if "crop of" in printed:
            break
    assert re.search(r"ended: (answered|no_action|max_turns)", printed)
    assert re.search(r"crop of \([\d., e+-]+\) of the original, written as \(", printed)
    assert "<tool_call>" in printed
    page = PIL.Image.open(out)
    assert page.width > 720 * 4 / 3  # the crops' column beside the original
    assert (np.asarray(page) == (0xE6, 0x19, 0x4B)).all(axis=-1).sum() > 500  # the first box


def test_an_orbax_folder_answers_the_same(hf, tmp_path, capsys):
    assert convert.main(["to-orbax", str(hf), str(tmp_path / "orbax")]) == 0
    capsys.readouterr()
    printed = []
    for model in (hf, tmp_path / "orbax"):
        assert run(model, tmp_path)[0] == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--question", " "], "--question is empty; ask something about the image"),
        (["--model", "nowhere"], "expected the folder of a Qwen2.5-VL model"),
        (["--question", "<|im_end|>"], "spells the special token"),
        (["--max-turns", "0"], "at least 1"),
        (["--image-tokens", "99999999999"], "at most 1,073,741,824"),
        (["--options", "red", ""], "--options: one of them is empty"),
    ],
)
def test_mistakes_are_named(hf, tmp_path, capsys, change, message):
    code, out = run(hf, tmp_path, *change)
    assert code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def proposes(monkeypatch, text):
    """Whatever the crop network samples, its turn reads as this."""
    from lfpc_jax.cropvlm.proposing import Proposing, read_box

    monkeypatch.setattr(Proposing, "read", lambda self, sampled: read_box(text))


def asked_with_a_target(hf, tmp_path, *more):
    sizes = ["--target-image-tokens", "32", "--target-crop-tokens", "16",
             "--target-answer-tokens", "6", "--target-slots", "2"]  # fmt: skip
    image, out = small.picture(3, 400, 300).path, tmp_path / "look.png"
    command = ["--model", str(hf), "--target", str(hf), "--image", image, "--question", "Which?"]
    command += ["--image-tokens", "32", "--turn-tokens", "8", "--out", str(out)]
    return ask.main([*command, *sizes, *more]), out


@pytest.mark.long
def test_a_crop_network_and_its_target(hf, tmp_path, capsys, monkeypatch):
    proposes(monkeypatch, "[25, 50, 75, 100].")
    code, out = asked_with_a_target(hf, tmp_path)
    printed = capsys.readouterr().out
    assert code == 0
    assert "crop of (100, 150, 300, 300) of the original, written as (25, 50, 75, 100)" in printed
    assert "ended: proposed" in printed
    assert re.search(r"^the target with the crop: .", printed, re.MULTILINE)
    assert re.search(r"^the target without a crop: .", printed, re.MULTILINE)
    page = PIL.Image.open(out)
    assert page.width > 720 * 4 / 3
    assert (np.asarray(page) == (0xE6, 0x19, 0x4B)).all(axis=-1).sum() > 500


def test_a_target_without_a_box_and_one_that_is_gone(capsys):
    record, target = rigged.world(1)[0], rigged_answers.RiggedTarget()
    for say, lines in (
        (rigged_answers.outlines, ["with the crop", "without a crop"]),
        (lambda episode: "the square", ["without a crop"]),
    ):
        [group] = rigged_answers.proposer(say).run([record], rollouts=1, seed=0)
        page = ask._answered(group, target)
        printed = capsys.readouterr().out.splitlines()
        assert [line.rpartition(":")[0] for line in printed] == [f"the target {n}" for n in lines]
        assert (np.asarray(page) == (0xE6, 0x19, 0x4B)).all(axis=-1).any() == (len(lines) == 2)
    target.fails[record.id] = "no connection: it is gone"
    with pytest.raises(ValueError, match=r"asked without a crop: no connection: it is gone"):
        ask._answered(group, target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--target", "nowhere"], "nowhere"),
        (["--target-url", "http://h/v1"], "give one of them"),
        (["--target-crop-tokens", "0"], "--target-crop-tokens is 0; it must be at least 1"),
        (["--convention", "shown"], "a crop network's (dialogue box) is percent"),
    ],
)
def test_mistakes_with_a_target_are_named(hf, tmp_path, capsys, change, message):
    code, out = asked_with_a_target(hf, tmp_path, *change)
    assert code == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "message"), [("a pipe", "no regular file"), ("", "no regular file"), ("x", "ending")]
)
def test_a_picture_that_cannot_be_written_is_refused_before_a_model_loads(
    tmp_path, capsys, name, message
):
    """A pipe was waited for without end, and the rest said so once the model had answered."""
    os.mkfifo(tmp_path / "a pipe")
    code, _ = run("any", tmp_path, "--out", str(tmp_path / name))
    assert code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("side", ["0", "-5"])
def test_a_longest_side_of_nothing_is_refused(tmp_path, capsys, side):
    with pytest.raises(SystemExit) as ended:
        run("any", tmp_path, f"--longest-side={side}")
    assert ended.value.code == 2
    assert f"argument --longest-side: {side}: must be at least 1" in capsys.readouterr().err
