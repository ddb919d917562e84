"""A session of a crop network with its target."""

import numpy as np
import pytest

from lfpc_jax import Session
from support import micro_boxes, small, small_boxes

pytestmark = [pytest.mark.compiles, pytest.mark.slow]


def test_it_asks_rolls_out_rewards_and_updates(tmp_path, monkeypatch):
    monkeypatch.setenv("MICRO", str(tmp_path))
    small.hf_folder(tmp_path / "hf")
    small_boxes.hf_folder(tmp_path / "boxes")
    session = Session(micro_boxes.get_config("likelihood"))
    records = [small.record(i) for i in range(4)]
    [asked] = session.ask(records[0].picture.path, records[0].question).trajectories
    assert asked.answer is not None
    assert asked.likelihood is None
    groups = session.reward(session.roll_out(records, rollouts=4))
    for group in groups:
        for trajectory, rewards in zip(group.trajectories, group.rewards, strict=True):
            valid = float(trajectory.end == "proposed")
            assert trajectory.answer is None
            assert rewards["total"] == pytest.approx(0.1 * trajectory.likelihood + valid)
    assert any(np.ptp([rewards["total"] for rewards in group.rewards]) > 0 for group in groups)
    assert session.update(groups)["gradient_norm"] > 0
