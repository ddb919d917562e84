"""A training run as a model: which weights its names stand for."""

import json
import shutil
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lfpc_jax.checkpoint import store, training
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.model import int8, parameters, spec
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.run.config import described
from lfpc_jax.run.folder import RunFolder, computing_params
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


@pytest.fixture
def began(tmp_path):
    return small.hf_folder(tmp_path / "began")


@pytest.fixture
def on_int8(tmp_path, began):
    """A run of factors on the model rounded to int8, and the factors after its only step."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(small.folder(), run.assets)
    small.hf_config().save_pretrained(run.assets)
    origin = json.dumps(asdict(Origin(dtypes=("float32",))))
    (run.path / "origin.json").write_text(origin)
    lora = LoRA(rank=2, base="int8")
    settings = {"path": str(began), "train_vision": True, "lora": described(lora)}
    run.settings.write_text(json.dumps({"model": settings}))
    cfg = small.config()
    base = load_model(began, dtype="float32", base="int8")
    assert base.rounding is not None
    factors, frozen = parameters.split(jax.random.key(0), base.params, cfg, Trainable(lora=lora))
    factors = jax.tree.map(
        lambda x: x + 0.01 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), factors
    )
    keeper = Checkpoints(run.checkpoints)
    keeper.save(1, {"trained": factors, "frozen": frozen}, {})
    keeper.close()
    return run, factors, frozen


def test_factors_on_int8_are_added_to_the_weights_that_were_rounded(on_int8, began, caplog):
    """As they are in the folder that the run began from, and with how far these are from what the
    run computed with."""
    run, factors, frozen = on_int8
    loaded = load_model(run.path, dtype="float32")
    params = small.params()
    for name, part in factors["text"].items():
        a, b = (np.asarray(part["lora"][one], np.float64) for one in "ab")
        added = np.stack([np.tensordot(*pair, axes=1) for pair in zip(a, b)])
        np.testing.assert_allclose(
            loaded.params["text"][name]["w"], params["text"][name]["w"] + added, atol=1e-6
        )
        assert set(loaded.params["text"][name]) == set(params["text"][name])
    jax.tree.map(np.testing.assert_array_equal, loaded.params["vision"], params["vision"])
    said = load_model(began, dtype="float32", base="int8").rounding
    assert f"the run sampled and trained with them as int8 ({said})" in caplog.text
    assert loaded.rounding is None

    saved = training.latest(run.checkpoints)
    computed = computing_params(saved, run, small.config(), None)
    jax.tree.map(np.testing.assert_array_equal, computed, parameters.join(factors, frozen))


def test_weights_that_are_gone_or_others_are_refused(on_int8, began):
    run, *_ = on_int8
    file = began / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name] + 2 * np.abs(weights[name]).max() / 127
    save_file(weights, file, metadata={"format": "pt"})
    (began / "sums.json").unlink()
    with pytest.raises(ValueError, match=rf"{began}: is not the model that .*: {name} lies up to"):
        load_model(run.path, dtype="float32")
    shutil.rmtree(began)
    with pytest.raises(
        ValueError, match=f"it began from, {began}, which is not there; put it back"
    ):
        load_model(run.path, dtype="float32")


def test_a_store_is_rounded_as_a_folder_is(began, tmp_path):
    """And a model with a weight that is no number is refused by the name of its tensor."""
    cfg, params = small.config(), jax.tree.map(jnp.copy, small.params())
    origin = Origin(("float32",))
    store.save(params, tmp_path / "store", assets_from=began, origin=origin)
    found = [load_model(path, dtype="float32", base="int8") for path in (tmp_path / "store", began)]
    jax.tree.map(np.testing.assert_array_equal, *(model.params for model in found))
    assert int8.is_held(found[0].params)
    specs = int8.specs(spec.spec_tree(cfg))
    assert jax.tree.structure(found[0].params) == jax.tree.structure(specs, is_leaf=spec.is_param)

    gate = np.asarray(params["text"]["gate"]["w"]).copy()
    gate[1, 0, 0] = np.nan
    params["text"] = {**params["text"], "gate": {"w": jnp.asarray(gate)}}
    store.save(params, tmp_path / "broken", assets_from=began, origin=origin)
    with pytest.raises(ValueError, match=r"hold numbers that are NaN .*layers.1.mlp.gate_proj"):
        load_model(tmp_path / "broken", dtype="float32", base="int8")
