"""What the parts of `device.py` share: sizes, peaks, seconds and memory.

Shares are of the chip's published peaks, by operations and bytes counted by hand (`plan.counts`).
Memory beside the plan's: the compiler's figure for the same programs with what a chip holds beside
them, and the most bytes that the device says were in use at once.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from lfpc_jax.arrays import Tree
from lfpc_jax.model import config, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.plan import slices
from lfpc_jax.plan.slices import Chip
from lfpc_jax.shapes import Buckets, RolloutShapes, TrainShapes

Record = Callable[..., None]
GIB = 2**30
_TPUS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p",
         "TPU v6 lite": "v6e", "TPU v6e": "v6e"}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """A model, and the lengths of its programs. An episode of updates has a prompt, a crop in the
    middle and `sampled` tokens; `groups` records have `members` episodes each."""

    cfg: ModelConfig
    image_tokens: int
    crop_tokens: int
    text: int
    own: int
    chunk: int
    row_tokens: int
    sampled: int
    groups: int
    members: int
    products: int  # the side of the square matrices of part `device`
    parity_layers: tuple[int, int]  # of the decoder and of the tower

    def rollouts(self, slots: int) -> RolloutShapes:
        return RolloutShapes(
            slots=slots,
            chunk=self.chunk,
            image_tokens=self.image_tokens,
            crop_tokens=self.crop_tokens,
            prompt_text=Buckets((self.text,)),
            capacity=self.image_tokens + self.text + self.own,
            own=self.own,
            prefixes=-(-slots // self.members),
            members=self.members,
            prefill_rows=4,
            window=self.cfg.vision.window,
        )

    def updates(self) -> TrainShapes:
        return TrainShapes.of(
            self.rollouts(self.members), max_turns=2, rows=1, row_tokens=self.row_tokens,
            shared=True,
        )  # fmt: skip


def sizes(name: str) -> Size:
    """`3b` has the shapes of `configs/stage1.py:3b`; `tiny` runs on a CPU."""
    if name == "3b":
        return Size(
            config.published("3b"), 1024, 1024, 256, 2048, 64, 8192, 256, 4, 8, 8192, (4, 8)
        )
    cfg = config.published("3b", dtype=tuning().dtype)
    text = replace(cfg.text, layers=2, width=128, heads=4, kv_heads=2, mlp=64, vocab=512,
                   mrope_section=(4, 6, 6))  # fmt: skip
    vision = replace(cfg.vision, depth=2, width=64, heads=2, mlp=32, full_layers=(1,), out=128)
    cfg = replace(cfg, text=text, vision=vision, image_token=300)
    return Size(cfg, 16, 16, 8, 40, 4, 128, 8, 2, 2, 64, (1, 2))


# ---------------------------------------------------------------- what is measured beside what


def peaks() -> Chip:
    """The peaks of the device that is here; 0 where they are not known."""
    device = jax.local_devices()[0]
    if device.platform == "gpu":
        return slices.find("gpu").chip
    return slices.TPUS.get(_TPUS.get(device.device_kind, ""), Chip(0))


def seconds_of(run: Callable[[], Any], repeats: int = 5) -> float:
    """The median of several runs, after one that compiles."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def share(amount: float, seconds: float, peak: float) -> float | None:
    return amount / seconds / peak if peak else None


def least(flops: float, moved: float, chip: Chip) -> str:
    """What the plan says of the seconds: the longest of products and memory at their peaks."""
    if not chip.flops:
        return ""
    return f"plan: {max(flops / chip.flops, moved / chip.hbm) * 1e3:.2f} ms at least"


def held_bytes(*trees: Tree) -> int:
    """The bytes that arrays hold on the first device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(trees))


def asked_bytes(program: Any) -> int:
    """The bytes that a program takes beside its arguments, by the compiler."""
    memory = program.lower().compile().memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + max(0, results)


def record_memory(record: Record, planned: int) -> None:
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    record(
        "memory in use at most",
        value=None if peak is None else peak / GIB,
        unit="GiB",
        beside=f"plan: {planned / GIB:.2f} GiB",
    )


def weights(cfg: ModelConfig, **options: Any) -> Tree:
    """Random parameters in the dtype that is computed with."""
    abstract = spec.abstract(cfg, cfg.dtype, options.get("mesh"))
    leaves, tree = jax.tree.flatten(abstract)

    @partial(jax.jit, static_argnums=1)
    def normal(key: jax.Array, x: Any) -> jax.Array:
        return 0.02 * jax.random.normal(key, x.shape, x.dtype)

    def made(number: int, x: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        array = normal(jax.random.key(number), shape)
        return array if x.sharding is None else jax.device_put(array, x.sharding)

    return tree.unflatten(made(number, x) for number, x in enumerate(leaves))


def sides(tokens: int) -> tuple[int, int]:
    rows = int(tokens**0.5)
    return rows, tokens // rows
