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
from lfpc_jax.model import spec
from lfpc_jax.model.config import published
from lfpc_jax.plan import chips, compiling, counts, slices
from lfpc_jax.plan.programs import bytes_per_chip
from lfpc_jax.plan.roofline import LeastTime, least_time
from lfpc_jax.plan.run import PlannedRun, model_of
from lfpc_jax.plan.update import PlannedUpdate
from lfpc_jax.plan.work import Load
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import TrainShapes
from support import small_plan

pytestmark = pytest.mark.compiles

SCORE = ["score pictures", "score"]
UPDATE = ["update pictures", "update", "update pictures back", "optimizer"]
PROGRAMS = ["encode", "prefill", "begin", "extend", "decode", "reshard", *SCORE, *UPDATE]


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


def test_a_run_that_is_still_to_come_is_planned_by_its_first_model():
    """Stage II begins from Stage I's folder, which the plan of both comes before."""
    config = load_config("authors_stage2.py", CONFIGS)
    with pytest.raises(ValueError, match=r"runs/authors_stage1 is not here.*--model\.path Qwen"):
        model_of(config)
    assert model_of(override(config, ["--model.path", "Qwen2.5-VL-7B-Instruct"])).text.layers == 28


def test_memory_by_kind_is_what_one_counts(planned):
    """Float32 on a CPU: moments are twice the parameters, split in two; the rollouts hold them
    whole. Sums of gradients are as large as the parameters. A float32 policy is no copy, so beside
    its own arguments `update` leaves the moments and the tower."""
    rows = {name: row["kinds"] for name, row in planned[1].items()}
    beside = {name: row["beside"] for name, row in planned[1].items()}
    parameters = rows["optimizer"]["parameters"]
    assert rows["optimizer"]["moments"] == pytest.approx(2 * parameters, rel=1e-3)
    assert rows["optimizer"]["gradients"] == parameters
    text, tower = rows["update"]["gradients"], rows["update pictures back"]["gradients"]
    assert text + tower == parameters
    assert (rows["update"]["parameters"], rows["update pictures"]["parameters"]) == (text, tower)
    whole = rows["encode"]["parameters"] + rows["decode"]["parameters"]
    assert whole == pytest.approx(2 * parameters, rel=0.01)
    layers, slots, own, heads, wide = 3, 16, 256, 2, 16
    prompts, longest = 6, 64 + 128  # half more than 16 slots of 4 rollouts each need
    token = 2 * layers * heads * wide * 4
    assert rows["decode"]["own"] == pytest.approx(slots * own * token / 2, rel=0.01)
    assert rows["decode"]["prompts"] == pytest.approx(prompts * longest * token / 2, rel=0.01)
    [cache] = (run["cache"] for run in planned[0])
    assert (cache["prompts"], cache["prompt_ids"]) == (prompts, longest)
    assert (cache["slots"], cache["own_ids"]) == (slots, own)
    assert cache["prompt_bytes"] == prompts * longest * token / 2
    assert cache["own_bytes"] == slots * own * token / 2
    # On a CPU decode works on copies, with room for the 8 tokens of a chunk.
    assert cache["working_bytes"] == slots * (own + 8) * token / 2
    assert beside["decode"] == pytest.approx(3 * parameters, rel=1e-3)
    # The rows of 2 mini-batches: 8 on each device of 256 tokens, with 64 places that count.
    assert beside["optimizer"] == 2 * 8 * (7 * 256 + 5 * 64) * 4


