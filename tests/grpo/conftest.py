"""Small models that updates change, and an updater of one of them."""

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.updater import Updater, UpdateSettings
from support import ported, reference
from support.updates import SHAPES, learner_of


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """In PyTorch, too."""
    hf_config = reference.random_config(3, tied=True, num_hidden_layers=2)
    hf = reference.random_model(hf_config, 3)
    cfg = ported.read_config(hf_config, tmp_path_factory.mktemp("config"), dtype="float32")
    return hf, cfg, ported.parameters(hf, cfg)


@pytest.fixture(scope="session")
def one_layer(tmp_path_factory):
    hf_config = reference.random_config(5, tied=True, num_hidden_layers=1)
    hf = reference.random_model(hf_config, 5)
    cfg = ported.read_config(hf_config, tmp_path_factory.mktemp("config"), dtype="float32")
    return cfg, ported.parameters(hf, cfg)


@pytest.fixture(scope="session")
def learner(one_layer):
    return learner_of(one_layer[0], Objective(), 0.5)


@pytest.fixture
def start(one_layer, learner):
    """An updater and a state at the model's parameters."""

    def started(**settings):
        cfg, params = one_layer
        state = learner.start(jax.tree.map(jnp.array, params), jax.random.key(0))
        made = Updater(learner, UpdateSettings(**settings), SHAPES, ported.processor(cfg))
        return made, state

    return started
