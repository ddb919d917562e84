"""A whole run planned, small enough for a CPU."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from lfpc_jax.cli import plan
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import spec
from lfpc_jax.model.config import published
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.plan import compiling, counts, slices
from lfpc_jax.plan.guess import update_bytes
from lfpc_jax.plan.planned import advice
from lfpc_jax.plan.programs import bytes_per_chip
from lfpc_jax.plan.roofline import least_time
from lfpc_jax.plan.run import PlannedRun, model_of
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.update import abstract_reference
from lfpc_jax.plan.work import Load, PlannedEpisode, micro_batches, planned_episode
from lfpc_jax.run.config import RolloutSettings, TrainConfig
from lfpc_jax.run.config_checks import check_devices
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import Buckets, RolloutShapes, TrainShapes
from support import small_plan

pytestmark = pytest.mark.compiles

PROGRAMS = ["encode", "prefill", "place", "extend", "decode", "reshard", "score", "update"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    args = ["--config", str(small_plan.config_file(folder)), "--topology", "cpu:2", "--program"]
    file = folder / "plan.json"
    # No other test plans this update: one that is already compiled names no arrays.
    odd = ["--optimizer.b2", "0.998"]
    assert plan.main([*args, *PROGRAMS, "--json", str(file), *odd]) == 0
    found = json.loads(file.read_text())
    return found["runs"], {row["program"]: row for row in found["programs"]}


def test_every_program_of_the_run_is_there(planned):
    (run,), rows = planned
    assert list(rows) == PROGRAMS
    assert all(row["fits"] for row in rows.values())
    assert run["chips"] == 2
    for row in rows.values():
        assert row["bytes_per_chip"] == sum(row["kinds"].values()) + row["beside"]


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


def test_a_run_that_is_still_to_come_is_planned_by_its_first_model():
    """Stage II begins from Stage I's folder, which the plan of both comes before."""
    config = load_config("authors_stage2.py", CONFIGS)
    with pytest.raises(ValueError, match=r"runs/authors_stage1 is not here.*--model\.path Qwen"):
        model_of(config)
    assert model_of(override(config, ["--model.path", "Qwen2.5-VL-7B-Instruct"])).text.layers == 28


def test_search_says_what_it_does_not_choose():
    """It found nothing with any `mesh.data` but 1, and asked for a larger slice."""
    config = load_config("stage1.py", CONFIGS)
    with pytest.raises(ValueError, match=r"mesh\.data 2: --search .* set it to 1"):
        next(proposals(replace(config, mesh=replace(config.mesh, data=2)),
                       slices.find("v5p:2x2x4"), PlannedEpisode()))  # fmt: skip


def test_memory_by_kind_is_what_one_counts(planned):
    """Float32 on a CPU: moments are twice the parameters, split in two; the rollouts hold them
    whole."""
    rows = {name: row["kinds"] for name, row in planned[1].items()}
    parameters = rows["update"]["parameters"]
    assert rows["update"]["moments"] == pytest.approx(2 * parameters, rel=1e-3)
    whole = rows["encode"]["parameters"] + rows["decode"]["parameters"]
    assert whole == pytest.approx(2 * parameters, rel=0.01)
    layers, slots, capacity, heads, wide = 3, 16, 256, 2, 16
    assert rows["decode"]["cache"] == pytest.approx(
        2 * layers * slots * capacity * heads * wide * 4 / 2, rel=0.02
    )
    assert planned[1]["decode"]["beside"] == pytest.approx(3 * parameters, rel=1e-3)


def test_a_kl_term_is_planned_with_its_reference(planned, tmp_path):
    """A copy of the parameters, in float32 as all here, beside every program. The two mini-batches
    of a step are scored with it, too. 16 rows of 256 numbers more go into an update on a device."""
    file, programs = tmp_path / "plan.json", ["decode", "score", "update"]
    args = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    args += ["--update.objective.kl", "0.1", "--json", str(file), "--program", *programs]
    assert plan.main(args) == 0
    rows = {row["program"]: row for row in json.loads(file.read_text())["programs"]}
    assert list(rows) == programs
    reference = planned[1]["update"]["kinds"]["parameters"]
    for name, row in rows.items():
        assert row["beside"] - planned[1][name]["beside"] == reference, name
    inputs, before = (each["update"]["kinds"]["inputs"] for each in (rows, planned[1]))
    assert inputs - before == 4 * 16 * 256
    assert rows["score"]["load"]["calls"] == 2 * planned[1]["score"]["load"]["calls"]
    assert rows["update"]["load"] == planned[1]["update"]["load"]


def test_no_log_probabilities_are_planned_where_none_are_computed(tmp_path, capsys):
    """One mini-batch and one epoch: the update's own forward has them."""
    args = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    args += ["--update.mini_batch", "8", "--program", "score"]
    assert plan.main(args) == 1
    assert "'score': the run has encode, prefill" in capsys.readouterr().err


