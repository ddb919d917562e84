"""What one GPU or TPU host does with this package, in under eight minutes: one table, one JSON.

    python bench/device.py [--json FILE] [--size 3b] [--parts kernels decode-64 ...] [--seconds 470]

It needs no weights: the model has the widths of the published 3B and random bfloat16 weights.

    device      the chip: matrix products and copies, measured beside its published peaks
    kernels     each attention kernel beside plain XLA: largest error, and milliseconds
    parity      logits beside those of transformers on the CPU (a few layers of full width)
    decode-64   encode, prefill and decode with 64 slots: tokens a second, share of the peaks,
    decode-256  memory beside the plan's; the same with 256
    update      a whole update: tokens a second, share of the matrix rate, memory beside the plan's

Every part runs in a process of its own, with what is left of the time. What a part has found is
kept when it fails, hangs or runs out of memory, and the others still run.

Beyond JAX it imports jaxtyping, NumPy, optax and Pillow, and for `parity` PyTorch and transformers.
It does not import the package's other requirements (grain, orbax, pyarrow, rapidfuzz, rich,
tensorboardX and so on), so an image without them serves. Where jaxtyping or Pillow is missing:
`pip install --no-deps --target carried 'jaxtyping<=0.3.11' wadler-lindig pillow` beside the
checkout on a machine with a network, and `PYTHONPATH=carried` on the one without.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = {"device": 60, "kernels": 120, "parity": 90, "decode-64": 120, "decode-256": 120,
         "update": 240}  # fmt: skip
"""The parts in their order, and the most seconds that each may take of `_USUAL` together."""

_USUAL = 470

_LEAST = 5
"""With fewer seconds left, no part begins."""

ROOT = Path(__file__).parents[1]


def main() -> int:
    args = _parser().parse_args()
    if args.into:
        return _one(args)
    begun = time.monotonic()
    found: dict[str, Any] = {"size": args.size, "parts": {}}
    for name in args.parts:
        left = args.seconds - (time.monotonic() - begun)
        print(f"{name} ...", file=sys.stderr, flush=True)
        found["parts"][name] = _run(name, args, left)
        if args.json:
            _write(args.json, found)
    print(table(found))
    return 1 if any("error" in part for part in found["parts"].values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("3b", "tiny"), default="3b")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=[*PARTS])
    parser.add_argument("--seconds", type=float, default=_USUAL, help="for all parts together")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser


def _one(args: argparse.Namespace) -> int:
    """A part, in a process of its own. What it finds is a line in a file at once."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import device_parts

    with args.into.open("a", encoding="utf-8") as lines:

        def record(what: str, **figures: Any) -> None:
            lines.write(json.dumps({"what": what, **figures}) + "\n")
            lines.flush()

        device_parts.run(args.parts[0], args.size, record)
    return 0


def _run(name: str, args: argparse.Namespace, left: float) -> dict[str, Any]:
    """What a part found, with why it ended early if it did."""
    part: dict[str, Any] = {"rows": []}
    if left < _LEAST:
        return part | {"error": "no time was left"}
    seconds = min(left, PARTS[name] * max(1.0, args.seconds / _USUAL))
    with tempfile.TemporaryDirectory() as folder:
        into, errors = Path(folder, "rows"), Path(folder, "errors")
        into.touch()
        command = [sys.executable, __file__, "--size", args.size, "--parts", name]
        begun = time.monotonic()
        with errors.open("w+") as log:
            child = subprocess.Popen(
                [*command, "--into", str(into)], stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                part["error"] = f"stopped after {seconds:.0f} seconds"
            else:
                said = [line for line in errors.read_text(errors="replace").splitlines() if line]
                if code:
                    why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                    part["error"] = f"{why}: {said[-1][:500] if said else 'it said nothing'}"
                    part["log"] = said[-40:]
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        part["seconds"] = round(time.monotonic() - begun, 1)
        part["rows"] = [json.loads(line) for line in into.read_text().splitlines()]
    return part


def table(found: dict[str, Any]) -> str:
    """The rows of all parts, in plain text."""
    lines = [("", "measured", "of the peak", "beside it")]
    for name, part in found["parts"].items():
        took = f"{part['seconds']:.0f} s" if "seconds" in part else ""
        lines.append((f"{name}:", took, "", part.get("error", "")))
        for row in part["rows"]:
            value = row.get("value", "")
            shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
            if value is None:
                row, shown = row | {"unit": ""}, "not told"
            share = f"{row['share']:.0%}" if row.get("share") is not None else ""
            lines.append((f"  {row['what']}", f"{shown} {row.get('unit', '')}".strip(), share,
                          str(row.get("beside", ""))))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip()
        for a, b, c, d in lines
    )


def _write(path: Path, found: dict[str, Any]) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
