"""The benches of the engine run and write their figures; sound ones need quiet cores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def run(script, *args, out):
    command = [sys.executable, str(BENCH / script), *args, "--json", str(out)]
    subprocess.run(command, check=True)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_speed(tmp_path):
    sizes = ["--size", "tiny", "--records", "2", "--rollouts", "4", "--slots", "8"]
    large = ["--large-records", "1", "--large-rollouts", "8", "--large-batch", "4"]
    decode = ["--decode-rows", "4", "--decode-steps", "8", "--shared", "8/4/64", "8/2/96"]
    repeats = ["--repeats", "1", "--variant-repeats", "1"]
    out = tmp_path / "speed.json"
    found = run("rollout.py", *sizes, *large, *decode, *repeats, out=out)
    assert found["compilations_after_warmup"] == 0
    assert found["episodes_ratio"] > 1
    assert found["episodes_ratio_1024"] > 1
    assert found["decode_ratio"] > 1
    assert [ratio > 0 for ratio in found["decode_shared_ratio"]] == [True, True]
    assert [row["prompt"] for row in found["decode_shared"]] == [64, 96]
    assert 0 < found["occupancy"] <= 1
    assert found["prompts_prefilled"] == {
        "engine": 2,
        "without refilling": 2,
        "copies of prompts": 2,
        "without shared prefixes": 8,
    }
    kinds = found["episodes"]
    ours = [kinds[name] for name in found["prompts_prefilled"]]
    assert all(kind["sampled"] == ours[0]["sampled"] for kind in ours), "the same episodes"
    assert kinds["engine"]["crops"] > 0.3
    assert kinds["engine"]["sampled"] < 2.5 * kinds["transformers"]["sampled"]
    assert kinds["transformers"]["sampled"] < 2.5 * kinds["engine"]["sampled"]


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """320 episodes with 24 distinct images of 2 megapixels, 6 MB each when decoded."""
    args = ["--episodes", "320", "--size", "1920", "1080"]
    found = run("rollout_memory.py", *args, out=tmp_path / "memory.json")
    first, last = found["rows"][1], found["rows"][-1]
    assert last["episodes"] == 320
    assert last["resident_bytes"] - first["resident_bytes"] < 100e6


@pytest.mark.long
@pytest.mark.compiles
@pytest.mark.parametrize("device", [["--without-device"], pytest.param([], marks=pytest.mark.slow)])
def test_hostile_outputs(tmp_path, device):
    """The promise's number of them, and pictures of 4K, are its defaults."""
    args = ["--outputs", "400", "--size", "640", "360", *device]
    found = run("hostile.py", *args, out=tmp_path / "hostile.json")
    assert found["outputs"] == sum(found["came"].values()) >= 400
    assert found["came"]["crop"] > 40
    ends = {"answered", "no_action", "max_turns", "max_tokens", "context_full"}
    assert ends <= found["ends"].keys()
    assert len(found["came"]) > 8, "calls are refused for every cause"
    assert found["late"] == 0


@pytest.mark.slow
def test_evaluation(tmp_path):
    args = ["--size", "tiny", "--samples", "3", "--image-tokens", "256", "--side", "600"]
    found = run("evaluation.py", *args, "--slots", "8", out=tmp_path / "evaluation.json")
    assert found["same_scores"]
    assert found["same_ids"]
    assert found["late"] == 0
    assert found["ratio"] > 1.5
    assert found["sampled"]["kept"] < found["sampled"]["anew"]
