"""A model is asked as its folder says: a run, old or new, its export, and what others made."""

import json
import logging
import re
import shutil
from dataclasses import asdict, replace

import pytest

from lfpc_jax.checkpoint import folder, store
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli import ask, asking_flags, convert, evaluate, select_resolution, train
from lfpc_jax.data import layout
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rewards.judge import JudgeSettings
from lfpc_jax.rollout.asking import FILE, Asking, prompt_text
from lfpc_jax.run import resuming
from lfpc_jax.run.config import ModelSettings, RolloutSettings, Source, TrainConfig, described
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.models import asking_of
from support import rigged, small

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]

ROLLOUT = RolloutSettings(
    convention="percent", image_tokens=32, crop_tokens=16, max_turns=3, turn_tokens=40,
    episode_tokens=80,
)  # fmt: skip
ASKED = Asking("percent", 32, 16, 3, 40, 80, prompt_text("percent"))
BASE_CARD = """---
license: other
license_name: tiny-research
license_link:
  - https://example.org/terms
language: en
---

# Tiny-VL-Instruct

The best small model: 99.9 % on everything.
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Begun as `train.py` begins it, from a model with a card; a checkpoint of step 20, and
    validations after 10, 20 and 30."""
    where = tmp_path_factory.mktemp("runs")
    base = where / "base"
    shutil.copytree(small.folder(), base)
    small.hf_config().save_pretrained(base)
    (base / "README.md").write_text(BASE_CARD)
    config = TrainConfig(
        model=ModelSettings(path="Tiny-VL-Instruct"), rollout=ROLLOUT, wandb_project="secret",
    )  # fmt: skip
    config = replace(config, data=replace(config.data, train=(Source("data/focus"),),
                                          validation=(Source("data/held"),)))  # fmt: skip
    made = RunFolder(where / "gap-run")
    made.begin(config, base, Origin(dtypes=("float32",)), None)
    keeper = Checkpoints(made.checkpoints)
    keeper.save(20, {"trained": small.params()}, {})
    keeper.close()
    lines = [
        {"step": step, "kind": kind, f"{kind}/accuracy": step / 100}
        for kind in ("train", "validation")
        for step in (10, 20, 30)
    ]
    (made.path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return made


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "hf"
    assert convert.main(["to-hf", str(run.path), str(out)]) == 0
    return out


def parsed(command, *words):
    first = {
        ask: ["--model", "m", "--image", "x", "--question", "y"], evaluate: ["out"],
        select_resolution: ["data", "out"],
    }[command]  # fmt: skip
    return command.parser().parse_args([*first, *words])


def test_a_run_s_assets_say_how_it_is_asked(run):
    assert Asking.read(run.assets) == run.asking == ASKED
    for path in (run.path, run.checkpoints / "best", run.checkpoints / "00000020"):
        assert asking_of(path) == ASKED


def test_an_old_run_says_it_by_its_settings(run, tmp_path):
    """As written before there was such a file, when `max_tokens` was of an episode."""
    old = tmp_path / "old"
    shutil.copytree(run.path, old)
    (old / "assets" / FILE).unlink()
    settings = json.loads((old / "config.json").read_text())
    rollout = settings["rollout"]
    rollout["max_tokens"] = 128
    del rollout["turn_tokens"], rollout["episode_tokens"]
    (old / "config.json").write_text(json.dumps(settings))
    expected = Asking("percent", 32, 16, 3, 128, 128)
    assert asking_of(old) == asking_of(old / "checkpoints" / "best") == expected
    assert asking_flags.resolved(parsed(ask), old).convention == "percent"
    assert convert.main(["to-hf", str(old), str(tmp_path / "hf")]) == 0
    assert asking_of(tmp_path / "hf") == expected


@pytest.mark.parametrize("command", [ask, evaluate])
def test_a_flag_that_is_left_out_is_the_model_s(run, capsys, command):
    several = ("image_tokens",) if command is evaluate else ()
    args = asking_flags.resolved(parsed(command), run.path, several=several)
    assert args.image_tokens == ([32] if several else 32)
    for name, value in asdict(ASKED).items():
        assert name in several or getattr(args, name) == value
    assert capsys.readouterr().err == ""


def test_a_flag_that_is_given_counts_and_is_said(run, capsys):
    words = ["--convention", "shown", "--crop-tokens", "1024", "--turn-tokens", "40"]
    args = asking_flags.resolved(parsed(ask, *words), run.path)
    assert (args.convention, args.crop_tokens, args.image_tokens) == ("shown", 1024, 32)
    assert args.prompt == prompt_text("shown")
    assert capsys.readouterr().err == (
        f"{run.path}: is asked differently than it was trained: convention shown, not percent; "
        "crop_tokens 1024, not 16\n"
    )
    for budgets, said in (["8", "32"], ""), (["8", "64"], "image_tokens 8, not 32"):
        words = ["--image-tokens", *budgets]
        args = asking_flags.resolved(parsed(evaluate, *words), run.path, several=("image_tokens",))
        assert args.image_tokens == [int(one) for one in budgets]
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="image_tokens is 0"):
        asking_flags.resolved(parsed(evaluate, "--image-tokens", "32", "0"), None,
                        several=("image_tokens",))  # fmt: skip


