"""A crop network's folder says that it is one; every command asks it as that, or says why not."""

import json
import re
from dataclasses import replace

import pytest

from lfpc_jax.cli import ask, asking_flags, evaluate, select_resolution
from lfpc_jax.cropvlm.proposing import OUTLINE, Proposing, prompt_text
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.rollout.asking import FILE, Asking
from lfpc_jax.run.building import dialogue_of
from lfpc_jax.run.config import Rewards, RolloutSettings, Source, TrainConfig
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.dialogues import dialogue_as, prompt_of
from lfpc_jax.run.folder import RunFolder
from support import small

ROLLOUT = RolloutSettings(
    dialogue="box", convention="percent", image_tokens=32, crop_tokens=16, max_turns=1,
    turn_tokens=24,
)  # fmt: skip
CONFIG = TrainConfig(rollout=ROLLOUT)
ASKED = Asking("percent", 32, 16, 1, 24, prompt=prompt_text(), dialogue="box")


def folder(path, asking):
    path.mkdir()
    (path / FILE).write_text(asking.text)
    return path


def test_the_settings_say_how_a_crop_network_is_asked():
    assert CONFIG.asking == ASKED
    assert CONFIG.rules.max_turns == 1
    dialogue = dialogue_of(CONFIG, small.folder())
    assert type(dialogue) is Proposing
    assert dialogue.processor.max_pixels == 32 * 28**2
    [tool] = dialogue.toolbox.tools
    assert (tool.convention, tool.processor.max_pixels) == ("percent", 16 * 28**2)


def test_a_crop_s_budget_is_the_target_s():
    config = replace(CONFIG, target=TargetSettings(path="m", crop_tokens=9))
    assert config.asking == replace(ASKED, crop_tokens=9)
    [tool] = dialogue_of(config, small.folder()).toolbox.tools
    assert (tool.processor.max_pixels, tool.aspect_limit) == (9 * 28**2, 9)


def test_the_noted_prompt_is_what_the_dialogue_says():
    dialogue = dialogue_as(ASKED, small.folder())
    for options in ((), ("FIRST", "SECOND")):
        [turn] = dialogue.messages(small.record(0, question="QUESTION", options=options))
        assert f"]\n{turn['content'][1]['text']}\n" in ASKED.prompt
    assert ASKED.prompt.count(OUTLINE) == 2
    assert prompt_of(Asking()) != ASKED.prompt


def test_a_prompt_without_the_tool_is_refused_of_a_crop_network():
    config = replace(
        CONFIG,
        without_tool=0.5,
        model=replace(CONFIG.model, path="m"),
        data=replace(CONFIG.data, train=(Source("d"),)),
        rewards=Rewards(accuracy=0.0, format=0.0, tool=0.0, valid=1.0),
    )
    with pytest.raises(ValueError, match=r"without_tool is 0\.5 .* set --without_tool 0"):
        check(config)
    check(replace(config, without_tool=0.0))


def words_of(command):
    first = {
        ask: ["--model", "m", "--image", "x", "--question", "y"],
        evaluate: ["out"],
        select_resolution: ["data", "out"],
    }[command]
    return command.parser().parse_args(first)


@pytest.mark.parametrize("command", [ask, evaluate, select_resolution])
def test_a_command_without_a_target_says_that_a_crop_network_answers_nothing(command, tmp_path):
    cropper = folder(tmp_path / "cropper", ASKED)
    several = ("image_tokens",) if command is evaluate else ()
    with pytest.raises(ValueError, match=re.escape(f"{cropper}: is a crop network")) as refused:
        asking_flags.resolved(words_of(command), cropper, several=several)
    assert "--target" in str(refused.value)


def test_a_crop_network_is_asked_as_its_folder_says(tmp_path, capsys):
    cropper = folder(tmp_path / "cropper", ASKED)
    usual = asking_flags.BOX_USUAL
    args = asking_flags.resolved(words_of(ask), cropper, usual=usual)
    assert (args.dialogue, args.convention, args.max_turns) == ("box", "percent", 1)
    assert (args.image_tokens, args.crop_tokens, args.turn_tokens) == (32, 16, 24)
    assert args.prompt == ASKED.prompt
    assert capsys.readouterr().err == ""
    flags = ask.parser().parse_args(
        ["--model", "m", "--image", "x", "--question", "y", "--image-tokens", "64"]
    )
    assert asking_flags.resolved(flags, cropper, usual=usual).image_tokens == 64
    assert "image_tokens 64, not 32" in capsys.readouterr().err
    flags.max_turns = 3
    with pytest.raises(ValueError, match="max_turns is 3, and a crop network's"):
        asking_flags.resolved(flags, cropper, usual=usual)


def test_a_model_that_answers_can_be_asked_for_boxes(tmp_path, capsys):
    answering = folder(tmp_path / "answering", Asking("percent", 48, 12, 4, 128, 200))
    args = asking_flags.resolved(words_of(ask), answering, usual=asking_flags.BOX_USUAL)
    assert (args.dialogue, args.image_tokens, args.max_turns, args.turn_tokens) == (
        "box",
        48,
        1,
        32,
    )
    assert args.prompt == ASKED.prompt
    assert capsys.readouterr().err == (
        f"{answering}: is asked for boxes, and was trained to answer questions\n"
    )
    args = asking_flags.resolved(words_of(ask), tmp_path, usual=asking_flags.BOX_USUAL)
    assert (args.dialogue, args.image_tokens) == ("box", 1024)


def test_a_run_s_folder_says_it_with_or_without_its_file(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.assets.mkdir(parents=True)
    run.settings.write_text(json.dumps({"rollout": {"dialogue": "box", "convention": "percent",
                            "max_turns": 1, "turn_tokens": 24, "image_tokens": 32,
                            "crop_tokens": 16}}))  # fmt: skip
    assert run.asking == replace(ASKED, prompt="")
