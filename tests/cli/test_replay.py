"""Recorded episodes replayed as a user does it: which weights sampled them, and what has changed.

The run's folder is made by hand, in the way that training writes it, so that no update compiles.
`test_train.py` replays a run that was trained.
"""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from cli import taught

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli import replay
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.rewards.judge import Claim, JudgeSettings, _identity
from lfpc_jax.rewards.total import OwnReward, compute_rewards
from lfpc_jax.rewards.verdict_store import VerdictStore
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.demonstration import demonstrated
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.run.folder import RunFolder
from support import micro, small

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]

TARGET = ((20.0, 20.0, 60.0, 60.0),)
ROLLOUTS = 4


def begin(run, config):
    """A run's folder and its dialogue; the folder of checkpoints is still missing."""
    assets = run.path.parent / "hf-assets"
    run.begin(config, assets, Origin(dtypes=("float32",)), None)
    rollout = config.rollout
    return zooming(
        run.assets,
        image_tokens=rollout.image_tokens,
        crop_tokens=rollout.crop_tokens,
        convention=rollout.convention,
    )


def after(step):
    """The small model after so many steps of training."""
    rng = np.random.default_rng(step)
    return jax.tree.map(
        lambda x: x + np.float32(0.02 * (step > 0)) * rng.standard_normal(x.shape, np.float32),
        small.params(),
    )


def rewarded(groups, config):
    """As training archives them."""
    for group in groups:
        records = {group.record.id: group.record}
        rewards = compute_rewards(group.trajectories, records, config.rewards)
        yield replace(group, rewards=tuple(reward.parts for reward in rewards))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The steps 1 to 3 of a run that kept the checkpoint of step 2, and that step's validation,
    which is greedy."""
    folder = tmp_path_factory.mktemp("replay")
    small.hf_folder(folder / "hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRO", str(folder))
        config = replace(micro.get_config(), validation_temperature=0.0)
    run = RunFolder(folder / "run")
    dialogue = begin(run, config)
    cfg = small.config()
    engine = Engine(cfg, dialogue, config.rollout_shapes(cfg.vision.window), config.rules)
    records = [small.record(i, targets=(TARGET,)) for i in range(3)]
    for part, step, rollouts, sampling in (
        ("step-000001", 0, ROLLOUTS, None),
        ("step-000002", 1, 1, None),
        ("step-000003", 2, ROLLOUTS, None),
        ("validation-000002", 2, 1, config.validation_sampling),
    ):
        engine.load(after(step))
        groups = engine.run(records, rollouts=rollouts, seed=step, sampling=sampling)
        Archive(run.trajectories).append(part, rewarded(groups, config))
    keeper = Checkpoints(run.checkpoints)
    keeper.save(2, {"trained": after(2), "frozen": {}}, {})
    keeper.close()
    return run


@pytest.fixture
def copied(recorded, tmp_path):
    shutil.copytree(recorded.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def replayed(capsys, run, *more):
    """The exit code, the table's rows by part, and all that was printed."""
    code = replay.main([str(run.path), *map(str, more)])
    printed = capsys.readouterr()
    rows = {}
    for line in printed.out.splitlines():
        words = line.split()
        if "sampler" in words and words[0].startswith(("step-", "validation-")):
            rows[words[0]] = line
    return SimpleNamespace(code=code, rows=rows, out=printed.out, err=printed.err)


def test_what_the_kept_weights_sampled_comes_out_the_same(recorded, capsys):
    found = replayed(capsys, recorded, "--tolerance", 1e-4)
    assert found.code == 0, found.out
    assert list(found.rows) == ["step-000001", "step-000003", "validation-000002"]
    for part, weights, episodes in (
        ("step-000001", "first model", 3 * ROLLOUTS),
        ("step-000003", "step 2", 3 * ROLLOUTS),
        ("validation-000002", "step 2", 3),
    ):
        assert f"{part}  " in found.rows[part]
        assert weights in found.rows[part]
        assert found.rows[part].split("sampler")[0].split()[-3:] == ["3", str(episodes), "0"]
    assert "not kept: step-000002; --part replays them" in found.out


