"""Chips: what of their memory programs may use, and their published peaks.

Rates are for dense bfloat16 and in one direction of a link, so times computed from them are lower
bounds. Sources, read in November 2026:

- TPUs: cloud.google.com/tpu/docs/v5e, /v5p, /v6e and /tpu7x. Memory is what the compiler lets a
  program use. The network between slices is a pod's or a host's by its number of chips. JAX sees
  two devices on a TPU7x, and a device's share is half of the chip's.
- GPUs as XLA's compiler is told of them: openxla/xla, xla/backends/gpu/target_config/specs
  (a100_sxm_80, h100_sxm, h200, b200, a6000). L4, L40S and RTX 4090 are not among them: their
  figures are from NVIDIA's data sheets, the Ada architecture paper, and what CUDA reports of their
  memory.
- GPUs' peaks: NVIDIA's data sheets. `wire` is NVLink, or PCIe 4.0 x16 where a card has none. The
  network is that of the DGX of its generation, one adapter a GPU, and for cards without NVLink one
  of 100 Gb/s for four.
"""

from dataclasses import dataclass

GIB = 2**30

GPU_SHARE = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
"""JAX's variable for the share of a GPU's memory that it takes for arrays, and what commands set it
to unless it is set. The rest is for CUDA, cuDNN and NCCL."""


@dataclass(frozen=True)
class Chip:
    """A device's peaks per second: floating-point operations, bytes to and from its memory, bytes
    to other chips of its slice or host (`wire`), and bytes between slices or hosts (`network`).
    0 where they are not known."""

    hbm_bytes: int
    flops: float = 0.0
    hbm: float = 0.0
    wire: float = 0.0
    network: float = 0.0


TPUS = {
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 200e9, 3.125e9),
    "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 600e9, 6.25e9),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1600e9, 400e9, 12.5e9),
    "tpu7x": Chip(int(94.75 * GIB), 2307e12 / 2, 7380e9 / 2, 600e9 / 2, 12.5e9 / 2),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU as XLA's compiler knows it, and its peaks. `kind` is the name that it gives itself, and
    `capability` that of CUDA, as 9.0."""

    kind: str
    capability: tuple[int, int]
    memory: int
    cores: int
    lanes: int  # of float32, in a core
    threads: int  # in flight on a core
    shared: int  # bytes of a core; a block may have 1 KiB less
    cache: int  # bytes of the L2
    clock: float  # GHz
    flops: float
    hbm: float
    wire: float
    network: float


GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 85_100_068_864, 108, 64, 2048, 167_936,
                40 << 20, 1.41, 312e12, 2039e9, 300e9, 25e9),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 84_942_979_072, 132, 128, 2048, 233_472,
                50 << 20, 1.98, 989e12, 3352e9, 450e9, 50e9),
    "h200": Gpu("NVIDIA H200", (9, 0), 151_397_597_184, 132, 128, 2048, 233_472,
                50 << 20, 1.98, 989e12, 4800e9, 450e9, 50e9),
    "b200": Gpu("NVIDIA B200", (10, 0), 191_514_411_008, 148, 128, 2048, 233_472,
                132_644_864, 1.965, 2250e12, 7672e9, 900e9, 50e9),
    "a6000": Gpu("NVIDIA RTX A6000", (8, 6), 51_041_271_808, 84, 128, 1536, 102_400,
                 6 << 20, 1.8, 154.8e12, 768e9, 32e9, 3.125e9),
    "l4": Gpu("NVIDIA L4", (8, 9), 22_478 << 20, 58, 128, 1536, 102_400,
              48 << 20, 2.04, 121e12, 300e9, 32e9, 3.125e9),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 45_589 << 20, 142, 128, 1536, 102_400,
                96 << 20, 2.52, 362e12, 864e9, 32e9, 3.125e9),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24_210 << 20, 128, 128, 1536, 102_400,
                   72 << 20, 2.52, 165.2e12, 1008e9, 32e9, 3.125e9),
}  # fmt: skip