def test_an_update_holds_the_embeddings_and_their_gradients(planned):
    """4 prompts a mini-batch, 2 on each device, with a picture each that all 4 episodes share. A
    picture of 64 tokens has a span of 6 windows; a micro-batch has 18, for the longest strip. Its
    embeddings are 16 a window, 64 wide and float32, as their gradients are."""
    rows = planned[1]
    room = 18 * 16 * 64 * 4
    state = 3 * rows["optimizer"]["kinds"]["parameters"]
    counts = 5 * 4  # of the state and the optimizer, which are not split
    kept = rows["optimizer"]["beside"]
    gradients = rows["optimizer"]["kinds"]["gradients"]
    seen = 256 * 64 * 4
    text, tower = (rows[name]["kinds"]["gradients"] for name in ("update", "update pictures back"))
    for name, beside in {
        "update pictures": state + gradients - tower + room,
        "update": state + gradients - 2 * text + 2 * room + 2 * seen,
        "update pictures back": state + gradients - 2 * tower + room,
        "score": state - gradients + room + seen,
        "score pictures": state - gradients + text + room,
    }.items():
        assert rows[name]["beside"] - kept == pytest.approx(beside, abs=counts), name


def test_donated_arrays_are_given_back(planned):
    """The state of the optimizer, and the sums of gradients of the other two."""
    compiled = {name: row["compiled"] for name, row in planned[1].items()}
    kinds = {name: row["kinds"] for name, row in planned[1].items()}
    state = kinds["optimizer"]["parameters"] + kinds["optimizer"]["moments"]
    assert compiled["optimizer"]["aliased_bytes"] == pytest.approx(state, rel=1e-3)
    for name in ("update", "update pictures back"):
        assert compiled[name]["aliased_bytes"] == kinds[name]["gradients"], name
    assert compiled["update pictures"]["aliased_bytes"] == 0


def test_a_kl_term_is_planned_with_its_reference(planned, tmp_path):
    """A copy of the parameters, in float32 as all here, beside every program. The two mini-batches
    of a step are scored with it, where only the second is scored with the policy. A row has 64
    numbers more, and two mini-batches of such rows lie on the device."""
    file, programs = tmp_path / "plan.json", ["decode", "score", "update"]
    args = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    args += ["--update.objective.kl", "0.1", "--json", str(file), "--program", *programs]
    assert plan.main(args) == 0
    rows = {row["program"]: row for row in json.loads(file.read_text())["programs"]}
    assert list(rows) == programs
    reference = planned[1]["optimizer"]["kinds"]["parameters"]
    inputs, before = (each["update"]["kinds"]["inputs"] for each in (rows, planned[1]))
    assert inputs - before == 64 * 4
    for name, row in rows.items():
        more = row["beside"] - planned[1][name]["beside"] - reference
        micro_batches = planned[0][0]["layout"]["rows"]
        assert more == (0 if name == "decode" else 2 * micro_batches * 64 * 4), name
    assert rows["score"]["load"]["calls"] == 3 * planned[1]["score"]["load"]["calls"]
    assert rows["update"]["load"] == planned[1]["update"]["load"]


def test_no_log_probabilities_are_planned_where_none_are_computed(tmp_path, capsys):
    """One mini-batch and one epoch: the update's own forward has them."""
    args = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    args += ["--update.mini_batch", "8", "--program", "score"]
    assert plan.main(args) == 1
    assert "'score': the run has encode, prefill" in capsys.readouterr().err


ON_A_CARD = ["--model.lora", "on", "--model.lora.rank", "4", "--model.lora.projections", "q",
             "--update.objective.kl", "0.1", "--model.dtype", "bfloat16"]  # fmt: skip


@pytest.mark.parametrize(
    ("chips", "base", "shared"), [(1, "same", 1), (1, "int8", 1), (2, "same", 0)]
)
def test_what_is_frozen_is_there_once_where_it_lies_alike(chips, base, shared):
    """On one chip the updates, the rollouts and a reference hold the same arrays; the reference of
    its own has the factors alone, in the model's dtype."""
    config = override(load_config("stage1.py:3b"), [*ON_A_CARD, "--model.lora.base", base])
    run = PlannedRun.of(config, slices.find(f"cpu:{chips}"))
    factors = 36 * (2048 * 4 + 4 * 2048)
    projections = 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    whole = bytes_per_chip(spec.abstract(run.cfg, "bfloat16"))
    scales = 36 * (2 * 2048 + 2 * 256 + 2 * 11008 + 2048) * 2
    frozen = whole if base == "same" else whole - projections + scales
    # On two, norms and biases lie alike as well.
    assert run.shared_bytes == pytest.approx(shared * frozen, abs=2e-3 * frozen * (1 - shared))
    assert run.rollout_bytes == frozen + 2 * factors
    if chips == 1:
        assert run.reference_bytes == 2 * factors
        assert run.state_bytes == pytest.approx(frozen + 12 * factors, abs=32)  # and some counts


