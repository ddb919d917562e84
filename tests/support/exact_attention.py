"""Attention and its gradients in float64, from the formula."""

import numpy as np


def random(seed, B, T, N, K, H):
    rng = np.random.default_rng(seed)
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def visible(segments, prefix=None):
    """Earlier tokens of the segment and, given `prefix`, of the segment that this continues."""
    seen = segments[:, :, None] == segments[:, None, :]
    if prefix is not None:
        seen |= prefix[:, :, None] == segments[:, None, :]
    return seen & np.tri(segments.shape[1], dtype=bool)


def exact(q, k, v, visible):
    """Plain attention; `visible` is `[B, T, S]`."""
    weights = _weights(q, k, visible)
    return np.einsum("bnts,bsnh->btnh", weights, _repeated(v, q))


def exact_gradients(q, k, v, visible, gradient):
    """The gradients of queries, keys and values, given that of the output."""
    weights, scale = _weights(q, k, visible), q.shape[-1] ** -0.5
    of_weights = np.einsum("btnh,bsnh->bnts", gradient, _repeated(v, q))
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True)) * scale
    repeated = (
        np.einsum("bnts,btnh->bsnh", of_scores, np.float64(q)),
        np.einsum("bnts,btnh->bsnh", weights, gradient),
    )
    B, S, K, H = k.shape
    of_keys, of_values = (x.reshape(B, S, K, -1, H).sum(3) for x in repeated)
    return np.einsum("bnts,bsnh->btnh", of_scores, _repeated(k, q)), of_keys, of_values


def _weights(q, k, visible):
    scores = np.einsum("btnh,bsnh->bnts", np.float64(q), _repeated(k, q)) * q.shape[-1] ** -0.5
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _repeated(x, q):
    return np.repeat(np.float64(x), q.shape[2] // x.shape[2], axis=2)
