"""What the engine's programs send between the devices of one process: rows of the cache never."""

from dataclasses import replace

import jax
import pytest

from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.model import cache
from lfpc_jax.plan.collectives import collectives
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.rollout.sampling import Sampling
from support import gpus, small, tpu_slices

pytestmark = pytest.mark.compiles

SHAPES = replace(small.SHAPES, slots=32, prefill_rows=8, extend_rows=8)
VECTOR = SHAPES.slots * SHAPES.chunk * 4
"""The bytes of the largest of the arrays that say what a decode drew."""


NAMES = ("encode", "prefill", "begin", "extend", "decode")


def sent(devices, cfg, tensor=1, options=None, names=NAMES):
    """The collectives of each of these programs, by its name."""
    mesh = rollout_mesh(tensor, devices=devices)
    return {
        program.name: collectives(program.lower().compile(options).as_text())
        for program in rollout_programs(cfg, mesh, SHAPES, Sampling())
        if program.name in names
    }


GPUS = pytest.param("gpu", marks=pytest.mark.skipif(gpus.PLUGIN_MISSING, reason=gpus.REASON))


@pytest.mark.long
@pytest.mark.parametrize("where", ["cpu", "cpu, keys as on accelerators", "v5e:2x4", GPUS])
def test_devices_with_a_copy_of_the_model_each_send_no_rows(where, monkeypatch):
    """Before rows were numbered within their shard, `extend` of this model sent 5.5 MB a call. A
    loop of updates under `vmap` did not compile for GPUs."""
    if where != "cpu":
        monkeypatch.setattr(cache, "positions_last", lambda cfg: False)
    if where.startswith("cpu"):
        devices = jax.devices()
    else:
        devices = gpus.h100() if where == "gpu" else tpu_slices.devices(where)
    programs = sent(devices, small.config(), options=gpus.OPTIONS if where == "gpu" else None)
    for name in ("encode", "prefill", "begin", "extend"):
        assert programs[name] == [], name
    decode = programs["decode"]
    assert decode  # whether any row is live, and at the end what was drawn
    assert {exchange.kind for exchange in decode} <= {"all-reduce", "all-gather"}
    assert max(exchange.bytes for exchange in decode) < 2 * VECTOR
    assert all(exchange.times == 1 for exchange in decode)  # none at every layer


def test_devices_that_share_a_copy_send_its_sums():
    programs = sent(jax.devices(), small.config(), tensor=2, names=("begin", "extend"))
    assert programs["begin"] == []
    assert any(exchange.kind == "all-reduce" for exchange in programs["extend"])