def test_less_room_than_a_run_without_a_limit_trained_with_is_said(tmp_path, capsys):
    """Turns of 2,048 as long as the context held them; a command makes room for 4,096 of all."""
    said = "episode_tokens 4096, not 0"
    (tmp_path / FILE).write_text(Asking(prompt=prompt_text("shown")).text)
    assert asking_flags.resolved(parsed(ask), tmp_path).episode_tokens == 4096
    assert said in capsys.readouterr().err
    asking_flags.resolved(parsed(ask, "--episode-tokens", "0"), tmp_path)
    assert capsys.readouterr().err == ""
    args = parsed(select_resolution)  # answers are one turn each
    asking_flags.resolved(args, tmp_path, usual=select_resolution._USUAL, turns=False)
    assert capsys.readouterr().err == ""
    (tmp_path / FILE).write_text(Asking(turn_tokens=512, prompt=prompt_text("shown")).text)
    asking_flags.resolved(parsed(ask), tmp_path)  # five turns fit
    assert capsys.readouterr().err == ""


def test_a_selection_without_questions_takes_a_run_s_processor(run):
    args = parsed(select_resolution, "--model", str(run.path), "--strategy", "hard")
    args = asking_flags.resolved(args, args.model, usual=select_resolution._USUAL)
    found = select_resolution._processor(args)
    assert found == ImageProcessor.from_folder(small.folder()).with_tokens(32)


def test_the_code_s_prompt_is_said_if_it_is_another(run, tmp_path, capsys):
    other = replace(ASKED, prompt=ASKED.prompt.replace("Answer the question", "Look"))
    (tmp_path / FILE).write_text(other.text)
    asking_flags.resolved(parsed(ask), tmp_path)
    assert "the prompt, whose first changed line is 'Answer the question" in capsys.readouterr().err


def test_a_folder_that_says_nothing_is_asked_as_the_paper_has_it(tmp_path, capsys):
    args = asking_flags.resolved(parsed(ask), tmp_path)
    usual = Asking("shown", 1024, 1024, 5, 2048, 4096, prompt_text("shown"))
    assert {name: getattr(args, name) for name in asdict(usual)} == asdict(usual)
    args = asking_flags.resolved(parsed(select_resolution), None, usual=select_resolution._USUAL)
    assert (args.image_tokens, args.turn_tokens) == (1024, 512)
    assert capsys.readouterr().err == ""


def test_a_run_without_a_limit_of_episodes_is_evaluated_with_the_usual_one(tmp_path, capsys):
    """What its context held says nothing about another budget's."""
    (tmp_path / FILE).write_text(replace(ASKED, episode_tokens=0).text)
    assert (
        asking_flags.resolved(parsed(ask), tmp_path).episode_tokens
        == asking_flags.EPISODE_TOKENS
        == 4096
    )
    assert capsys.readouterr().err == ""
    assert asking_flags.resolved(parsed(ask, "--episode-tokens", "0"), tmp_path).episode_tokens == 0
    assert capsys.readouterr().err == ""


def test_training_says_that_its_first_model_was_asked_otherwise(run, caplog):
    config = TrainConfig(model=ModelSettings(path=str(run.path)), rollout=ROLLOUT)
    with caplog.at_level(logging.WARNING):
        resuming.warn_of_other_asking(config, run.path)
        resuming.warn_of_other_asking(config, run.path / "nowhere")
    assert caplog.text == ""
    shown = replace(ROLLOUT, convention="shown", max_turns=5)
    with caplog.at_level(logging.WARNING):
        resuming.warn_of_other_asking(replace(config, rollout=shown), run.path)
    [line] = caplog.messages
    assert "convention shown, not percent; max_turns 5, not 3" in line
    assert str(run.path) in line


