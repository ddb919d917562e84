"""Attention in parts against one softmax in float64, for lengths and members drawn at random."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.model.attention_parts import Members, merged, over, over_prompts

K, G, H = 2, 3, 8
"""Key heads, query heads of each, and the width of a head."""

pytestmark = pytest.mark.compiles


def members_of(rng, rows: int, prompts: int, most: int) -> tuple[Members, np.ndarray]:
    """Rows dealt to prompts in any order, no prompt to more than `most`; some prompts get none."""
    free = np.repeat(np.arange(prompts), most)
    prompt_of = rng.permutation(free)[:rows]
    table, places = np.full((prompts, most), rows, np.int32), np.zeros(rows, np.int32)
    taken = np.zeros(prompts, int)
    for row, prompt in enumerate(prompt_of):
        table[prompt, taken[prompt]] = row
        places[row] = prompt * most + taken[prompt]
        taken[prompt] += 1
    return Members(jnp.asarray(table), jnp.asarray(places)), prompt_of


def softmax64(q, keys, values):
    """Of one row's queries [K, G, H] over keys and values [S, K, H]."""
    scores = np.einsum("kgh,skh->kgs", q, keys)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("kgs,skh->kgh", weights / weights.sum(axis=-1, keepdims=True), values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", range(6))
def test_parts_equal_one_softmax(seed, dtype):
    rng = np.random.default_rng((25, seed))
    prompts, most = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    rows = int(rng.integers(1, prompts * most + 1))
    reach, span = int(rng.integers(1, 40)), int(rng.integers(1, 30))
    members, prompt_of = members_of(rng, rows, prompts, most)
    lengths = rng.integers(0, reach + 1, prompts)
    if seed % 2 == 0:
        lengths[prompt_of[0]] = 0  # a prompt of one id, which is pending
    visible = rng.random((rows, span)) < 0.5
    visible[np.arange(rows), rng.integers(0, span, rows)] = True  # a row sees itself

    def drawn(*shape, scale=1.0):
        return jnp.asarray(scale * rng.standard_normal(shape), dtype)

    q = drawn(rows, K, G, H, scale=2.0)
    first_k, first_v = drawn(prompts, K, H, reach), drawn(prompts, K, reach, H)
    k, v = drawn(rows, K, H, span), drawn(rows, K, span, H)
    found = merged(
        over(q, k, v, jnp.asarray(visible)),
        over_prompts(q, first_k, first_v, jnp.asarray(lengths), members),
    )
    exact = [np.asarray(x, np.float64) for x in (q, first_k, first_v, k, v)]
    q64, first_k64, first_v64, k64, v64 = exact
    for row in range(rows):
        prompt, seen = prompt_of[row], visible[row]
        length = lengths[prompt]
        keys = [first_k64[prompt, ..., :length].transpose(2, 0, 1), k64[row][..., seen]]
        values = [first_v64[prompt][:, :length].swapaxes(0, 1), v64[row][:, seen].swapaxes(0, 1)]
        keys[1] = keys[1].transpose(2, 0, 1)
        wanted = softmax64(q64[row], np.concatenate(keys), np.concatenate(values))
        tolerance = 1e-5 if dtype == "float32" else 3e-2  # weights are rounded to bfloat16
        np.testing.assert_allclose(found[row], wanted, atol=tolerance, err_msg=f"row {row}")


def test_a_part_without_a_visible_key_has_no_share():
    """Whatever its keys and values are: the other part comes out to the bit."""
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, K, G, H), (2, K, H, 5), (2, K, 5, H))
    )
    seen = over(q, k, v, jnp.ones((2, 5), bool))
    none = over(1e3 * q, k, 1e30 * v, jnp.zeros((2, 5), bool))
    np.testing.assert_array_equal(merged(seen, none), merged(seen))
    np.testing.assert_array_equal(merged(none, seen), merged(seen))


def test_hidden_keys_change_nothing():
    """Even ones that would outweigh every other."""
    rng = np.random.default_rng(1)
    q, k, v = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((1, K, G, H), (1, K, H, 6), (1, K, 6, H))
    )
    visible = jnp.asarray([[True, False, True, True, False, True]])
    hidden = ~visible[:, None]
    poisoned = over(q, jnp.where(hidden[:, None], 1e6, k), jnp.where(hidden[..., None], 1e6, v),
                    visible)  # fmt: skip
    np.testing.assert_array_equal(merged(poisoned), merged(over(q, k, v, visible)))