def test_the_reference_is_whole_with_lora_too():
    """Factors and all that they are of, in the model's dtype."""
    cfg, how = published("3b", dtype="bfloat16"), Trainable(lora=LoRA(rank=4, projections=("q",)))
    mesh = make_mesh(fsdp=-1)
    whole = bytes_per_chip(spec.abstract(cfg, "bfloat16", mesh))
    factors = 36 * (2048 * 4 + 4 * 2048) * 2
    found = bytes_per_chip(abstract_reference(cfg, mesh, how)) - whole
    assert factors / mesh.size <= found <= factors


def test_the_state_is_donated(planned):
    kinds, update = planned[1]["update"]["kinds"], planned[1]["update"]["compiled"]
    assert update["aliased_bytes"] == pytest.approx(
        kinds["parameters"] + kinds["moments"], rel=0.01
    )


def test_the_largest_arrays_are_named(planned):
    """From the largest on, with the bytes that their shapes take; none outgrows all temporaries."""
    update = planned[1]["update"]["compiled"]
    sizes = [*update["largest"].values()]
    assert sizes == sorted(sizes, reverse=True)
    assert 0 < sizes[0] <= update["temporary_bytes"]
    for shape, held in update["largest"].items():
        kind, dims = shape[:-1].split("[")
        wide = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}[kind]
        assert held == wide * math.prod(int(n) for n in dims.split(",") if n), shape


def test_the_flops_of_an_update_are_those_counted_by_hand():
    """The 7B's matrices, from its published sizes: 28 layers of 3,584, 4 of 28 heads for keys, an
    MLP of 18,944. Four passes with full remat, a half square of attention, four of the vocabulary
    (its logits are always made again). Norms and biases, counted along, are under 0.01 %."""
    width, mlp, layers, tokens = 3584, 18944, 28, 8192
    matrices = layers * (2 * width * width + 2 * width * 512 + 3 * width * mlp)
    scores = layers * 4 * width * tokens / 2
    vocabulary = 2 * 152064 * width
    expected = 4 * tokens * (2 * matrices + scores + vocabulary)
    cfg = published("7b", remat="full")
    found = counts.update(cfg, tokens=tokens, context=tokens / 2, windows=0, whole=1)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "flags"),
    [
        ("v5p:2x2x4", ()),
        ("v5e:4x8", ("--update.rows", "1", "--update.windows", "216", "--rollout.tensor", "2")),
    ],
)
def test_the_7b_update_of_stage1_fits(topology, flags, tmp_path, monkeypatch):
    """Its state is donated, and no array is as large as a head's scores of a row, or as the logits
    of more than 512 tokens."""
    monkeypatch.setattr(compiling, "_LARGEST", None)  # all of them
    file = tmp_path / "plan.json"
    args = ["--config", "stage1.py", "--topology", topology, *flags, "--quick", "--json", str(file)]
    assert plan.main([*args, "--program", "update", "update, 625 windows"]) == 0
    rows = json.loads(file.read_text())["programs"]
    assert len(rows) == 2  # of the usual windows, and of an episode of strips
    for row in rows:
        assert len(row["compiled"]["largest"]) > 100
        assert row["fits"]
        state = row["kinds"]["parameters"] + row["kinds"]["moments"]
        assert state <= row["compiled"]["aliased_bytes"] < 1.03 * state  # padded to a chip's tiles
        for shape in row["compiled"]["largest"]:
            dims = [int(n) for n in re.findall(r"\d+", shape.partition("[")[2])]
            assert dims.count(8192) < 2, shape
            if dims[-1:] == [152064]:
                assert math.prod(dims[:-1]) <= 3584, shape  # a gradient, or logits of a block


@pytest.mark.slow
@pytest.mark.parametrize("tensor", ["2", "4"])
def test_the_resharding_compiles_to_its_end_where_chips_reach_only_their_neighbours(tensor):
    """The compiler ends its process on groups of chips that are no grid: in one of its own."""
    script = str(CONFIGS.parent / "launch/plan.py")
    flags = ["--topology", "v5e:4x8", "--rollout.tensor", tensor, "--program", "reshard"]
    command = [sys.executable, script, "--config", "stage1.py", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_what_does_not_fit_is_refused_with_the_settings_to_change(tmp_path, capsys, monkeypatch):
    chip = slices.Chip(hbm_bytes=2**20)
    found = slices.find("cpu:2")
    monkeypatch.setattr(slices, "find", lambda _: replace(found, chip=chip))
    monkeypatch.setattr("lfpc_jax.plan.phases._update", lambda *_: iter(()))
    config = str(small_plan.config_file(tmp_path))
    assert plan.main(["--config", config, "--topology", "cpu:2"]) == 1
    error = capsys.readouterr().err
    assert "decode does not fit" in error
    assert "of 0.00): lower rollout.slots" in error


def test_what_train_would_refuse_there_is_refused(tmp_path, capsys):
    run = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    assert plan.main([*run, "--rollout.slots", "15"]) == 1
    assert "rollout.slots 15 is no multiple of the 2 copies" in capsys.readouterr().err


def test_an_unknown_flag_without_a_config_is_refused(capsys):
    assert plan.main(["--topology", "cpu:2", "--modle", "3b"]) == 1
    assert "--modle" in capsys.readouterr().err


def test_the_longest_of_three_times_bounds_a_call():
    chip = slices.Chip(1, flops=100.0, hbm=10.0, wire=1.0)
    assert least_time(Load(200.0, 10.0, 1.0), 1.5, chip).bound == "compute"
    assert least_time(Load(200.0, 30.0, 1.0), 1.5, chip) == least_time(
        Load(0.0, 30.0, 1.0), 0.0, chip
    )
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, chip).seconds == 4.0
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, slices.Chip(1)) is None


