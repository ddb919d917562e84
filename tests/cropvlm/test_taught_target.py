"""A target is taught by demonstrations: what it is shown, what it learns, and what is refused."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from configs.micro import target
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.data.world import World
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.dialogues import dialogue_as
from lfpc_jax.run.episodes import demonstrate
from support import small

SETTINGS = TargetSettings(image_tokens=small.SHAPES.image_tokens, crop_tokens=16)
BOX, ANSWER = "[10, 20, 60, 80].", "Red."


def taught(*turns):
    """The episode, and the dialogue that it was made with."""
    config = target.get_config()
    config = replace(
        config,
        rollout=replace(config.rollout, capacity=small.SHAPES.capacity),
        demonstrate=lambda record, view, rng: turns,
    )
    dialogue = Showing.from_folder(small.folder(), SETTINGS)
    [group] = demonstrate(config, dialogue, [dialogue.open(small.record(0))], 0)
    return group, dialogue


@pytest.mark.parametrize("box", [(16.0, 24.0, 96.0, 96.0), None])
def test_the_episode_is_the_targets_conversation_and_its_answer_alone_is_learned(box):
    group, dialogue = taught(*([BOX] if box else []), ANSWER)
    [trajectory] = group.trajectories
    view = dialogue.view(small.record(0))
    assert view.original.size == (160, 120)  # so BOX is (16, 24, 96, 96)
    asked = dialogue.conversation(small.record(0), box, view)
    grids = [dialogue.processor.grid_of(picture) for picture in asked.pictures]
    prompt = dialogue.chat.encode(asked.messages, grids, True)
    said = [*dialogue.tokenizer.encode(ANSWER), dialogue.tokenizer.im_end]
    np.testing.assert_array_equal(trajectory.ids, [*prompt, *said])
    np.testing.assert_array_equal(
        np.flatnonzero(trajectory.sampled), len(prompt) + np.arange(len(said))
    )
    shown = [group.image, *group.crops[0]]
    assert len(shown) == len(asked.pictures) == (2 if box else 1)
    for ours, theirs in zip(shown, asked.pictures):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        (("there", ANSWER), r"must be an answer, with at most a box"),
        ((BOX, BOX, ANSWER), r"must be an answer, with at most a box"),
        (("[10, 20, 10, 20].", ANSWER), r"record 'r0': .*covers nothing"),
    ],
)
def test_what_is_no_demonstration_is_refused(turns, message):
    with pytest.raises(ValueError, match=message):
        taught(*turns)


def test_settings_that_cannot_teach_a_target_are_refused():
    config = target.get_config()
    check(config)
    with pytest.raises(ValueError, match=r"set --rollout\.max_turns 2"):
        check(replace(config, rollout=replace(config.rollout, max_turns=1)))
    update = replace(config.update, objective=replace(config.update.objective, kind="grpo"))
    with pytest.raises(ValueError, match="set --stage sft with `demonstrate`"):
        check(replace(config, stage="grpo", update=update))


def test_a_folder_says_that_it_was_taught_so():
    asking = target.get_config().asking
    assert asking.dialogue == "target"
    assert "Give a very brief answer." in asking.prompt
    dialogue = dialogue_as(asking, small.folder())
    assert isinstance(dialogue, Showing)
    assert dialogue.presentation == "both"


def test_the_small_worlds_boxes_lie_in_the_picture_and_answers_end_as_published():
    rng = np.random.default_rng(0)
    records = [*World(target.scene.MICRO, 1, "train", 40)]
    boxes = [target.drawn(record, rng) for record in records for _ in range(5)]
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 < x2 <= 224
        assert 0 <= y1 < y2 <= 224
    areas = np.array([(x2 - x1) * (y2 - y1) / 224**2 for x1, y1, x2, y2 in boxes])
    assert areas.min() < 0.03
    assert areas.max() == 1
    shown = np.zeros((112, 112, 3), np.uint8)
    turns = [
        target.answered(record, View(shown, PIL.Image.new("RGB", (224, 224))), rng)
        for record in records
        for _ in range(3)
    ]
    assert {len(turn) for turn in turns} == {1, 2}
    assert all(answer[0].isupper() and answer.endswith(".") for *_, answer in turns)
