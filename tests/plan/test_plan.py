"""Ahead-of-time compilation for TPUs that are not there: needs libtpu (the extra `plan`)."""

import json

import pytest

from lfpc_jax.cli import plan
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config
from lfpc_jax.plan import programs, slices

pytestmark = pytest.mark.compiles


def test_a_slice_is_described_or_refused_with_the_remedy():
    found = slices.find("v5e:2x4")
    assert (len(found.devices), found.chip.hbm_bytes) == (8, 15.75 * 2**30)
    assert (len(slices.find("cpu:8").devices), slices.find("cpu:8").platform) == (8, "cpu")
    two = slices.find("2xv5e:2x4")
    assert (len(two.devices), two.slices, two.hosts, found.slices) == (16, 2, 4, 1)
    halves = slices.find("tpu7x:2x2x1")
    assert (len(halves.devices), halves.platform) == (8, "tpu")
    wrong = (
        "v9z:2x2",
        "v5e",
        "v5e:3x5",
        "0xv5e:2x2",
        "cpu:9",
        "cpu:x",
        "gpu:100000",
        "h100",
        "h100:0",
    )
    for name in wrong:
        with pytest.raises(ValueError, match=f"topology '{name}'"):
            slices.find(name)
    for name in ("cpu:0", "cpu:100000"):
        with pytest.raises(ValueError, match=f"'{name}': name one to 1,024 devices, as cpu:8"):
            slices.find(name)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x4", "v5p:2x2x1"])
def test_the_real_3b_forward_compiles_with_splash(topology, tmp_path, capsys):
    """All 36 and 32 layers of the published size; 7.5 GB of bfloat16 weights over the chips."""
    file = tmp_path / "plan.json"
    args = ["--model", "3b", "--topology", topology, "--length", "1024", "--windows", "16"]
    assert plan.main([*args, "--program", "forward", "--json", str(file)]) == 0
    (row,) = json.loads(file.read_text())["programs"]
    chips = len(slices.find(topology).devices)
    assert row["fits"]
    assert row["compiled"]["argument_bytes"] == pytest.approx(2 * 3.7546e9 / chips, rel=0.05)
    assert row["bytes_per_chip"] == sum(row["kinds"].values()) < row["hbm_bytes"]
    assert "GiB a chip" in capsys.readouterr().out


@pytest.mark.slow
def test_the_engine_of_the_real_3b_compiles_and_its_cache_is_never_copied(tmp_path):
    """16 slots of 4,096 places on a chip, and 3 prompts of 1,024 + 512. What decode and extend need
    beside their arguments is less than half of the slots' keys, 0.56 GiB a chip."""
    file = tmp_path / "plan.json"
    args = ["--model", "3b", "--topology", "v5e:2x2", "--program", "rollout", "--json", str(file)]
    assert plan.main([*args, "--slots", "64", "--capacity", "4096", "--tensor", "1"]) == 0
    rows = {row["program"]: row for row in json.loads(file.read_text())["programs"]}
    assert list(rows) == ["encode", "prefill", "begin", "extend", "decode"]
    keys = 36 * 64 * 4096 * 2 * 128 * 2 / 4
    weights = 2 * 3.7546e9
    for name in ("begin", "extend", "decode"):
        compiled = rows[name]["compiled"]
        prompts = 2 * keys * (3 * 1536) / (16 * 4096)
        held = 2 * keys + prompts + (0 if name == "begin" else weights)
        assert compiled["argument_bytes"] == pytest.approx(held, rel=0.15), name
        assert compiled["temporary_bytes"] < 0.5 * keys, name


def test_splash_is_in_the_program_and_scores_are_not():
    """Lowered, not compiled: the Pallas call for both towers, and no `[T, T]` array."""
    import jax

    from lfpc_jax.model import qwen, spec

    mesh = make_mesh(fsdp=-1, devices=slices.find("v5e:2x2").devices)
    cfg = config.published("3b", kernel="splash")
    sizes = programs.Sizes(rows=4, length=1536, images=4, windows=40)
    tokens, images = programs.abstract_prompts(cfg, mesh, sizes)
    with jax.set_mesh(mesh):
        text = (
            jax.jit(lambda *args: qwen.forward(*args, cfg=cfg))
            .lower(spec.abstract(cfg, "bfloat16", mesh), tokens, images)
            .as_text()
        )
    assert text.count("splash_mha_fwd") >= 2
    assert "1536x1536x" not in text


def test_what_does_not_fit_is_refused(capsys):
    """The 72B's 147 GB of bfloat16 weights are not for four chips of 16 GiB."""
    args = ["--model", "72b", "--topology", "v5e:2x2", "--length", "128", "--windows", "4"]
    assert plan.main([*args, "--program", "forward"]) == 1
    out = capsys.readouterr()
    assert "NO" in out.out
    assert "does not fit, 72b on v5e:2x2" in out.err
    assert "larger slice" in out.err
