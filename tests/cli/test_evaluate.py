"""The command on a small model's folder: benchmarks of every format, budgets, diagnostics."""

import json
import shutil

import pytest

from lfpc_jax.cli import ask, evaluate, select_resolution
from lfpc_jax.data import layout
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.run.engines import Engines
from support import rigged, small
from support.benchmark_files import rows, v_star_folder, write_tsv

pytestmark = pytest.mark.usefixtures("lean")

SMALL = ["--image-tokens", "32", "--crop-tokens", "16", "--episode-tokens", "80", "--slots", "2",
         "--temperature", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    return small.hf_folder(tmp_path_factory.mktemp("evaluate") / "hf")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    layout.write(folder / "world", rigged.world(3))
    v_star_folder(folder / "vstar", attributes=2, relations=1)
    write_tsv(folder / "hr_bench_8k.tsv", rows(2))
    return folder


@pytest.mark.long
@pytest.mark.compiles
def test_every_benchmark_and_diagnosis_at_once(hf, data, tmp_path, capsys):
    out = tmp_path / "out"
    sets = [str(data / name) for name in ("world", "vstar", "hr_bench_8k.tsv")]
    command = [str(out), "--model", str(hf), "--data", *sets, *SMALL]
    command += ["--diagnose", "noise", "truth"]
    assert evaluate.main(command) == 0
    printed = capsys.readouterr().out
    for expected in ("hr_bench_8k", "vstar", "world", "noise, needed", "tool over direct"):
        assert expected in printed
    assert "this model" not in printed  # a part of HR-Bench stands beside nothing
    found = json.loads((out / "results.json").read_text())
    assert {name: one["questions"] for name, one in found["benchmarks"].items()} == {
        "world": 3, "vstar": 3, "hr_bench_8k": 8
    }  # fmt: skip
    for one in found["benchmarks"].values():
        conditions = one["budgets"]["32"]["conditions"]
        assert {"tool", "direct"} <= set(conditions) <= {"tool", "direct", "noise", "truth"}
        assert all(value["missing"] == 0 for value in conditions.values())
        assert conditions["direct"]["measures"]["crop/count"] == 0
        assert conditions["direct"]["measures"]["episode/turns"] == 1
    cropped = sum(
        one["budgets"]["32"]["conditions"]["tool"]["measures"]["crop/count"]
        for one in found["benchmarks"].values()
    )
    assert cropped > 0
    parts = Archive(out / "trajectories").parts()
    assert "world-32-tool-p0" in parts
    assert (out / "results.png").stat().st_size > 5000
    assert Tokenizer.from_folder(out / "assets").image_pad == found["asked"]["image_token"]
    before = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    assert evaluate.main([str(out), "--rescore"]) == 0
    assert (out / "results.json").read_bytes() == before


@pytest.mark.compiles
def test_a_folder_goes_on_only_with_the_model_that_is_in_it(hf, tmp_path, caplog):
    """One weight of the folder, or its chat template, becomes another: sizes and names are kept."""
    model = tmp_path / "hf"
    shutil.copytree(hf, model)
    (model / "sums.json").unlink()  # or the weight would be damaged, not another
    args = evaluate.parser().parse_args(["out", "--model", str(model)])
    journal, about = Journal(tmp_path / "out"), {"set": {"digest": "d"}}
    first = Engines.load(args).asked
    journal.begin(first, about)
    journal.begin(Engines.load(args).asked, about)
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x80]))  # the sign of the last
    with pytest.raises(ValueError, match=r"was begun with another model \(weights\); resume with"):
        journal.begin(Engines.load(args).asked, about)
    weights.write_bytes(whole)
    journal.begin(Engines.load(args).asked, about)
    with (model / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ValueError, match=r"was begun with another model \(assets\)"):
        journal.begin(Engines.load(args).asked, about)
    # begun before identities were kept
    old = Journal(tmp_path / "old")
    old.begin({name: value for name, value in first.items() if name != "identity"}, about)
    assert not caplog.text
    old.begin(first, about)
    assert "does not say which weights it was begun with" in caplog.text
    assert old.settings()["asked"] == first


@pytest.mark.parametrize("command", [evaluate, ask, select_resolution])
def test_the_old_limit_is_refused_by_the_new_names(command, capsys):
    with pytest.raises(SystemExit):
        command.parser().parse_args(["--max-tokens", "80"])
    assert "--turn-tokens limits a turn and --episode-tokens all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "give --model and --data"),
        (["--model", "nowhere", "--data", "nothing.tsv"], "nothing.tsv: is no benchmark of"),
        (["--model", "nowhere", "--data", "one", "--diagnose"], "1 different ones"),
        (["--rescore"], "evaluation.json: missing"),
        (["--rescore", "--judge-model", "m"], "needs both"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    layout.write(tmp_path / "one", rigged.world(1))
    assert evaluate.main([str(tmp_path / "out"), *change]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.compiles
def test_a_small_crop_network_and_a_small_target(hf, data, tmp_path, capsys):
    """Both are the small model. The target alone first, then with the network's boxes."""
    out = tmp_path / "out"
    command = [str(out), "--target", str(hf), "--data", str(data / "world"), "--likelihoods"]
    command += ["--target-image-tokens", "32", "--target-crop-tokens", "16"]
    command += ["--target-answer-tokens", "8", "--target-slots", "4"]
    boxes = ["--boxes", "true", "whole", "rel_att", "--layer", "0"]
    assert evaluate.main([*command, *boxes]) == 0
    direct = (out / "trajectories" / "world-32-direct-p0.jsonl").read_bytes()
    network = ["--model", str(hf), "--image-tokens", "32", "--slots", "4", "--turn-tokens", "8"]
    assert evaluate.main([*command, *network, "--modes", "tool"]) == 0
    assert (out / "trajectories" / "world-32-direct-p0.jsonl").read_bytes() == direct
    found = json.loads((out / "results.json").read_text())
    budget = found["benchmarks"]["world"]["budgets"]["32"]
    kinds = ["tool", "direct", "true", "whole", "rel_att", "rel_att_0"]
    assert set(budget["conditions"]) == set(kinds)
    assert all(condition["missing"] == 0 for condition in budget["conditions"].values())
    assert budget["boxes"]["whole"]["size"]["value"] == budget["boxes"]["whole"]["recall"]["value"]
    assert found["asked"]["target"].keys() >= {"weights", "presentation", "image_tokens"}
    assert found["asked"]["identity"]["weights"] == found["asked"]["target"]["weights"]
    journal = Journal(out)
    episodes = [
        trajectory
        for part in journal.parts()
        for group in journal.read(part, 1)
        for trajectory in group.trajectories
    ]
    assert len(episodes) == 3 * len(kinds)
    assert all(episode.likelihood < 0 and episode.answer is not None for episode in episodes)
    assert evaluate.main([*command, "--modes", "direct", "--layer", "9"]) == 1
    assert "layer 9 of a model whose 2 layers count from 0" in capsys.readouterr().err
