"""What a merge into a narrow dtype leaves of LoRA's factors, by numbers that it has or not; what is
dropped before them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.model.layers import linear
from lfpc_jax.model.parameters import LoRA, drops, join, merged

pytestmark = pytest.mark.compiles


def params(*added: float):
    """One layer of a weight of ones, each with its own number added to it."""
    ones = jnp.ones((1, 1, len(added)), jnp.bfloat16)
    factors = {"a": jnp.ones((1, 1, 1)), "b": jnp.array(added).reshape(1, 1, -1)}
    return {"text": {"q": {"w": ones, "lora": factors}, "norm": jnp.ones(3)}}


@pytest.mark.parametrize(
    ("added", "lost"),
    [
        ((2**-7, 2**-6), 0.0),  # a place of bfloat16 over 1, and two
        ((2**-10, 2**-10), 1.0),  # an eighth of a place
        ((2**-7 + 2**-9,), (2**-9) / (2**-7 + 2**-9)),  # a quarter of a place too much: down
        ((2**-7, 2**-9), 1 / 17**0.5),  # the second of two is lost: 1 of 4^2 + 1^2, in squares
    ],
)
def test_what_rounding_takes_of_factors(added, lost):
    assert merged(params(*added), "bfloat16")[1] == pytest.approx(lost)
    assert merged(params(*added), "float32")[1] == pytest.approx(0.0, abs=1e-6)


def test_without_factors_nothing_is_taken():
    assert merged({"text": {"q": {"w": jnp.ones((1, 2, 2))}}}, "bfloat16")[1] == 0


def test_values_are_dropped_at_the_rate_and_the_others_enlarged():
    """The factors and the weight are chosen so that what comes out is what was not dropped."""
    size, rate = 64, 0.25
    eye, nothing = jnp.eye(size)[None].repeat(2, 0), jnp.zeros((2, size, size))
    tree = {"text": {name: {"w": nothing, "lora": {"a": eye, "b": eye}} for name in ("q", "up")}}
    x = jnp.ones((3, 50, size))

    def seen(key):
        parts = join(drops(tree, jax.random.key(key), rate), tree)["text"]
        of_layers = [jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in range(2)]
        return np.stack([linear(x, layer[name]) for layer in of_layers for name in ("q", "up")])

    found = seen(0)
    assert set(np.unique(found)) == {0, np.float32(1 / (1 - rate))}
    dropped = (found == 0).mean(axis=(1, 2, 3))
    assert dropped == pytest.approx([rate] * 4, abs=0.02)  # four times the deviation
    assert len({layer.tobytes() for layer in found.reshape(-1, size)}) > 500, "no two tokens alike"
    np.testing.assert_array_equal(found, seen(0))
    assert not np.array_equal(found, seen(1))
    np.testing.assert_array_equal(linear(x, {"w": eye[0], "lora": {"a": eye[0], "b": eye[0]}}), 2)


def test_a_rate_that_drops_everything_is_refused():
    with pytest.raises(ValueError, match=r"model.lora.dropout is 1.0; it is a rate"):
        LoRA(dropout=1.0)
