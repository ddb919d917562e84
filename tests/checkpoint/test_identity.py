"""Which model a folder holds: every byte of its weights tells, and nothing but the model does."""

import os
import shutil

import jax
import numpy as np
import pytest

from lfpc_jax.checkpoint import store
from lfpc_jax.checkpoint.identity import model_identity
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints, listed
from support import hf_folders


def of(folder):
    return model_identity(folder, folder)


@pytest.mark.parametrize("sharded", [False, True])
def test_one_changed_bit_of_a_weight_is_noticed_where_size_name_and_time_are_the_same(
    tmp_path, sharded
):
    hf = hf_folders.write(tmp_path / "hf", sharded=sharded)
    before = of(hf)
    assert of(shutil.copytree(hf, tmp_path / "copy")) == before
    file = sorted(hf.glob("*.safetensors"))[-1]
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = of(hf)
    assert after["weights"] != before["weights"]
    assert after["assets"] == before["assets"]


def test_what_the_weights_are_read_with_counts_and_a_readme_does_not(tmp_path):
    hf = hf_folders.write(tmp_path / "hf")
    before = of(hf)
    (hf / "README.md").write_text("# A model\n")
    (hf / ".cache").mkdir()
    (hf / "unused.safetensors").write_bytes(b"")
    assert of(hf) == before
    hf_folders.edit_config(hf, rms_norm_eps=1e-5)
    config = of(hf)
    (hf / "chat_template.jinja").write_text("{{ messages }}")
    template = of(hf)
    assert len({one["assets"] for one in (before, config, template)}) == 3
    assert {one["weights"] for one in (before, config, template)} == {before["weights"]}


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has neither"):
        of(tmp_path)


@pytest.mark.compiles
def test_an_orbax_folder_is_its_parameters(tmp_path):
    hf = hf_folders.write(tmp_path / "hf")

    def stored(name, value):
        origin = Origin(dtypes=("float32",))
        store.save({"a": jax.numpy.full(8, value)}, tmp_path / name, assets_from=hf, origin=origin)
        return model_identity(tmp_path / name, tmp_path / name / "hf")

    one, other = stored("one", 1.0), stored("other", 2.0)
    assert one["assets"] == other["assets"] == of(hf)["assets"]
    assert one["weights"] != other["weights"]
    (tmp_path / "one").rename(tmp_path / "moved")
    assert model_identity(tmp_path / "moved", tmp_path / "moved" / "hf") == one


def test_of_a_runs_checkpoint_the_model_counts_and_nothing_else(tmp_path):
    hf = hf_folders.write(tmp_path / "hf")
    keeper = Checkpoints(tmp_path / "run", keep=2)
    for step, weight in ((1, 1.0), (2, 2.0)):
        items = {"trained": {"a": np.full(8, weight)}, "optimizer": {"m": np.full(8, weight)}}
        keeper.save(step, items, {"score": weight})
    keeper.close()
    one, two = (tmp_path / "run" / f"{step:08d}" for step in (1, 2))
    assert model_identity(one, hf)["weights"] != model_identity(two, hf)["weights"]
    files = listed(one)
    assert files
    assert {name.split("/")[0] for name in files} == {"trained"}
    copy = shutil.copytree(one, tmp_path / "elsewhere")
    assert model_identity(copy, hf) == model_identity(one, hf)
