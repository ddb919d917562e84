"""cuDNN's packed attention in NumPy and float64, from its documented semantics.

Sequence j has the elements from `offsets[j]` on, one token after another, of the arrays as they lie
in memory, and `lengths[j]` tokens. Without offsets it is the beginning of row j. If causal, query i
of a sequence sees its keys up to i. The log-sum-exp is `[sequences, heads, longest]`, natural, of
scaled scores. The backward pass takes the weights to be `exp(scores - lse)` for the given
log-sum-exp, and the derivative of the softmax from the given output. What lies outside the
sequences is never written: here it is NaN.
"""

import jax
import numpy as np


def forward(q, k, v, layout, *, causal, scale):
    _, L, N, _ = q.shape
    shapes = (
        jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), q.dtype),
        jax.ShapeDtypeStruct((layout.query_lengths.size, N, L), np.float32),
    )

    def run(q, k, v, layout):
        out = np.full(shapes[0].shape, np.nan)
        stats = np.full(shapes[1].shape, np.nan)
        for j, queries, keys, cut in _sequences(q, k, layout):
            scores = _scores(queries, keys, causal, scale)
            highest = scores.max(-1, keepdims=True)
            lse = np.log(np.exp(scores - highest).sum(-1)) + highest[..., 0]
            values = np.repeat(cut(v), N // v.shape[2], axis=1)
            weights = np.exp(scores - lse[..., None])
            cut(out, of_keys=False)[:] = np.einsum("nij,jnh->inh", weights, values)
            stats[j, :, : len(queries)] = lse
        return out.astype(q.dtype), stats.astype(np.float32)

    return jax.pure_callback(run, shapes, q, k, v, layout)


def backward(q, k, v, stats, out, gradient, layout, *, causal, scale):
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v))

    def run(q, k, v, stats, out, gradient, layout):
        dq, dk, dv = (np.full(x.shape, np.nan) for x in (q, k, v))
        N, K = q.shape[2], k.shape[2]
        for j, queries, keys, cut in _sequences(q, k, layout):
            scores = _scores(queries, keys, causal, scale)
            lse = np.float64(stats[j, :, : len(queries)])
            weights = np.exp(scores - lse[..., None])
            given = np.float64(cut(gradient, of_keys=False))
            dots = (given * cut(out, of_keys=False)).sum(-1).T  # [N, queries]
            values = np.repeat(np.float64(cut(v)), N // K, axis=1)
            ds = weights * (np.einsum("inh,jnh->nij", given, values) - dots[..., None]) * scale
            repeated = np.repeat(keys, N // K, axis=1)
            cut(dq, of_keys=False)[:] = np.einsum("nij,jnh->inh", ds, repeated)
            for written, each in (
                (dk, np.einsum("nij,inh->jnh", ds, queries)),
                (dv, np.einsum("nij,inh->jnh", weights, given)),
            ):
                assert np.isnan(cut(written)).all(), "two sequences with the same keys"
                cut(written)[:] = each.reshape(len(keys), K, N // K, -1).sum(2)
        return tuple(x.astype(q.dtype) for x in (dq, dk, dv))

    return jax.pure_callback(run, shapes, q, k, v, stats, out, gradient, layout)


def _scores(queries, keys, causal, scale):
    repeated = np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    scores = np.einsum("inh,jnh->nij", queries, repeated) * scale
    if causal:
        scores = np.where(np.tri(len(queries), len(keys), dtype=bool), scores, -np.inf)
    return scores


def _sequences(q, k, layout):
    """Of each sequence that is not empty its number, queries, keys, and what cuts the tokens of
    its queries or keys out of an array."""
    lengths = [np.asarray(x).reshape(-1) for x in layout[:2]]
    offsets = [np.asarray(x).reshape(-1) for x in layout[2:]]
    if not offsets[0].size:
        assert len(lengths[0]) == len(q) == len(k)
        offsets = [np.arange(len(x), dtype=np.int32) * int(np.prod(x.shape[1:])) for x in (q, k)]
    assert all(x.dtype == np.int32 for x in (*lengths, *offsets))
    real = lengths[0] > 0
    assert (real[:-1] >= real[1:]).all(), "an empty sequence before another"
    assert (lengths[1][real] > 0).all()
    assert max(map(np.max, lengths)) <= q.shape[1], "a sequence longer than its row"
    for j in np.flatnonzero(real):

        def cut(x, *, of_keys=True, j=j):
            token = int(np.prod(x.shape[2:]))
            stride = int(np.prod((k if of_keys else q).shape[2:]))
            assert token == stride
            start = offsets[of_keys][j]
            assert start % token == 0
            flat = x.reshape(-1)[start : start + lengths[of_keys][j] * token]
            return flat.reshape(-1, *x.shape[2:])

        yield j, np.float64(cut(q, of_keys=False)), np.float64(cut(k)), cut
