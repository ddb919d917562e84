"""Plans for GPUs that are not there."""

import json
import re

import pytest

from lfpc_jax.cli import plan
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import attention, attention_cudnn
from lfpc_jax.plan import gpus, slices
from lfpc_jax.plan.chips import GPU_SHARE, GPUS
from lfpc_jax.plan.episodes import PlannedEpisode
from lfpc_jax.plan.planned import advice
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.traffic import usual
from lfpc_jax.run.config_files import CONFIGS, load_config
from support.gpus import PLUGIN_MISSING, REASON

pytestmark = pytest.mark.compiles
WITH_PLUGIN = pytest.mark.skipif(PLUGIN_MISSING, reason=REASON)


def test_without_the_plugin_the_error_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(gpus, "plugin_is_there", lambda: False)
    assert plan.main(["--model", "3b", "--topology", "h100:8"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: NVIDIA H100 80GB HBM3: XLA compiles for GPUs only with JAX's")
    assert re.search(r"pip install 'jax\[cuda12\]==\d+\.\d+\.\d+'", error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX A6000", "a6000"),
        ("Tesla T4", None),
        ("NVIDIA L40", None),
    ],
)
def test_peaks_of_a_gpu_that_is_here_are_those_of_its_kind(kind, name):
    assert slices._peaks(kind).flops == (GPUS[name].flops if name else 0)


def test_programs_may_use_the_share_that_commands_take(monkeypatch):
    variable, share = GPU_SHARE
    monkeypatch.delenv(variable, raising=False)
    assert gpus.chip(GPUS["h100"]).hbm_bytes == int(float(share) * GPUS["h100"].memory)
    monkeypatch.setenv(variable, "0.5")
    assert gpus.chip(GPUS["h100"]).hbm_bytes == GPUS["h100"].memory // 2


def test_packed_rows_are_cudnn_s_and_read_in_place_from_hopper_on():
    about = {"platform": "gpu", "length": 8192, "dtype": "bfloat16"}
    for name in ("a100", "rtx4090", "h100", "b200"):
        with attention_cudnn.compiled_for(GPUS[name].capability):
            assert attention.select("auto", **about).kernel == "cudnn", name
            in_place = attention_cudnn.capability() >= attention_cudnn.HOPPER
            assert in_place == (name in ("h100", "b200"))
    assert attention.select("auto", **about).kernel == "cudnn"


@WITH_PLUGIN
@pytest.mark.parametrize("name", GPUS)
def test_xla_knows_the_gpu_as_it_was_described(name):
    found = slices.find(f"{name}:2x4")
    assert (found.hosts, found.chips_a_host, found.platform) == (2, 4, "gpu")
    first = found.devices[0]
    major, minor = GPUS[name].capability
    assert (first.device_kind, first.compute_capability) == (GPUS[name].kind, f"{major}.{minor}")
    assert first.core_count == GPUS[name].cores
    mesh = make_mesh(fsdp=-1, devices=found.devices)
    assert found.machine(mesh).hosts == (0, 0, 0, 0, 1, 1, 1, 1)


@WITH_PLUGIN
@pytest.mark.parametrize(("name", "remat"), [("a100", "attended"), ("h100", "dots")])
def test_auto_counts_the_sequences_that_are_gathered(name, remat):
    run = PlannedRun.of(load_config("stage1.py", CONFIGS), slices.find(f"{name}:8"))
    assert (run.remat_room.gathers, run.remat.remat) == (name == "a100", remat)


@WITH_PLUGIN
def test_search_and_advice_are_for_gpus():
    config = load_config("stage1.py", CONFIGS)
    flags, proposed = next(proposals(config, slices.find("h100:8"), PlannedEpisode()))
    assert {"--rollout.slots", "--model.remat"} <= set(flags)
    assert proposed.rollout.tensor == 1
    assert advice("rollout", slices.find("h100:1"), config).endswith(
        "take more GPUs, or larger ones"
    )


@WITH_PLUGIN
@pytest.mark.slow
def test_the_3b_update_of_stage1_compiles_for_one_h100(tmp_path):
    """All of it, with Adam's moments in the host's memory. What is donated is given back, no array
    has a row's scores, nothing is sent, and products take longer than what is moved."""
    file = tmp_path / "plan.json"
    args = ["--config", "stage1.py:3b-80gb", "--topology", "h100:1", "--json", str(file)]
    assert plan.main([*args, "--program", "update pictures", "update", "optimizer"]) == 0
    rows = {row["program"]: row for row in json.loads(file.read_text())["programs"]}
    for name, row in rows.items():
        assert row["fits"], name
        assert row["compiled"]["sent"] == {}, name
    assert rows["update"]["estimate"]["bound"] == "compute"
    moved, chip = usual(rows["update"]["compiled"]["moved"]), slices.find("h100:1").chip
    assert sum(moved.values()) / chip.hbm < rows["update"]["load"]["flops"] / chip.flops
    of_attention = [size for name, size in moved.items() if name.startswith("attention")]
    assert sum(of_attention) < 0.15 * sum(moved.values())
    given = rows["update"]["kinds"]["gradients"]
    assert given <= rows["update"]["compiled"]["aliased_bytes"] <= 1.03 * given
    for shape in rows["update"]["compiled"]["largest"]:
        assert [*map(int, re.findall(r"\d+", shape.partition("[")[2]))].count(8192) < 2, shape


@WITH_PLUGIN
@pytest.mark.slow
def test_memory_assigned_is_that_of_the_whole_compilation(tmp_path):
    found = []
    for quick in ([], ["--quick"]):
        file = tmp_path / "plan.json"
        args = ["--config", "stage1.py:3b", "--topology", "h100:2x8", "--program", "extend", *quick]
        assert plan.main([*args, "--json", str(file)]) == 0
        found.append(json.loads(file.read_text())["programs"][0])
    whole, short = found
    assert short["bytes_per_chip"] == pytest.approx(whole["bytes_per_chip"], rel=0.01)
    assert short["compiled"]["sent"] == whole["compiled"]["sent"]