def test_a_frozen_tower_has_no_way_back(tmp_path):
    file = tmp_path / "plan.json"
    args = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    args += ["--model.train_vision", "false", "--json", str(file), "--program", *UPDATE]
    assert plan.main(args) == 0
    found = json.loads(file.read_text())
    assert [row["program"] for row in found["programs"]] == [UPDATE[0], UPDATE[1], UPDATE[3]]


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


@pytest.mark.parametrize(
    ("remat", "products", "scores"),
    [("none", 3, 3), ("dots", 3, 4), ("attended", 4, 3), ("full", 4, 4), ("offload", 4, 4)],
)
def test_the_flops_of_an_update_are_those_counted_by_hand(remat, products, scores):
    """The 7B's matrices, from its published sizes: 28 layers of 3,584, 4 of 28 heads for keys, an
    MLP of 18,944. Full remat makes four passes, others fewer of products or of attention. Logits
    are made at places alone, four times. Norms and biases, counted along, are under 0.01 %."""
    width, mlp, layers, tokens, places, keys = 3584, 18944, 28, 8192, 2048, 1234.0
    matrices = layers * (2 * width * width + 2 * width * 512 + 3 * width * mlp)
    attention = layers * 4 * width * keys
    vocabulary = 2 * 152064 * width
    cfg = published("7b", remat=remat)
    shapes = TrainShapes(tokens // 2, 2, places // 2, 72, 72)
    found = counts.TextWork.of(cfg, shapes, shapes.places, keys)
    expected = tokens * (products * 2 * matrices + scores * attention) + 4 * places * vocabulary
    assert found.learn == pytest.approx(expected, rel=1e-4)
    forward = tokens * (2 * matrices + attention) + places * vocabulary
    assert found.score == pytest.approx(forward, rel=1e-4)


def test_the_flops_of_the_tower_are_those_counted_by_hand():
    """32 layers of 1,280 with an MLP of 3,420, 4 of them over whole spans of 72 windows, the others
    over a window of 64 patches; 1,176 values a patch; a merger of 5,120 to 3,584."""
    patches, width, mlp = 144 * 64, 1280, 3420
    layer = 4 * width * width + 3 * width * mlp
    merger = (5120 * 5120 + 5120 * 3584) / 4
    products = 2 * patches * (32 * layer + 1176 * width + merger)
    attention = patches * 4 * width * (4 * 72 * 64 + 28 * 64)
    cfg = published("7b")
    assert counts.vision_forward(cfg, 144, 72) == pytest.approx(products + attention, rel=1e-3)
    for remat, passes in (("none", (3, 3)), ("dots", (3, 4)), ("full", (4, 4))):
        found = counts.vision_backward(replace(cfg, tower_remat=remat), 144, 72)
        expected = passes[0] * products + passes[1] * attention
        assert found == pytest.approx(expected, rel=1e-3), remat


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "flags"),
    [
        ("v5p:2x2x4", ()),
        ("v5e:4x8", ("--update.rows", "1", "--rollout.tensor", "2")),
    ],
)
def test_the_7b_update_of_stage1_fits(topology, flags, tmp_path, monkeypatch):
    """What is donated is given back, and no array is as large as a head's scores of a row, or as
    the logits of more than 512 tokens."""
    monkeypatch.setattr(compiling, "_LARGEST", None)  # all of them
    file = tmp_path / "plan.json"
    args = ["--config", "stage1.py", "--topology", topology, *flags, "--quick", "--json", str(file)]
    programs = [*UPDATE, "update, all places", "update pictures back, one span"]
    assert plan.main([*args, "--program", *programs]) == 0
    found = json.loads(file.read_text())
    rows = {row["program"]: row for row in found["programs"]}
    assert set(rows) == set(programs)
    row_tokens = found["runs"][0]["layout"]["row_tokens"]
    for name, row in rows.items():
        assert row["fits"], name
        donated = {"optimizer": ("parameters", "moments"), "update pictures": ()}
        kinds = donated.get(name, ("gradients",))
        given = sum(row["kinds"][kind] for kind in kinds)
        aliased = row["compiled"]["aliased_bytes"]
        padded = 1.2 if "back" in name else 1.03  # to a chip's tiles; the tower's parts are small
        assert given <= aliased <= padded * given, name
        for shape in row["compiled"]["largest"]:
            dims = [int(n) for n in re.findall(r"\d+", shape.partition("[")[2])]
            assert dims.count(row_tokens) < 2, shape
            if dims[-1:] == [152064]:
                assert math.prod(dims[:-1]) <= 3584, shape  # a gradient, or logits of a block
    assert len(rows["update"]["compiled"]["largest"]) > 100


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
    chip = chips.Chip(hbm_bytes=2**20)
    found = slices.find("cpu:2")
    monkeypatch.setattr(slices, "find", lambda _: replace(found, chip=chip))
    for name in ("scoring", "updating"):
        monkeypatch.setattr(PlannedUpdate, name, lambda *_, **__: iter(()))
    config = str(small_plan.config_file(tmp_path))
    assert plan.main(["--config", config, "--topology", "cpu:2"]) == 1
    error = capsys.readouterr().err
    assert "decode does not fit" in error
    assert "of 0.00): its weights and the trainer's state alone are too large: raise" in error


