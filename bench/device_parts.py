"""The parts of `device.py`, each run in a process of its own."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from device_measure import Record, Size, peaks, seconds_of, share, sizes
from device_programs import mini_batch_of, rollouts, update

from lfpc_jax.model.config import Kernel

GIB = 2**30


def run(part: str, size: str, record: Record) -> None:
    name, _, slots = part.partition("-")
    whole = sizes(size)
    if name == "decode":
        rollouts(whole, int(slots) if size == "3b" else 4, record)
    else:
        {"device": _device, "kernels": _kernels, "parity": _parity, "update": update}[name](
            whole, record
        )


# ---------------------------------------------------------------- the chip


def _device(size: Size, record: Record) -> None:
    device, chip = jax.local_devices()[0], peaks()
    record("device", value=f"{jax.local_device_count()} x {device.device_kind}")
    record("versions", value=f"jax {jax.__version__}, jaxlib {jax.lib.__version__}")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    record("memory", value=None if limit is None else limit / GIB, unit="GiB")
    n = size.products
    x = jnp.ones((n, n), size.cfg.dtype)
    seconds = seconds_of(partial(jax.jit(jnp.matmul), x, x))
    rate = 2 * n**3 / seconds
    record("products", value=rate / 1e12, unit="TFLOP/s", share=share(rate, 1, chip.flops))
    x = jnp.ones(n * n * 8, size.cfg.dtype)
    seconds = seconds_of(partial(jax.jit(lambda x: x + 1), x))
    moved = 2 * x.nbytes / seconds
    record("copies", value=moved / 1e9, unit="GB/s", share=share(moved, 1, chip.hbm))


# ---------------------------------------------------------------- kernels


def _kernels(size: Size, record: Record) -> None:
    """Errors by `attention_check`, then the seconds of rows as long as a run's."""
    from lfpc_jax.model import attention_check

    cfg, device = size.cfg, jax.local_devices()[0]
    for purpose in ("rollouts", "updates"):
        for case in attention_check.cases(cfg, purpose):
            kernel = case.choice.kernel
            errors = {} if kernel == "xla" else case.errors(device, cfg.kernel)
            record(
                f"error, {case.name}",
                value=max(errors.values()) if errors else kernel,
                beside=f"{kernel}, limit {attention_check.LIMIT}" if errors else case.choice.reason,
            )
    for name, causal, heads, masks in _long_rows(size):
        N, K, H = heads
        T = size.row_tokens
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (
            jax.random.normal(key, (1, T, n, H), cfg.dtype) for key, n in zip(keys, (N, K, K))
        )

        timed = partial(_attended, q, k, v, causal, masks)
        ours = timed("auto")
        record(
            f"{name} of {T}, forward and backward",
            value=ours * 1e3,
            unit="ms",
            beside=f"xla: {timed('xla') * 1e3:.2f} ms",
        )


def _attended(
    q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, masks: dict[str, Any], kernel: Kernel
) -> float:
    """The seconds of attention forward and backward."""
    from lfpc_jax.model.attention import attention

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out = attention(q, k, v, causal=causal, kernel=kernel, **masks)
        return out.astype(jnp.float32).sum()

    return seconds_of(partial(jax.jit(jax.grad(loss, (0, 1, 2))), q, k, v))


def _long_rows(size: Size) -> Iterable[tuple[str, bool, tuple[int, int, int], dict[str, Any]]]:
    cfg, T = size.cfg, size.row_tokens
    text, vision = cfg.text, cfg.vision
    tokens = mini_batch_of(size, most=1).rows[0].tokens
    packed = {name: jnp.asarray(getattr(tokens, name)[:1]) for name in ("segments", "prefix")}
    yield "packed row", True, (text.heads, text.kv_heads, text.head_dim), packed
    span = jnp.asarray(np.arange(T)[None] // (T // 2) + 1, jnp.int32)
    yield "pictures", False, (vision.heads, vision.heads, vision.head_dim), {"segments": span}


# ---------------------------------------------------------------- parity


def _parity(size: Size, record: Record) -> None:
    """Logits of a padded batch with pictures, beside transformers on the CPU in float32. All have
    weights that bfloat16 can hold."""
    import tempfile

    from transformers import Qwen2_5_VLConfig

    from support import ported, reference

    text, vision = size.cfg.text, size.cfg.vision
    layers, depth = size.parity_layers
    hf = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": text.vocab, "hidden_size": text.width, "intermediate_size": text.mlp,
            "num_hidden_layers": layers, "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads, "rms_norm_eps": text.eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta,
                                "mrope_section": list(text.mrope_section)},
        },
        vision_config={
            "depth": depth, "hidden_size": vision.width, "intermediate_size": vision.mlp,
            "num_heads": vision.heads, "out_hidden_size": text.width,
            "fullatt_block_indexes": [depth - 1],
        },
        image_token_id=reference.IMAGE, video_token_id=reference.IMAGE + 1,
        vision_start_token_id=reference.IMAGE + 2, vision_end_token_id=reference.IMAGE + 3,
        tie_word_embeddings=True,
    )  # fmt: skip
    high, low = reference.rounded_and_in_bfloat16(reference.random_model(hf, 0, scale=0.02))
    with tempfile.TemporaryDirectory() as folder:
        cfg = ported.read_config(hf, folder, dtype="float32")
    rng = np.random.default_rng(0)
    prompts = [reference.random_prompt(rng, images) for images in (0, 1, 3)]
    length = max(256, *(len(prompt.ids) for prompt in prompts))
    tokens, images = ported.arrays(prompts, cfg, length=length, windows=9)
    real = tokens.segments > 0
    exact = reference.logits(high, prompts, length)[real]
    theirs = reference.logits(low, prompts, length)[real]
    params = ported.parameters(high, cfg)
    spread = float(exact.std())
    for dtype in ("float32", "bfloat16"):
        cast = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), params)
        logits = np.asarray(
            ported.forward(cast, tokens, images, cfg=replace(cfg, dtype=dtype)), np.float32
        )[real]
        beside = (
            ""
            if dtype == "float32"
            else (f"transformers in bfloat16: {np.abs(theirs - exact).max() / spread:.2g}")
        )
        record(
            f"largest logit difference, {dtype}, {layers} and {depth} layers",
            value=float(np.abs(logits - exact).max()) / spread,
            unit="of the logits' deviation",
            beside=beside,
        )
        agree = float((logits.argmax(-1) == exact.argmax(-1)).mean())
        record(f"same most likely token, {dtype}", value=agree)
