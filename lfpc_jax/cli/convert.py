"""Converts Hugging Face folders to Orbax and back, and compares a folder with transformers.

    lfpc convert to-orbax HF_DIR OUT
    lfpc convert to-hf ORBAX_DIR OUT      # or RUN, RUN/checkpoints/STEP, RUN/checkpoints/best
    lfpc convert check HF_DIR [--json FILE]

Weights are sharded over all devices. OUT appears only when it is complete.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import folder, huggingface, parity, staging, store
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.cli import command, revision_flag
from lfpc_jax.cli.parsers.convert import parser
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config
from lfpc_jax.rollout import asking
from lfpc_jax.run import card, progress
from lfpc_jax.run.folder import check_has_weights, run_of
from lfpc_jax.run.models import load_model, located, params_of, say_if_unsummed

TOLERANCE = {"float32": 1e-4}
"""The largest difference that `check` allows by default. In bfloat16 it depends on the weights, so
`check` only reports it."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(_run, args))


def _run(args: argparse.Namespace) -> int:
    source = revision_flag.named(args.source, args.revision)
    assert source is not None
    args.source = located(source)
    return COMMANDS[args.command](args)


def to_orbax(args: argparse.Namespace) -> int:
    staging.check_free(args.out, overwrite=args.overwrite)
    staging.check_apart(args.source, args.out)
    cfg = config.from_folder(args.source)
    opened = folder.open_folder(args.source, cfg)
    mesh = make_mesh(fsdp=-1)
    params = params_of(opened, cfg, args.dtype, mesh)
    with progress.waiting("writing"):
        store.save(
            params,
            args.out,
            assets_from=args.source,
            origin=opened.origin,
            overwrite=args.overwrite,
        )
    print(f"wrote {args.out}")
    return 0


def to_hf(args: argparse.Namespace) -> int:
    staging.check_free(args.out, overwrite=args.overwrite)
    staging.check_apart(args.source, args.out)
    mesh = make_mesh(fsdp=-1)
    if run := run_of(args.source):
        dtype = args.dtype or run.origin.dtypes[0]
        model = load_model(args.source, dtype=dtype, mesh=mesh)
        assert model.step is not None
        texts = {
            asking.FILE: run.asking.text,
            card.NAME: card.card(run, model.step, run.asking),
        }
        return _write_hf(model.params, model.cfg, model.assets, model.origin, args, texts)
    with progress.waiting("verifying"):
        check_has_weights(args.source)
        stored = store.open_store(args.source)
    cfg = config.from_folder(stored.assets)
    with progress.waiting("restoring"):
        params = store.restore(stored, cfg, dtype=args.dtype, mesh=mesh)
    return _write_hf(params, cfg, stored.assets, stored.origin, args)


def _write_hf(
    params: Tree,
    cfg: config.ModelConfig,
    assets: Path,
    origin: Origin,
    args: argparse.Namespace,
    texts: Mapping[str, str] | None = None,
) -> int:
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    with progress.bar("writing", total, of_bytes=True) as advance:
        huggingface.save(
            params,
            args.out,
            cfg=cfg,
            assets_from=assets,
            origin=origin,
            overwrite=args.overwrite,
            advance=advance,
            texts=texts,
        )
    print(f"wrote {args.out}")
    return 0


def check(args: argparse.Namespace) -> int:
    with progress.bar("comparing", 2 * args.prompts) as advance:
        rows = parity.differences(
            args.source, dtype=args.dtype, prompts=args.prompts, seed=args.seed, advance=advance
        )
    say_if_unsummed(args.source)
    logit = float(np.max([row.max_abs_logit_diff for row in rows]))  # unlike max, keeps a NaN
    vision = float(np.max([row.max_abs_vision_diff for row in rows]))
    tolerance = TOLERANCE.get(args.dtype) if args.tolerance is None else args.tolerance
    passed = tolerance is None or (logit <= tolerance and vision <= tolerance)
    _print_table(rows, f"{args.source} in {args.dtype}")
    if args.json:
        figures = {
            "max_abs_logit_diff": logit,
            "max_abs_vision_diff": vision,
            "dtype": args.dtype,
            "seed": args.seed,
            "tolerance": tolerance,
            "passed": passed,
            "prompts": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    verdict = "no tolerance given" if tolerance is None else f"tolerance {tolerance:g}"
    print(f"max |logit diff| {logit:.3g}, max |vision diff| {vision:.3g}, {verdict}")
    if not passed:
        print(
            f"error: {args.source}: differs from transformers by more than {tolerance:g}",
            file=sys.stderr,
        )
    return 0 if passed else 1


def _print_table(rows: Sequence[parity.Difference], title: str) -> None:
    table = Table(title=title)
    for name in ("prompt", "tokens", "images", "|logit diff|", "|vision diff|", "same argmax"):
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        table.add_row(
            str(i),
            str(row.tokens),
            str(row.images),
            f"{row.max_abs_logit_diff:.3g}",
            f"{row.max_abs_vision_diff:.3g}" if row.images else "-",
            f"{row.argmax_agreement:.1%}",
        )
    Console().print(table)


COMMANDS = {"to-orbax": to_orbax, "to-hf": to_hf, "check": check}


if __name__ == "__main__":
    sys.exit(main())