def test_what_train_would_refuse_there_is_refused(tmp_path, capsys):
    run = ["--config", str(small_plan.config_file(tmp_path)), "--topology", "cpu:2"]
    assert plan.main([*run, "--rollout.slots", "15"]) == 1
    assert "rollout.slots 15 is no multiple of the 2 copies" in capsys.readouterr().err


def test_an_unknown_flag_without_a_config_is_refused(capsys):
    assert plan.main(["--topology", "cpu:2", "--modle", "3b"]) == 1
    assert "--modle" in capsys.readouterr().err


def test_the_longest_of_three_times_bounds_a_call():
    chip = chips.Chip(1, flops=100.0, hbm=10.0, wire=1.0)
    assert least_time(Load(200.0, 10.0, 1.0), 1.5, chip).bound == "compute"
    assert least_time(Load(200.0, 30.0, 1.0), 1.5, chip) == least_time(
        Load(0.0, 30.0, 1.0), 0.0, chip
    )
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, chip).seconds == 4.0
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, chips.Chip(1)) is None
    apart = chips.Chip(1, flops=100.0, hbm=10.0, wire=1.0, network=0.1)
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, apart, between=0.5) == LeastTime(5.0, "network")
    assert least_time(Load(200.0, 30.0, 1.0), 4.0, apart, between=0.3).bound == "wire"


def test_a_plan_has_the_meshes_that_the_run_would_have():
    """Copies of one host each, and groups of an update, too."""
    config = load_config("stage1.py", CONFIGS)
    rollout, mesh = replace(config.rollout, tensor=2), replace(config.mesh, tensor=4)
    run = PlannedRun.of(replace(config, rollout=rollout, mesh=mesh), slices.find("v5e:4x4"))
    for whole, ways in ((run.rollout_mesh, 2), (run.train_mesh, 4)):
        assert whole.shape["tensor"] == ways
        for group in whole.devices.reshape(-1, ways):
            assert len({device.process_index for device in group}) == 1
