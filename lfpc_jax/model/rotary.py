"""Rotary embeddings: angles in float32 from integer positions, and the rotation by halves."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lfpc_jax.model.config import TextConfig, VisionConfig

Rotary = tuple[Float[Array, "*n h"], Float[Array, "*n h"]]
"""Cosine and sine of the angles of half a head; the other half has the same angles."""


def text_rotary(positions: Int[Array, "3 B T"], cfg: TextConfig) -> Rotary:
    """Multimodal rotary: each section of frequencies turns with one of time, row and column."""
    frequencies = _inverse_frequencies(cfg.head_dim, cfg.rope_theta)
    return _turns(positions, np.repeat(np.arange(3), cfg.mrope_section), frequencies)


def vision_rotary(row: Int[Array, "*n"], column: Int[Array, "*n"], cfg: VisionConfig) -> Rotary:
    """Two-dimensional rotary: the first half of the angles turns with the row, the second with the
    column."""
    frequencies = _inverse_frequencies(cfg.head_dim // 2, 10000.0)
    axis = np.repeat(np.arange(2), len(frequencies))
    return _turns(jnp.stack((row, column)), axis, np.tile(frequencies, 2))


def rotate(x: Float[Array, "*n N H"], rotary: Rotary) -> Array:
    """Rotates each head by halves, in float32. All heads share the angles."""
    cos, sin = (part[..., None, :] for part in rotary)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _turns(
    positions: Int[Array, "A *n"], axis: Int[np.ndarray, "h"], frequencies: Float[np.ndarray, "h"]
) -> Rotary:
    """The axis of each angle is selected after the cosine, by a sum. XLA takes a cosine alone to be
    cheap, and on a CPU would compute it again in every layer for every head."""
    angles = positions[..., None].astype(jnp.float32) * frequencies
    selected = axis == np.arange(len(positions)).reshape(-1, *(1,) * (angles.ndim - 1))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.where(selected, cos, 0.0).sum(axis=0), jnp.where(selected, sin, 0.0).sum(axis=0)


def _inverse_frequencies(width: int, theta: float) -> np.ndarray:
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
