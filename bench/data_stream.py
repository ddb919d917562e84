"""How fast large originals stream to training, and whether the memory of the stream stays constant.

    python bench/data_stream.py [--count 1000] [--size 3840x2160] [--threads 2] [--json FILE]

Writes synthetic scenes to a temporary folder (2.7 MB an image at 4K), audits them, and draws one
epoch of shuffled batches on the path that `train.py` takes: the stream's threads open every record
into a prompt, with the picture decoded, resized to the token budget and encoded among the text.
The tokenizer is a small one that is trained here, so no model is needed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lfpc_jax.cli import synthesize
from lfpc_jax.data import layout
from lfpc_jax.data.audit import audit
from lfpc_jax.data.pipeline import MixedSet, Stream
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.run.openings import opener
from lfpc_jax.trajectory import Record

BATCH = 8
WARM_UP = 10
"""Batches after which buffers and the allocator have reached their size."""
CROP_TOKENS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", default="3840x2160")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), args)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, float | int | str]:
    start = time.monotonic()
    knobs = ["--objects", "8", "14", "--object-side", "80", "160", "--mark-side", "24", "48"]
    world = folder / "world"
    command = [str(world), "--count", str(args.count), "--size", args.size, *knobs]
    if synthesize.main([*command, "--workers", str(args.workers)]):
        raise SystemExit("the world could not be written")
    drawn = time.monotonic()
    records = audit(layout.read(world), name="world").records
    audited = time.monotonic()
    dialogue = with_small_tokenizer(folder / "assets", records, args.tokens)
    begun, busy = time.monotonic(), time.process_time()
    part = MixedSet("world", records)
    stream = Stream([part], opener(dialogue), batch=BATCH, seed=0, threads=args.threads)
    resident = []
    for _ in range(args.count // BATCH):
        next(stream)
        resident.append(resident_mib())
    streamed, worked = time.monotonic() - begun, time.process_time() - busy
    stream.close()
    opened = args.count // BATCH * BATCH
    settled = resident[WARM_UP:] or resident
    return {
        "images": args.count,
        "size": args.size,
        "threads": args.threads,
        "drawn_per_minute": round(60 * args.count / (drawn - start), 1),
        "audited_per_second": round(args.count / (audited - drawn), 1),
        "streamed_per_second": round(opened / streamed, 2),
        "processor_seconds_per_image": round(worked / opened, 4),
        "resident_mib_after_warm_up": round(settled[0], 1),
        "resident_mib_highest": round(max(settled), 1),
        "resident_mib_at_the_end": round(settled[-1], 1),
    }


def with_small_tokenizer(folder: Path, records: Sequence[Record], image_tokens: int) -> Dialogue:
    texts = [record.question for record in records[:100]]
    write_tokenizer(folder, texts, 1000, ImageProcessor())
    return zooming(folder, image_tokens=image_tokens, crop_tokens=CROP_TOKENS)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