def test_a_part_without_its_weights_and_other_weights(recorded, capsys):
    found = replayed(capsys, recorded, "--part", "step-000002")
    assert found.code == 0
    assert found.rows["step-000002"].split()[-3:] == ["-", "-", "-"]
    assert "not kept" in found.rows["step-000002"]
    first = recorded.path.parent / "hf"
    found = replayed(capsys, recorded, "--part", "step-000003", "--limit", 1, "--model", first)
    assert found.code == replay.DIFFERENT
    assert "step-000003, record r" in found.out
    assert "log-probabilities of text differ by " in found.out
    assert found.rows["step-000003"].split("sampler")[0].split()[-3:-1] == ["1", str(ROLLOUTS)]


def changed(trajectory, **arrays):
    """With a value of an array of it changed."""
    for name, (place, value) in arrays.items():
        array = np.array(getattr(trajectory, name))
        array[place] = value
        trajectory = replace(trajectory, **{name: array})
    return trajectory


def test_what_was_tampered_with_is_named(copied, capsys):
    archive = Archive(copied.trajectories)
    groups = list(archive.read("step-000001"))  # as they ended, in any order
    first = next(group for group in groups if len(group.trajectories[0].turns) == 1)
    second, third = (group for group in groups if group is not first)
    a, b, c, d = first.trajectories
    sampled = int(np.flatnonzero(a.sampled)[0])
    other = a.ids[sampled] + 1
    a = changed(a, ids=(sampled, other))
    b = changed(b, ids=(3, 7))
    drawn = int(np.flatnonzero(c.sampled)[0])
    c = changed(c, logprobs=(drawn, c.logprobs[drawn] - 0.01))
    paid = [dict(rewards) for rewards in first.rewards]
    paid[3]["total"] = 9.0
    first = replace(first, trajectories=(a, b, c, d), rewards=tuple(paid))
    groups = [first]
    cropped = next(t for t in second.trajectories + third.trajectories if t.turns[0].crop)
    for group in (second, third):
        moved = [
            replace(t, turns=(replace(t.turns[0], crop=replace(
                t.turns[0].crop, box=(0.0, 0.0, 9.0, 9.0))), *t.turns[1:]))
            if t is cropped else t
            for t in group.trajectories
        ]  # fmt: skip
        groups.append(replace(group, trajectories=tuple(moved)))
    archive.remove("step-000001")
    archive.append("step-000001", groups)
    found = replayed(capsys, copied, "--part", "step-000001", "--show", 50)
    assert found.code == replay.DIFFERENT
    lines = [line for line in found.out.splitlines() if line.startswith("step-000001, record")]
    where = f"step-000001, record {first.record.id}, rollout"

    def named(rollout):
        return " ".join(line for line in lines if line.startswith(f"{where} {rollout}: "))

    assert "turn 0 was" in named(0)
    assert named(1) == f"{where} 1: ids differ from 3 on"
    assert "differ by 0.01 (sampler) and " in named(2)
    assert "reward total was 9.0, now " in named(3)
    [line] = [line for line in lines if "(0.0, 0.0, 9.0, 9.0)" in line]
    assert f"record {cropped.record}, rollout {cropped.rollout}: turn 0 was" in line
    assert found.rows["step-000001"].split("sampler")[0].split()[-1] == "5"


