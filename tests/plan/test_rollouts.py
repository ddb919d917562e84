"""What rollouts hold and read, against what one counts by hand."""

from dataclasses import replace

import pytest

from lfpc_jax.model.config import published
from lfpc_jax.plan import counts, search, slices
from lfpc_jax.plan.counts import CacheBytes
from lfpc_jax.plan.episodes import PlannedEpisode
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.work import rollout_loads
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import Buckets, RolloutShapes
from support import small_plan

TOKEN = 57_344
"""The bytes of the 7B's keys and values of a token: 28 layers, 4 heads of 128, bfloat16."""

SHAPES = RolloutShapes(
    slots=64, chunk=16, capacity=8192, prompt_text=Buckets((512, 1024)), prefixes=6, members=16,
    own=6000,
)  # fmt: skip


def test_the_bytes_of_a_token():
    assert counts.token_bytes(published("7b")) == 28 * 2 * 4 * 128 * 2 == TOKEN
    assert counts.token_bytes(published("3b")) == 36 * 2 * 2 * 128 * 2 == 36_864


def test_prompts_lie_in_memory_once_and_slots_hold_what_follows():
    """Four copies of the model on two chips each. A prompt has up to 1,024 + 1,024 ids."""
    held = CacheBytes.of(published("7b", kernel="splash"), SHAPES, groups=4, tensor=2)
    assert held == CacheBytes(prompts=6 * 2048 * TOKEN // 8, own=64 * 6000 * TOKEN // 8, working=0)
    assert held.total == (6 * 2048 + 64 * 6000) * TOKEN // 8


def test_a_cpu_decodes_working_copies():
    """As long as a row, and a chunk of 16 tokens more."""
    held = CacheBytes.of(published("7b", kernel="xla"), SHAPES)
    assert held.working == 64 * (6000 + 16) * TOKEN
    assert held.total == held.prompts + held.own + held.working


@pytest.mark.compiles
def test_plain_xla_keeps_keys_as_the_planned_chip_has_them(tmp_path):
    """Not as the CPU that plans has them: there are no working copies, and the engine's programs
    are traced for such a cache."""
    config = load_config(str(small_plan.config_file(tmp_path)), tmp_path)
    run = PlannedRun.of(override(config, ["--model.kernel", "xla"]), slices.find("v5e:1x1"))
    assert run.cache_bytes.working == 0
    programs = rollout_programs(run.cfg, run.rollout_mesh, run.rollout_shapes, Sampling())
    [decode] = (program for program in programs if program.name == "decode")
    own, _, _ = decode.kinds["own"]
    assert own.k.shape == own.v.shape
    assert "stablehlo.while" in decode.lower().as_text()


def test_key_heads_that_chips_cannot_divide_are_on_each():
    """The 3B has two of them."""
    cfg = published("3b", kernel="splash")
    of = {tensor: CacheBytes.of(cfg, SHAPES, tensor=tensor) for tensor in (1, 2, 4)}
    assert of[2].own * 2 == of[1].own
    assert of[4] == of[1]


def test_a_decode_step_reads_weights_each_prompt_once_and_half_of_what_rows_end_with():
    """64 rows in groups of 16: four prompts of 1,024 + 400. A row ends with 400 sampled tokens, a
    crop of 1,024 and 64 of text after its prompt, so it has 744 on average. The chips of a copy
    divide the weights, and all eight chips the cache."""
    cfg = published("7b")
    loads = rollout_loads(
        cfg, SHAPES, PlannedEpisode(), episodes=4096, prompts=256, groups=4, tensor=2
    )
    width, mlp, vocabulary = 3584, 18944, 152064 * 3584
    matrices = 28 * (2 * width * width + 2 * width * 512 + 3 * width * mlp)
    weights = 2 * (matrices + vocabulary)
    read = (4 * 1424 + 64 * 744) * TOKEN
    assert loads["decode"].bytes == pytest.approx(weights / 2 + read / 8, rel=1e-4)
    assert loads["decode"].calls == 4096 * 400 / 64
    # An observation's row reads its own prompt; one is written at a time.
    assert loads["extend"].bytes == pytest.approx(weights / 2 + (1424 + 744) * TOKEN / 8, rel=1e-4)


def test_rollouts_begin_without_a_copy():
    loads = rollout_loads(
        published("7b"), SHAPES, PlannedEpisode(), episodes=4096, prompts=256, groups=1, tensor=1
    )
    begin = loads["begin"]
    assert (begin.flops, begin.bytes, begin.calls) == (0, 0, 4096 / 64)


@pytest.mark.compiles
@pytest.mark.parametrize(("room", "prefixes"), [(1.01, 0), (0.99, 128)])
def test_search_keeps_as_many_prompts_as_there_is_room_for(room, prefixes, tmp_path, monkeypatch):
    """If half more prompts than 512 slots of 4 rollouts each need do not fit, as many as they need;
    not half as many slots."""
    config = load_config(str(small_plan.config_file(tmp_path)), tmp_path)
    where = slices.find("cpu:2")
    run = PlannedRun.of(override(config, ["--rollout.slots", "512"]), where)
    held = run.state_bytes + run.reference_bytes + run.rollout_bytes
    # All other memory is for the caches, of which a chip holds half.
    free = int(room * run.cache_bytes.prompts) + run.cache_bytes.own + run.cache_bytes.working
    monkeypatch.setattr(search, "_ROOM", 1)
    chip = replace(where.chip, hbm_bytes=held + free)
    flags = search._rollout(config, replace(where, chip=chip))
    expected = {"tensor": 1, "slots": 512, "prefixes": prefixes}
    assert flags == tuple(
        word for name, value in expected.items() for word in (f"--rollout.{name}", str(value))
    )
