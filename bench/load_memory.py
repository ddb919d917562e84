"""How much host memory it takes to load a Hugging Face folder, as a multiple of its weights.

    python bench/load_memory.py [--layers 12] [--dtype bfloat16] [--json FILE]

Writes a bfloat16 folder with the 3B's widths and fewer layers (2.9 GB with 12), and loads it on the
CPU in separate processes: once as it is and once as float32. Then it removes the folder. On a CPU
the parameters themselves are in host memory, so 1.0 is the least possible. `ratio` leaves out what
a process held before it loaded (Python, JAX, XLA); `whole_process_ratio` includes it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VISION_DEPTH = 8
SHARDS = 4
DTYPES = ("bfloat16", "float32")
_NOISE_BYTES = 2**26


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, help="load as this only; default: each")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), args.layers)
        dtypes = [args.dtype] if args.dtype else DTYPES
        figures = [_in_a_process(folder, dtype) for dtype in dtypes]
    for row in figures:
        print(
            f"bfloat16 -> {row['dtype']}: weights {row['weight_bytes'] / 1e9:.2f} GB, "
            f"before {row['baseline_bytes'] / 1e9:.2f}, peak {row['peak_bytes'] / 1e9:.2f}: "
            f"{row['ratio']:.3f} x (whole process {row['whole_process_ratio']:.3f} x), "
            f"{row['seconds']:.1f} s"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _in_a_process(folder: str, dtype: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", folder, "--dtype", dtype]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_folder(folder: Path, layers: int) -> None:
    """A tied model of noise: the 3B's widths and vocabulary, `layers` deep."""
    import jax
    from transformers import Qwen2_5_VLConfig

    from lfpc_jax.checkpoint import tensorfile
    from lfpc_jax.model import config, spec

    Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        vision_config={
            "depth": VISION_DEPTH,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "fullatt_block_indexes": [VISION_DEPTH - 1],
        },
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    params = jax.tree.leaves(spec.spec_tree(config.from_folder(folder)), is_leaf=spec.is_param)
    plan = {
        name: tensorfile.Planned(tensorfile.DTYPES["BF16"], param.hf_shape)
        for param in params
        for name in param.hf_names
    }
    weight_map = {}
    for i in range(SHARDS):
        name = f"model-{i + 1:05}-of-{SHARDS:05}.safetensors"
        shard = {key: plan[key] for key in list(plan)[i::SHARDS]}
        tensorfile.write_file(folder / name, shard, _noise(shard.values()))
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _noise(plan: Any) -> Iterator[np.ndarray]:
    noise = np.frombuffer(np.random.default_rng(0).bytes(_NOISE_BYTES), np.uint8)
    for planned in plan:
        yield np.resize(noise, planned.nbytes).view(planned.dtype).reshape(planned.shape)


def measure(path: Path, dtype: str) -> dict[str, Any]:
    """Loads `path` in this process; run it in a fresh one."""
    import jax

    from lfpc_jax.checkpoint import folder, huggingface
    from lfpc_jax.model import config

    cfg = config.from_folder(path)
    opened = folder.open_folder(path, cfg)
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1))
    baseline, start = _status("VmRSS"), time.perf_counter()
    params = huggingface.load(opened, cfg, dtype=dtype)
    jax.block_until_ready(params)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    peak = _status("VmHWM")
    return {
        "dtype": dtype,
        "weight_bytes": weights,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "ratio": (peak - baseline) / weights,
        "whole_process_ratio": peak / weights,
        "seconds": time.perf_counter() - start,
    }


def _status(key: str) -> int:
    """A field of /proc/self/status: VmRSS is what is resident now, VmHWM the most that ever was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


if __name__ == "__main__":
    main()
