"""Attention in parts against one softmax in float64, for lengths and members drawn at random."""

import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.model.attention_parts import Members, merged, none_of, over, over_prompts
from lfpc_jax.model.attention_prompts import copies, over_copies
from lfpc_jax.model.cache import Cache

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
    own = over(q, k, v, jnp.asarray(visible))
    lengths = jnp.asarray(lengths)
    found = merged(own, over_prompts(q, first_k, first_v, lengths, members))
    cache = Cache((first_k,), (first_v,), lengths, positions_last=True)
    by_copies = merged(own, over_copies(q, 0, copies(cache, members, rows)))
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
        np.testing.assert_allclose(by_copies[row], wanted, atol=tolerance, err_msg=f"row {row}")


@pytest.mark.parametrize(("live", "read"), [([0, 0, 2, 2], False), ([2, 1, 0, 0], True)])
def test_spare_prompts_are_read_only_while_a_row_continues_one(live, read):
    """Four rows, at most two a prompt: two prompts are usual, and the third is spare."""
    members = np.full((3, 2), 4, np.int32)
    places = np.zeros(4, np.int32)
    for row, prompt in enumerate(live):
        number = live[:row].count(prompt)
        members[prompt, number], places[row] = row, 2 * prompt + number
    rng = np.random.default_rng(7)
    q, k, v = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((4, K, G, H), (3, K, H, 5), (3, K, 5, H))
    )
    table = Members(jnp.asarray(members), jnp.asarray(places))
    lengths = jnp.full(3, 5)
    copied = copies(Cache((k,), (v,), lengths, positions_last=True), table, 4)
    assert (len(copied.usual.lengths), len(copied.spare.lengths)) == (2, 1)
    assert bool(copied.continued) is read
    found, wanted = over_copies(q, 0, copied), over_prompts(q, k, v, lengths, table)
    np.testing.assert_allclose(merged(found), merged(wanted), atol=1e-6)


def test_the_part_of_no_keys_has_no_share():
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, K, G, H), (2, K, H, 5), (2, K, 5, H))
    )
    seen = over(q, k, v, jnp.ones((2, 5), bool))
    np.testing.assert_array_equal(merged(seen, none_of(seen.values.shape)), merged(seen))


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