def test_micro_batches_are_as_many_as_tokens_or_windows_ask_for():
    """Episodes of 1,424 + 400 + 1,088 tokens: two in a row of 8,192. Pictures of 72 windows: 144
    hold the shown one and one crop."""
    rollout, load = RolloutShapes(capacity=8192), PlannedEpisode(sampled=400, crops=1)
    assert load.tokens(rollout) == 2912

    def count(rows, windows):
        shapes = TrainShapes(8192, rows, Buckets((windows,)))
        return micro_batches(shapes, rollout, load, episodes=512, shards=32)

    assert (count(1, 144), count(1, 216), count(1, 1000), count(2, 288)) == (16, 8, 8, 16 / 3)


@pytest.mark.parametrize(
    ("shards", "tensor", "windows", "compiler"),
    [(32, 1, 144, 7.89), (32, 1, 625, 11.63), (16, 2, 625, 9.48), (256, 1, 144, 6.35)],
)
def test_the_guess_of_the_7b_update_is_near_the_compiler_s(shards, tensor, windows, compiler):
    """A row of 8,192 tokens; temporaries in GiB as compiled on 2026-11-21 (docs/scaling.md)."""
    cfg, shapes = published("7b", remat="full"), TrainShapes(8192, 1, Buckets((windows,)))
    guess = update_bytes(cfg, shapes, windows, shards=shards, tensor=tensor) / 2**30
    assert 0.98 * compiler < guess < 1.2 * compiler


def test_search_proposes_what_a_slice_can_hold():
    """16 GB chips cannot hold a whole copy of the 7B beside the trainer's state; 95 GB can."""
    config, load = load_config("stage1.py", CONFIGS), PlannedEpisode()
    flags, proposed = next(proposals(config, slices.find("v5e:4x8"), load))
    assert proposed.rollout.tensor > 1
    assert proposed.update.rows < 4
    assert "--rollout.slots" in flags
    _, proposed = next(proposals(config, slices.find("v5p:2x2x4"), load))
    assert proposed.rollout.tensor == 1
    assert proposed.update.rows > 1


@pytest.mark.parametrize("name", ["v5e:4x8", "v5p:2x2x2"])
def test_search_proposes_nothing_that_train_would_refuse(name):
    """Groups of 8 chips were among it, where a host has 4."""
    where = slices.find(name)
    there = {"devices": len(where.devices), "local": 4, "processes": where.hosts}
    for config in ("stage1.py", "stage1.py:3b"):
        found = list(proposals(load_config(config, CONFIGS), where, PlannedEpisode()))
        assert found
        for _, proposed in found:
            check_devices(proposed, **there)


def test_what_to_change_is_nothing_that_train_would_refuse():
    """A host of v5e:4x4 has 4 chips: groups of 4 are the largest."""
    where, config = slices.find("v5e:4x4"), load_config("stage1.py", CONFIGS)
    assert "raise rollout.tensor (at most 4, the chips of a host)" in advice(
        "rollout", where, config
    )
    assert "raise mesh.tensor (at most 4, the chips of a host)" in advice("update", where, config)
    rollout, mesh = replace(config.rollout, tensor=4), replace(config.mesh, tensor=4)
    most = replace(config, rollout=rollout, mesh=mesh)
    for phase in ("rollout", "reshard", "score", "update"):
        assert ".tensor" not in advice(phase, where, most)
    assert "raise --tensor" in advice("model", where, None)


def test_a_plan_has_the_meshes_that_the_run_would_have():
    """Copies of one host each, and groups of an update, too."""
    config = load_config("stage1.py", CONFIGS)
    rollout, mesh = replace(config.rollout, tensor=2), replace(config.mesh, tensor=4)
    run = PlannedRun.of(replace(config, rollout=rollout, mesh=mesh), slices.find("v5e:4x4"))
    for whole, ways in ((run.rollout_mesh, 2), (run.train_mesh, 4)):
        assert whole.shape["tensor"] == ways
        for group in whole.devices.reshape(-1, ways):
            assert len({device.process_index for device in group}) == 1
