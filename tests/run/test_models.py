"""A training run as a model: which weights its names stand for."""

import json
import shutil
from dataclasses import asdict

import jax
import numpy as np
import pytest

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.models import load_model
from support import small

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Steps 1 to 3, the parameters times the step; the second is the best."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    shutil.copytree(small.folder(), run.assets)
    small.hf_config().save_pretrained(run.assets)
    origin = json.dumps(asdict(Origin(dtypes=("float32",))))
    (run.path / "origin.json").write_text(origin)
    run.settings.write_text(json.dumps({"model": {"train_vision": True, "lora": None}}))
    keeper = Checkpoints(run.checkpoints, keep=3)
    for step, score in ((1, 0.1), (2, 0.7), (3, 0.4)):
        params = jax.tree.map(lambda x, step=step: x * step, small.params())
        keeper.save(step, {"trained": params}, {"score": score})
    keeper.close()
    return run


@pytest.mark.parametrize(
    ("name", "step"), [("", 3), ("checkpoints/best", 2), ("checkpoints/00000001", 1)]
)
def test_a_run_is_a_model_and_so_are_its_checkpoints(run, name, step):
    model = load_model(run.path / name, dtype="float32", mesh=None)
    assert model.step == step
    assert model.assets == run.assets
    np.testing.assert_array_equal(model.params["embed"], small.params()["embed"] * step)


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(run):
    with pytest.raises(ValueError, match="no complete checkpoint '7'; of 00000001, 00000002"):
        load_model(run.checkpoints / "7", dtype="float32", mesh=None)
