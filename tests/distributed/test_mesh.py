"""Meshes over the devices of real slices: whose rows, whose copies, in whatever order."""

import random
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.distributed.mesh import (
    check_rows,
    make_mesh,
    meshed,
    own_mesh,
    rollout_mesh,
    slice_of,
)
from lfpc_jax.distributed.sharding import RULES
from lfpc_jax.run.config import MeshSettings, RolloutSettings, TrainConfig
from lfpc_jax.run.config_checks import check_devices
from support import tpu_slices

CASES = [
    (name, tensor)
    for name in tpu_slices.NAMES
    for tensor in (1, 2, 4, 8)
    if len(tpu_slices.devices(name)) % tensor == 0
]


@pytest.mark.parametrize(("name", "tensor"), CASES)
def test_a_process_fills_rows_of_its_own_or_the_run_is_refused(name, tensor):
    """On every slice: either the rows that a process puts are its addressable ones and no other
    process', or `check_devices` refuses with the remedy, before there is a mesh."""
    owned = tpu_slices.of_processes(name)
    count, local = len(tpu_slices.devices(name)), len(owned[0])
    config = TrainConfig(
        mesh=MeshSettings(1, -1, tensor), rollout=RolloutSettings(slots=local, tensor=1)
    )
    there = {"devices": count, "local": local, "processes": len(owned)}
    if local % tensor:
        with pytest.raises(ValueError, match=f"choose a mesh.tensor that divides the {local}"):
            check_devices(config, **there)
        mesh = make_mesh(1, -1, tensor, devices=tpu_slices.devices(name))
        with pytest.raises(ValueError, match=f"a group of {tensor} devices lies across processes"):
            check_rows(mesh)
        return
    check_devices(config, **there)
    shards = count // tensor
    for data in {1, 2} if shards % 2 == 0 else {1}:
        mesh = make_mesh(data, -1, tensor, devices=tpu_slices.devices(name))
        check_rows(mesh)
        assert {*mesh.devices.flat} == {*tpu_slices.devices(name)}
        rows = NamedSharding(mesh, PartitionSpec(None, RULES["batch"]))
        places = rows.devices_indices_map((1, shards))
        filled = [{places[device][1].start or 0 for device in own} for own in owned.values()]
        assert {len(one) for one in filled} == {local // tensor}
        assert sorted(row for one in filled for row in one) == [*range(shards)]


@pytest.mark.parametrize(("name", "tensor"), CASES)
def test_copies_are_of_one_process_each_and_its_own_mesh_is_its_part(name, tensor):
    owned = tpu_slices.of_processes(name)
    if len(owned[0]) % tensor:
        with pytest.raises(ValueError, match=r"process 0 has \d of its own|process 0 has"):
            rollout_mesh(tensor, devices=tpu_slices.devices(name))
        return
    shuffled = random.Random(0).sample(tpu_slices.devices(name), len(tpu_slices.devices(name)))
    mesh = rollout_mesh(tensor, devices=tpu_slices.devices(name))
    assert rollout_mesh(tensor, devices=shuffled) == mesh, "the same in every process"
    assert mesh.devices.shape == (len(shuffled) // tensor, 1, tensor)
    for process, own in owned.items():
        part = own_mesh(mesh, process)
        assert {*part.devices.flat} == {*own}
        assert part.devices.shape == (len(own) // tensor, 1, tensor)


@pytest.mark.parametrize("name", [n for n in tpu_slices.NAMES if not n.startswith("v5p")])
def test_what_holds_the_same_part_is_a_regular_grid(name):
    """v5e and v6e gather over no other groups: the compiler aborts."""
    for tensor in (2, 4):
        if len(tpu_slices.of_processes(name)[0]) % tensor:
            continue
        mesh = rollout_mesh(tensor, devices=tpu_slices.devices(name))
        grids = []
        for part in range(tensor):
            coords = np.array([device.coords[:2] for device in mesh.devices[:, 0, part]])
            xs, ys = (sorted({*column}) for column in coords.T)
            assert len(coords) == len(xs) * len(ys), "every x with every y"
            for steps in map(np.diff, (xs, ys)):
                assert len({*steps}) <= 1
            grids.append((len(xs), len(ys)))
        assert len({*grids}) == 1


def test_jax_s_own_order_stands_where_groups_lie_within_processes():
    """Which is the slice's own, for the speed of gathers."""
    from jax.experimental import mesh_utils

    for name in ("v5e:4x8", "v5p:4x4x8"):
        devices = tpu_slices.devices(name)
        sides = (1, len(devices), 1)
        expected = mesh_utils.create_device_mesh(
            sides, devices=devices, allow_split_physical_axes=True
        )
        assert make_mesh(fsdp=-1, devices=devices) == meshed(expected)


TWO = ("2xv5e:2x4", "2xv5e:4x4", "2xv5p:2x2x2", "4xv6e:2x2", "2xtpu7x:2x2x1")


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_data_goes_across_slices_and_all_else_stays_within(name, tensor):
    """Each part of the batch that `data` makes is of one slice, as are the parameters' parts. Each
    slice has the mesh that it has by itself."""
    slices = int(name[0])
    mesh = make_mesh(slices, -1, tensor, devices=tpu_slices.devices(name))
    check_rows(mesh)
    assert [{slice_of(device) for device in part.flat} for part in mesh.devices] == [
        {number} for number in range(slices)
    ]
    alone = make_mesh(1, -1, tensor, devices=tpu_slices.devices(name[2:]))
    for part in mesh.devices:
        assert [device.coords for device in part.flat] == [
            device.coords for device in alone.devices.flat
        ]
    copies = rollout_mesh(tensor, devices=tpu_slices.devices(name))
    for copy in copies.devices:
        assert len({(slice_of(device), device.process_index) for device in copy.flat}) == 1


@pytest.mark.parametrize("data", [1, 3])
def test_a_mesh_that_would_split_parameters_over_slices_is_refused(data):
    devices = tpu_slices.devices("2xv5e:2x4")
    devices = devices if data == 1 else [*devices[:6], *devices[8:14]]
    with pytest.raises(ValueError, match=r"2 slices reach each other .* set --mesh.data 2"):
        make_mesh(data, -1, devices=devices)
    with pytest.raises(ValueError, match=r"2 slices reach each other .* set --mesh.data 2"):
        check_devices(
            TrainConfig(mesh=MeshSettings(data, -1)),
            devices=len(devices), local=4, processes=4, slices=2,
        )  # fmt: skip


def test_uneven_processes_are_refused():
    """Of 2 and 4 devices: with as many rows each, one process had no room for its own."""
    owned = tpu_slices.of_processes("v5e:4x4")
    devices = np.array([*owned[0][:2], *owned[1]])
    with pytest.raises(ValueError, match=re.escape("processes have {0: 2, 1: 4} shards")):
        check_rows(meshed(devices.reshape(1, -1, 1)))


def test_no_copies_without_devices():
    with pytest.raises(ValueError, match="on 0 devices each"):
        rollout_mesh(0, devices=jax.devices())
    with pytest.raises(ValueError, match="process 0 has 8 devices"):
        rollout_mesh(3, devices=jax.devices())