def test_a_run_that_goes_on_says_that_the_code_s_prompt_is_another(run, monkeypatch, caplog):
    config = TrainConfig(rollout=ROLLOUT)
    monkeypatch.setattr(
        "lfpc_jax.run.config.prompt_of",
        lambda asking: ASKED.prompt.replace("closer", "nearer"),
    )
    with caplog.at_level(logging.WARNING):
        resuming.warn_of_other_asking(config, run.path)
    assert "the prompt, whose first changed line is 'Answer the question" in caplog.text


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, None, ""),
        (("http://a/v1", "one"), ("http://a/v1", "one"), ""),
        (("http://a/v1", "one"), ("http://b/v1", "one"), "one at http://a/v1, .* one at http://b"),
        (("http://a/v1", "one"), ("http://a/v1", "two"), "one at http://a/v1, .* two at http://a"),
        (("http://a/v1", "one"), None, "one at http://a/v1, .* no judge: "),
        (None, ("http://a/v1", "one"), "no judge, .* one at http://a/v1: "),
    ],
)
def test_a_run_that_goes_on_with_another_judge_says_so(tmp_path, caplog, before, now, said):
    """It may, and what a reward means is then another."""
    config = TrainConfig(model=ModelSettings(path="model"))
    old = before and JudgeSettings(*before, cache=str(tmp_path))
    new = now and JudgeSettings(*now, cache=str(tmp_path), concurrent=2)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.settings.write_text(json.dumps(described(replace(config, judge=old))))
    judged = run.judged_by
    with caplog.at_level(logging.WARNING):
        resuming.warn_of_other_judge(run, judged, replace(config, judge=new))
    assert len(caplog.messages) == bool(said)
    assert re.search(said, caplog.text)


def test_an_export_s_card_is_the_run_s_and_not_the_base_s(run, export):
    card = (export / "README.md").read_text()
    assert card.startswith(
        "---\nlicense: other\nlicense_name: tiny-research\nlicense_link:\n"
        "  - https://example.org/terms\nlibrary_name: transformers\n"
        "pipeline_tag: image-text-to-text\ntags: [lfpc, tool-use]\n---\n\n# gap-run, step 20\n"
    )
    assert "99.9" not in card
    assert "language" not in card
    assert "secret" not in card
    for row in (
        "| began with | `Tiny-VL-Instruct` |",
        "| stage | grpo |",
        "| trained on | `data/focus` (weight 1) |",
        "| reward | accuracy 0.8, format 0.2, tool 1.2, grounding 0 |",
        "| prompts and rollouts a step | 256 x 16 |",
        "| learning rate | 1e-06 |",
        "| boxes are written | percent |",
        "| tokens of the shown image, at most | 32 |",
        "| over all turns, at most | 80 |",
        "| validation/accuracy | 0.2 |",  # of step 20: that of 30 is of other weights
    ):
        assert f"\n{row}\n" in card
    assert "from 0 to 100." in card, "the prompt"
    assert "After step 20, on up to 256 records of `data/held` (weight 1):" in card
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert settings["rollout"] == json.loads(run.settings.read_text())["rollout"]


def test_stores_and_other_folders_keep_it_byte_by_byte(export, tmp_path):
    orbax, back = tmp_path / "orbax", tmp_path / "back"
    assert convert.main(["to-orbax", str(export), str(orbax)]) == 0
    assert store.is_store(orbax)
    assert asking_of(orbax) == ASKED
    assert convert.main(["to-hf", str(orbax), str(back)]) == 0
    for name in (FILE, "README.md", folder.SINGLE, "config.json"):
        assert (back / name).read_bytes() == (export / name).read_bytes()
    assert {one.name for one in back.iterdir()} == {one.name for one in export.iterdir()}


def test_an_export_is_evaluated_as_it_was_trained(export, tmp_path, capsys):
    """No flag says how: scores were 0, since boxes were read in pixels and crops were 1,024."""
    layout.write(tmp_path / "set", rigged.world(1))
    out = tmp_path / "out"
    command = [str(out), "--model", str(export), "--data", str(tmp_path / "set"), "--slots", "2"]
    assert evaluate.main(command) == 0
    assert "otherwise" not in capsys.readouterr().err
    asked = Journal(out).settings()["asked"]
    for name in ("convention", "crop_tokens", "max_turns", "turn_tokens", "episode_tokens"):
        assert asked[name] == getattr(ASKED, name)
    [group] = Journal(out).read(Trial("set", 32, "tool"), 1)
    [episode] = group.trajectories
    tokenizer = small.dialogue().tokenizer
    assert (episode.ids == tokenizer.image_pad).sum() >= 1
    prompt = tokenizer.decode(episode.ids[: episode.turns[0].start])
    assert "as shares of the first image's width and height, from 0 to 100" in prompt
    width, height = episode.shown
    assert width * height <= 32 * 28**2
    assert Asking.read(out / "assets") == ASKED


def test_the_model_that_ships_says_how_it_is_asked():
    warm = train.CONFIGS / "micro" / "warm"
    config = load_config("baseline.py:micro")
    assert asking_of(warm) == config.asking
