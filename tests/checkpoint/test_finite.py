"""A weight that is no number is refused by its name, whatever the model is stored as."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from lfpc_jax.checkpoint import finite, huggingface, store, training
from lfpc_jax.checkpoint.finite import check_finite
from lfpc_jax.checkpoint.folder import open_folder
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.state_files import checkpoint_items, restore_state
from lfpc_jax.model import config, spec
from lfpc_jax.model.parameters import LoRA, Trainable
from lfpc_jax.run.models import load_model
from support import hf_folders, small

pytestmark = pytest.mark.compiles

DOWN, BIAS = "model.layers.1.mlp.down_proj.weight", "visual.blocks.1.mlp.up_proj.bias"


def poison(folder, key, value):
    """The last number of a tensor."""

    def change(tensors):
        tensors[key].view(-1)[-1] = value
        return tensors

    [file] = [path for path in folder.glob("*.safetensors") if key in hf_folders.load_file(path)]
    hf_folders.edit(file, change)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, "nan"), (torch.bfloat16, "inf"), (torch.float16, "-inf")],
)
def test_a_folder(kept, tmp_path, dtype, value):
    hf = shutil.copytree(kept(dtype=dtype), tmp_path / "hf")
    load_model(hf, dtype="float32", mesh=None)
    poison(hf, DOWN, float(value))
    with pytest.raises(ValueError, match=rf"{hf}: 1 of \d+ tensors hold .*: {re.escape(DOWN)}; "):
        load_model(hf, dtype="float32", mesh=None)


def test_the_first_few_are_named_and_the_rest_counted(kept, tmp_path):
    hf = shutil.copytree(kept(sharded=True), tmp_path / "hf")
    text = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)]
    for key in (*text, DOWN, BIAS):
        poison(hf, key, float("nan"))
    with pytest.raises(ValueError, match=r"5 of .* and 2 more; copy the model again"):
        load_model(hf, dtype="bfloat16", mesh=make_mesh(2, 2, 2))


def test_a_store_split_over_a_mesh(kept, tmp_path):
    hf = shutil.copytree(kept(), tmp_path / "hf")
    poison(hf, BIAS, float("nan"))
    cfg = config.from_folder(hf)
    opened = open_folder(hf, cfg)
    params = huggingface.load(opened, cfg)
    store.save(params, tmp_path / "orbax", assets_from=hf, origin=opened.origin)
    with pytest.raises(ValueError, match=rf"orbax: 1 of \d+ tensors hold .*: {re.escape(BIAS)}; "):
        load_model(tmp_path / "orbax", dtype="float32", mesh=make_mesh(2, 2, 2))


def learner(lora=None):
    mesh = make_mesh(devices=jax.devices()[:1])
    allowed = np.ones(small.config().text.vocab, bool)
    trainable = Trainable(lora=lora)
    objective = Objective()
    return Learner(
        small.config(),
        optax.adam(1e-3),
        objective=objective,
        trainable=trainable,
        allowed=allowed,
        mesh=mesh,
    )


@pytest.mark.parametrize(
    ("lora", "item", "place", "name"),
    [
        (None, "trained", ("text", "down", "w"), "trained: .*model.layers.1.mlp.down_proj.weight"),
        (LoRA(rank=2), "trained", ("text", "q", "lora", "b"), r"trained: .*text.q.lora.b, layer 1"),
        (LoRA(rank=2), "frozen", ("norm",), "frozen: .*model.norm.weight"),
    ],
)
def test_a_checkpoint_that_is_gone_on_from(tmp_path, lora, item, place, name):
    made = learner(lora)
    items = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), checkpoint_items(made.abstract_state())
    )
    part = items[item]
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = part[place[-1]].at[-1].set(jnp.nan)
    keeper = Checkpoints(tmp_path)
    keeper.save(1, items, {})
    keeper.close()
    with pytest.raises(ValueError, match=f"00000001/{name}"):
        restore_state(training.latest(tmp_path), made)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_held_beside_the_weights(dtype):
    """A billion numbers must not need a billion flags: the compiled look has no room for any."""
    leaf = jax.ShapeDtypeStruct((4, 1024, 4096), dtype)
    look = jax.jit(finite._is_finite, static_argnums=1)
    memory = look.lower(leaf, True).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**20, memory.temp_size_in_bytes


def test_what_is_finite_passes():
    check_finite(small.params(), spec.spec_tree(small.config()), where="here")
    check_finite({}, {}, where="nowhere")
