"""How far this port is from transformers on small random models, as numbers and a picture.

    python bench/parity.py [--models 12] [--json FILE] [--png FILE]

For each model it takes the logits of a right-padded batch with 0, 1 and 3 images and compares them
with those of transformers in float32: this port in float32, and both in bfloat16. All have weights
that are rounded to bfloat16, so that only the arithmetic differs.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for the tests' own reference

import jax  # noqa: E402
import numpy as np  # noqa: E402

from support import ported, reference  # noqa: E402

LENGTH, WINDOWS = 256, 25
SERIES = ("ours, float32", "ours, bfloat16", "transformers, bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    rows = []
    for seed in range(args.models):
        rows.append(measure(seed))
        print(
            f"model {seed}: " + ", ".join(f"{k} {v:.2e}" for k, v in rows[-1].items()), flush=True
        )
    worst = {name: max(row[name] for row in rows) for name in SERIES}
    print("largest: " + ", ".join(f"{name} {value:.2e}" for name, value in worst.items()))
    if args.json:
        args.json.write_text(json.dumps({"models": rows, "largest": worst}, indent=2) + "\n")
    if args.png:
        draw(rows, args.png)


def measure(seed: int) -> dict[str, float]:
    """Largest absolute logit difference to transformers in float32."""
    hf = reference.random_config(seed, tied=seed % 2 == 1)
    high, low = reference.rounded_and_in_bfloat16(reference.random_model(hf, seed))
    with tempfile.TemporaryDirectory() as folder:
        cfg = ported.read_config(hf, folder, dtype="float32")
    rng = np.random.default_rng(seed)
    prompts = [reference.random_prompt(rng, images) for images in (0, 1, 3)]
    tokens, images = ported.arrays(prompts, cfg, length=LENGTH, windows=WINDOWS)
    real = tokens.segments > 0
    theirs = reference.logits(low, prompts, LENGTH)[real]
    exact = reference.logits(high, prompts, LENGTH)[real]
    params = ported.parameters(high, cfg)

    def ours(dtype: str) -> np.ndarray:
        cast = jax.tree.map(lambda x: x.astype(dtype), params)
        used = replace(cfg, dtype=dtype)
        return np.asarray(ported.forward(cast, tokens, images, cfg=used))[real]

    logits = (ours("float32"), ours("bfloat16"), theirs)
    return {name: float(np.abs(x - exact).max()) for name, x in zip(SERIES, logits)}


def draw(rows: list[dict[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, mark, colour in zip(SERIES, "oD_", ("#1b7f5c", "#d1495b", "#333333")):
        size = 160 if mark == "_" else 36
        axes.scatter(
            range(len(rows)), [r[name] for r in rows], marker=mark, s=size, c=colour, label=name
        )
    axes.axhline(1e-4, color="#999999", linestyle="--", linewidth=1)
    axes.annotate("tolerance 1e-4", (0, 1.15e-4), color="#666666", fontsize=9)
    axes.set(
        yscale="log",
        xlabel="random model (text, 1 and 3 images, padded batch)",
        ylabel="largest |logit difference|",
        xticks=range(len(rows)),
        title="Distance to transformers in float32",
    )
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.62))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
