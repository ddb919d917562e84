"""What a merge into a narrow dtype leaves of LoRA's factors, by numbers that it has or not."""

import jax.numpy as jnp
import pytest

from lfpc_jax.model.parameters import rounded_away

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
    assert rounded_away(params(*added), "bfloat16") == pytest.approx(lost)
    assert rounded_away(params(*added), "float32") == pytest.approx(0.0, abs=1e-6)


def test_without_factors_nothing_is_taken():
    assert rounded_away({"text": {"q": {"w": jnp.ones((1, 2, 2))}}}, "bfloat16") == 0
