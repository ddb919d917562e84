"""A check before trust: the attention kernels that a run uses are held against `xla` before it
begins, on the device that is there.

A kernel depends on what no test here can have run: a driver, a compiler, a library, a chip. Some
have ignored the segments of packed rows without a word. So each kernel that would be chosen gets
small random cases of what programs ask of it, with packing, shared prompts and padding: values, and
gradients where it is trained through. What differs by more than rounding is refused with the
numbers (`KernelDiffers`). On a CPU everything is `xla`, and nothing is checked.

An error is that of one token's head: the root mean square of its difference, over that of its
values or of all values, whichever is larger. The largest of all tokens counts, so that one token
that sees a key too many is noticed. What is computed for padding must be finite, because it is
multiplied by weights of 0 later; padding's gradients must be 0 like all others of keys unseen.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from lfpc_jax.model import attention_decode
from lfpc_jax.model.attention import ChosenKernel, attention, select, select_decode
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.cache import Cache
from lfpc_jax.model.config import Kernel, ModelConfig
from lfpc_jax.model.tuning import KERNEL, tuning

log = logging.getLogger(__name__)

LIMIT = 0.06
"""The largest error of a token. Rounding to bfloat16 gives up to 0.02 (docs/log.md)."""

Purpose = Literal["rollouts", "scores", "updates"]
"""What programs a model is used in. Of these three, `updates` alone computes gradients."""

_TOKENS = 384
_Results = Mapping[str, Array]


class KernelDiffers(ValueError):
    """A kernel computes something else than `xla`, or does not run."""


@dataclass(frozen=True)
class Case:
    """What programs ask of a kernel. `compute` gives the results of a kernel by their names, on
    the device of its arguments, `arguments`."""

    name: str
    choice: ChosenKernel
    compute: Callable[..., _Results]
    arguments: Any

    def results(self, kernel: Kernel, device: jax.Device) -> dict[str, np.ndarray]:
        program = jax.jit(partial(self.compute, kernel))
        found = program(*jax.device_put(self.arguments, device))
        return {name: np.asarray(x, np.float32) for name, x in found.items()}

    def errors(self, device: jax.Device, kernel: Kernel) -> dict[str, float]:
        """The largest error of each result."""
        found, expected = (self.results(x, device) for x in (kernel, "xla"))
        return {name: _error(found[name], expected[name]) for name in expected}


def check(cfg: ModelConfig, purpose: Purpose, mesh: Mesh | None = None) -> None:
    """Raises KernelDiffers if a kernel that the model's programs use on the mesh (default: the
    first device) cannot be trusted. A mesh of devices that are only described is not checked."""
    here = jax.local_devices()
    devices = here if mesh is None else [x for x in mesh.devices.flat if x in here]
    if devices:
        _checked(cfg, purpose, devices[0])


@cache
def _checked(cfg: ModelConfig, purpose: Purpose, device: jax.Device) -> None:
    wrong = []
    for case in cases(cfg, purpose):
        if case.choice.kernel == "xla":
            continue
        told = f"{case.choice.kernel}, {case.name}"
        try:
            errors = case.errors(device, cfg.kernel)
        except RuntimeError as error:  # JAX's and XLA's, of a kernel that this device does not have
            wrong.append(f"{told}: does not run ({' '.join(str(error).split())[:300]})")
            continue
        numbers = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        log.info("attention kernel beside xla on %s: %s: %s", device.device_kind, told, numbers)
        if not all(error <= LIMIT for error in errors.values()):
            wrong.append(f"{told}: {numbers}")
    if wrong:
        raise KernelDiffers(
            f"attention on this {device.device_kind} (jax {jax.__version__}) differs from plain "
            f"XLA, so nothing computed with it could be trusted. Errors of the worst token, where "
            f"rounding gives at most {LIMIT:g}: {'; '.join(wrong)}. Set {KERNEL}=xla in the "
            "environment to compute with plain XLA, which is slower, or try another version of "
            "jax and of its plugin, or another machine"
        )


def cases(cfg: ModelConfig, purpose: Purpose) -> Iterator[Case]:
    """What programs ask of kernels: packed rows and spans of pictures in updates and scores; whole
    prompts, single pictures and decode steps in rollouts."""
    text = cfg.text.heads, cfg.text.kv_heads, cfg.text.head_dim
    tower = cfg.vision.heads, cfg.vision.heads, cfg.vision.head_dim
    segments, prefix = _packed_rows()
    there = _patches()
    if purpose == "rollouts":
        lengths = np.array([_TOKENS, _TOKENS // 2 + 13], np.int32)
        real = np.arange(_TOKENS) < lengths[:, None]
        yield _of_rows(cfg, "prompts", text, real, {"lengths": lengths}, causal=True)
        yield _of_rows(cfg, "pictures", tower, there, {"valid": there}, causal=False)
        yield _of_decode(cfg)
        return
    run = partial(_of_rows, cfg, trained=purpose == "updates")
    packed = {"segments": segments, "prefix": prefix}
    yield run("packed rows with shared prompts", text, segments > 0, packed, causal=True)
    pictures = np.where(there, np.where(np.arange(_TOKENS) < 256, 1, 2), 0).astype(np.int32)
    yield run("packed pictures", tower, there, {"segments": pictures}, causal=False)


# ---------------------------------------------------------------- rows


def _of_rows(
    cfg: ModelConfig,
    name: str,
    heads: tuple[int, int, int],
    real: np.ndarray,
    masks: dict[str, np.ndarray],
    *,
    causal: bool,
    trained: bool = False,
) -> Case:
    """Self-attention of two rows, in which some tokens are `real`."""
    N, K, H = heads
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2, _TOKENS, n, H)).astype(jnp.dtype(cfg.dtype)) for n in (N, K, K)]
    weigh = (rng.normal(size=arrays[0].shape) * real[..., None, None]).astype(jnp.dtype(cfg.dtype))

    def forward(kernel: Kernel, masks: Any, q: Array, k: Array, v: Array) -> Array:
        with jax.default_matmul_precision("highest" if cfg.dtype == "float32" else "default"):
            return attention(q, k, v, causal=causal, kernel=kernel, **masks)

    def compute(kernel: Kernel, real: Array, masks: Any, weigh: Array, *qkv: Array) -> _Results:
        run = partial(forward, kernel, masks)
        if not trained:
            return {"values": _of_real(run(*qkv), real)}
        out, back = jax.vjp(run, *qkv)
        slopes = dict(zip(("queries' gradient", "keys' gradient", "values' gradient"), back(weigh)))
        return {"values": _of_real(out, real), **slopes}

    choice = select(
        cfg.kernel,
        platform=tuning().platform,
        length=_TOKENS,
        dtype=cfg.dtype,
        continued="prefix" in masks,
        causal_and_valid=causal and "valid" in masks,
    )
    return Case(name, choice, compute, (real, masks, weigh, *arrays))


def _of_real(x: Array, real: Array) -> Array:
    """What is computed for padding becomes 0 if it is finite."""
    return jnp.where(real[..., None, None], x, x * 0)


def _packed_rows() -> tuple[np.ndarray, np.ndarray]:
    """Segments and prefixes of two rows: groups of a prompt and its episodes, with an episode of
    one token, prompts that are not shared, and padding in one of them."""
    rows = [[(120, 60, 30, 1), (40, 70)], [(0, 80), (0, 64), (40, 3, 97, 100)]]
    segments, prefix = np.zeros((2, len(rows), _TOKENS), np.int32)
    for row, groups in enumerate(rows):
        at, number = 0, 0
        for prompt, *episodes in groups:
            shared = number + 1
            for length in (prompt, *episodes):
                number += bool(length)
                segments[row, at : at + length] = number
                prefix[row, at : at + length] = shared if prompt else number
                at += length
    return segments, prefix


def _patches() -> np.ndarray:
    """Which patches of two rows of windows are there: a picture whose last window is not full, and
    the beginning of another."""
    place = np.arange(_TOKENS)
    full = (place % 64 < 48) | (place % 256 < 192)
    return np.stack([full & (place < 330), full & (place < 200)])


# ---------------------------------------------------------------- decode steps


def _of_decode(cfg: ModelConfig) -> Case:
    """A decode step of eight rows in the second of two layers. Rows and prompts have different
    lengths; beyond them lies what must not be read."""
    c, dtype, rows, prompts, capacity = cfg.text, jnp.dtype(cfg.dtype), 8, 3, 320
    rng = np.random.default_rng(1)

    def cached(count: int, lengths: list[int]) -> Cache:
        k, v = rng.normal(size=(2, 2, count, c.kv_heads, capacity, c.head_dim))
        unused = np.arange(capacity) >= np.array(lengths)[:, None]
        k, v = (np.where(unused[:, None, :, None], 50 * x, x).astype(dtype) for x in (k, v))
        return Cache(k, v, np.array(lengths, np.int32), positions_last=False)

    own = cached(rows, [300, 1, 0, 129, 17, 255, 128, 64])
    shared = cached(prompts, [320, 77, 128])
    members = Members(
        np.array([[0, 1, 3, rows], [2, 4, rows, rows], [5, 6, 7, rows]], np.int32),
        np.array([0, 1, 4, 2, 5, 8, 9, 10], np.int32),
    )
    step = [rng.normal(size=(rows, 1, n, c.head_dim)) for n in (c.heads, c.kv_heads, c.kv_heads)]
    q, k, v = (x.astype(dtype) for x in step)

    def compute(
        kernel: Kernel, own: Cache, shared: Cache, members: Members, q: Array, k: Array, v: Array
    ) -> _Results:
        using, live = replace(cfg, kernel=kernel), jnp.ones(rows, bool)
        here = attention_decode.in_place(own, live, None, shared, members, cfg=using)
        with jax.default_matmul_precision("highest" if cfg.dtype == "float32" else "default"):
            return {"values": here.attend(q, here.append(own, 1, k, v), 1)}

    choice = select_decode(cfg.kernel, platform=tuning().platform, positions_last=False)
    return Case("decode with shared prompts", choice, compute, (own, shared, members, q, k, v))


# ---------------------------------------------------------------- errors


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of a token's head, infinite if anything is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return math.inf
    size = np.sqrt(np.square(expected).mean(axis=-1))
    whole = np.sqrt(np.square(size).mean())
    apart = np.sqrt(np.square(found - expected).mean(axis=-1))
    return float((apart / np.maximum(size, max(whole, 1e-30))).max())
