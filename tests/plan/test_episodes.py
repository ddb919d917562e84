"""Episodes that a plan takes: those that can be, a run's own, and how they are laid out."""

import numpy as np
import pytest

from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.model.config import published
from lfpc_jax.plan.episodes import (
    PlannedEpisode,
    layout_of,
    mean_episode,
    planned_episode,
    planned_items,
    seen_items,
)
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.run.config import RolloutSettings, TrainConfig
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.shapes import RolloutShapes, TrainShapes
from lfpc_jax.trajectory import Group, Picture, Record, Trajectory

pytestmark = pytest.mark.compiles


def test_only_an_episode_that_can_be_is_planned_for():
    """Of two turns of 64 tokens, at most one of which a crop follows."""
    config = TrainConfig(rollout=RolloutSettings(max_turns=2, turn_tokens=64))
    assert planned_episode(config, None, None) == PlannedEpisode(sampled=128, crops=1)
    assert planned_episode(config, 100, 0) == PlannedEpisode(sampled=100, crops=0)
    for sampled, crops, message in ((129, None, "--sampled 129.*at most 128"), (1, 2, "--crops 2")):
        with pytest.raises(ValueError, match=message):
            planned_episode(config, sampled, crops)
    assert planned_episode(TrainConfig(), None, None) == PlannedEpisode()


def test_no_episode_is_planned_for_that_its_context_cannot_hold():
    """Of 8,192 ids the image and the prompt's text take 1,424, each crop and its text 1,088."""
    config = load_config("stage1.py", CONFIGS)
    assert planned_episode(config, 6768, 0).sampled == 6768
    assert planned_episode(config, 2416, 4).sampled == 2416
    for sampled, crops in ((6769, 0), (2417, 4), (10240, None)):
        with pytest.raises(ValueError, match=f"--sampled {sampled} .*rollout.capacity 8192"):
            planned_episode(config, sampled, crops)
    assert planned_episode(load_config("authors_stage1.py", CONFIGS), 10240, 4).sampled == 10240


def laid_out(shards=16, groups=32, cfg=None, **sizes):
    cfg = cfg or published("7b", kernel="xla")
    shapes = TrainShapes(**{"row_tokens": 8192, "rows": 1, "places": 2048, "windows": 144,
                            "span": 72, "shared": True} | sizes)  # fmt: skip
    rollout = RolloutShapes(capacity=8192)
    items = planned_items(PlannedEpisode(), cfg, rollout, groups=groups, rollouts=16)
    return layout_of(items, shapes, cfg, shards=shards, platform="tpu")


def test_a_planned_mini_batch_is_laid_out_by_the_packer():
    """A prompt of 1,424 ids, and 16 episodes of 1,488 more. A row of 8,192 holds the prompt without
    its last id and four episodes with it: 7,379 tokens. Two groups a shard are eight such rows,
    and two pictures with 64 of 72 windows in each of 17 micro-batches."""
    layout = laid_out()
    assert (layout.rows, layout.crowded, layout.pictures, layout.wide) == (8, 0, 17, 0)
    assert layout.fill == pytest.approx((1423 + 4 * 1489) / 8192)
    assert layout.windows_fill == pytest.approx(64 / 72)
    assert layout.copies == 4
    assert laid_out(rows=2).rows == 4


def test_a_planned_row_without_shared_prompts_holds_whole_episodes():
    """Two of 2,912 tokens."""
    layout = laid_out(shared=False)
    assert (layout.rows, layout.copies) == (16, 16)
    assert layout.fill == pytest.approx(2 * 2912 / 8192)


def test_planned_rows_with_more_tokens_that_count_than_places_are_crowded():
    """1,600 of them in a row."""
    assert laid_out(places=1600).crowded == 0
    assert laid_out(places=1599).crowded == 8


def test_a_run_s_episodes_are_planned_for(tmp_path):
    """As a finished run kept them, with its own ids: prompts of 20 with a picture of 4 tokens, 5
    sampled, a crop of 9, and 7 sampled."""
    cfg = published("3b")
    picture, crop = [cfg.image_token] * 4, [cfg.image_token] * 9
    ids = np.array([1, *picture, *[2] * 15, *[3] * 5, 4, *crop, 4, *[3] * 7], np.int32)
    sampled, zeros = ids == 3, np.zeros(len(ids), np.float32)
    group = Group(
        Record("a", "?", "!", Picture(data=b"none")),
        tuple(
            Trajectory(
                "a", number, ids, sampled, zeros, zeros, (8, 8), (56, 56), (), "answered", None
            )
            for number in range(2)
        ),
        rewards=({"total": 1.0}, {"total": 0.0}),
    )
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"--lengths .* has no episodes"):
        seen_items(run, cfg, groups=3)
    Archive(run.trajectories).append("step-3", [group])
    items = seen_items(run, cfg, groups=3)
    assert [item.trajectory.record for item in items] == ["0", "0", "1", "1", "2", "2"]
    assert {(item.prompt, item.counting, len(item.pictures)) for item in items} == {(20, 12, 2)}
    assert len({picture.key for item in items for picture in item.pictures}) == 3 + 6
    shapes = TrainShapes(210, 1, 64, 16, 8, shared=True)
    layout = layout_of(items, shapes, cfg, shards=1, platform="tpu")
    # Prompts of 19, and twice 1 + 5 + 11 + 7 with each.
    assert (layout.rows, layout.fill) == (1, pytest.approx((3 * 19 + 6 * 24) / 210))
    mean = mean_episode(items, RolloutShapes(image_tokens=4))
    assert mean == PlannedEpisode(sampled=12, crops=1, prompt_text=16)