def test_records_that_cannot_be_replayed_are_counted(copied, capsys):
    archive = Archive(copied.trajectories)
    first, *others = archive.read("step-000002")
    gone = replace(first, record=replace(first.record, picture=replace(
        first.record.picture, path="gone.png")))  # fmt: skip
    archive.remove("step-000002")
    archive.append("step-000002", [gone, *others])
    file = copied.trajectories / "step-000002.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    found = replayed(capsys, copied, "--part", "step-000002")
    assert found.code == replay.DIFFERENT
    assert (
        f"1 records could not be replayed; the first: step-000002, record {first.record.id}: "
        in (found.out)
    )
    assert "step-000002: 1 damaged lines hold no episodes" in found.out
    assert found.rows["step-000002"].split("sampler")[0].split()[-3:] == ["2", "1", "0"]


def test_errors_say_what_to_do(recorded, copied, capsys):
    found = replayed(capsys, recorded, "--part", "step-000009")
    assert found.code == 1
    assert "has no part 'step-000009'" in found.err
    assert "it has step-000001, step-000002" in found.err
    shutil.rmtree(copied.checkpoints)
    Archive(copied.trajectories).remove("step-000001")
    found = replayed(capsys, copied)
    assert found.code == 1
    assert "name parts with --part" in found.err
    copied.settings.write_text("[]")
    found = replayed(capsys, copied)
    assert found.code == 1
    assert "holds no settings of a run" in found.err
    copied.settings.unlink()
    found = replayed(capsys, copied)
    assert found.code == 1
    assert "a training run's folder?" in found.err


@pytest.fixture
def imitated(recorded, tmp_path, monkeypatch):
    """Demonstrations of a run, half of which were asked without the tool."""
    monkeypatch.setenv("MICRO", str(recorded.path.parent))
    config = taught.get_config()
    shutil.copytree(recorded.assets, tmp_path / "hf-assets")
    run = RunFolder(tmp_path / "run")
    dialogue = begin(run, config)
    groups = []
    for i in range(4):
        record = small.record(i, answer="a flat, reddish thing" if i == 0 else "red")
        turns = taught.demonstrated(record, None, None)
        if i == 0:
            turns = ("<answer>crimson</answer>",)
        asked = dialogue if len(turns) == 2 else without_tool(dialogue)
        opening = asked.open(record)
        groups.append(demonstrated(opening, turns, asked, config.rules, config.rollout.capacity))
    return run, list(rewarded(groups, config))


def test_demonstrations_need_no_weights(imitated, capsys):
    run, groups = imitated
    Archive(run.trajectories).append("step-000002", groups)
    found = replayed(capsys, run)
    assert found.code == 0, found.out
    assert "demonstrated" in found.rows["step-000002"]
    assert found.rows["step-000002"].split()[-3:] == ["-", "-", "-"]


def test_verdicts_and_functions_that_cannot_be_had_count_as_unchanged(imitated, capsys, tmp_path):
    """The judge's cache is read, and nobody is asked; a function is known by its name only."""
    run, groups = imitated
    judge = JudgeSettings("http://127.0.0.1:1/v1", "judge", str(tmp_path / "verdicts"))
    own = OwnReward("mine", 1.0, len)
    settings = json.loads(run.settings.read_text())
    settings["judge"] = vars(judge)
    settings["rewards"]["own"] = [vars(own) | {"function": "builtins.len"}]
    run.settings.write_text(json.dumps(settings))
    judged, *others = groups
    judged = replace(judged, rewards=({**judged.rewards[0], "accuracy": 1.0},))
    paid = [
        replace(group, rewards=({**group.rewards[0], "mine": 7.0, "total": 8.0},))
        for group in (judged, *others)
    ]
    Archive(run.trajectories).append("step-000002", paid)
    found = replayed(capsys, run)
    assert found.code == 0, found.out
    assert "1 answers have no verdict" in found.out
    assert not (tmp_path / "verdicts").exists()
    claim = Claim(judged.record.question, judged.record.answer, "crimson")
    key = _identity(judge.model, claim, judge.server)
    VerdictStore(judge.cache).add(key, False, {})
    found = replayed(capsys, run)
    assert found.code == replay.DIFFERENT
    assert "reward accuracy was 1.0, now 0.0" in found.out
    assert "no verdict" not in found.out
