"""lmms-eval and `lfpc evaluate --endpoint` against `lfpc serve`, beside `lfpc evaluate` alone.

    JAX_PLATFORMS=cpu python bench/harnesses.py OUT --lmms-eval VENV/bin/python [--questions 40]

Writes questions of the small world to OUT as TextVQA is published (with references that let answers
be partly right) and in this project's layout, has the shipped small model answer them all three
ways, each as a user would, and prints the scores of each and every question that any two of them
score differently. VENV is an environment with lmms-eval in it; without one, the other two are
compared. Exits with 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from lfpc_jax.data import layout
from lfpc_jax.data.scene import WORLDS
from lfpc_jax.data.world import World
from lfpc_jax.trajectory import Record

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "configs/micro/warm"
TASKS = ROOT / "bench/lmms_eval"
FILE = "TextVQA_0.5.1_val.json"
SHOWN = 56
"""The longest side of what is shown first, in pixels: marks are hidden, and each needs a crop."""
TOKENS = "4"
"""The same as image tokens."""

Scores = dict[tuple[str, str], list[float | None]]
"""By part of the evaluation and record."""


def questions(count: int) -> list[Record]:
    world = World(WORLDS["micro"], 11, "heldout", count)
    return [replace(world[n], longest_side=SHOWN) for n in range(count)]


def write(folder: Path, records: list[Record]) -> None:
    """Writes them in both formats. Of ten references of TextVQA, one more is right with every
    question."""
    images = folder / "textvqa/train_images"
    images.mkdir(parents=True)
    rows = []
    for n, record in enumerate(records):
        (images / f"{n:016x}.jpg").write_bytes(record.picture.data or b"")
        right = 1 + n % 10
        rows.append(
            {
                "question": record.question,
                "image_id": f"{n:016x}",
                "image_classes": ["Toy"],
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "image_width": 224,
                "image_height": 224,
                "answers": [record.answer] * right + ["unanswerable"] * (10 - right),
                "question_tokens": record.question.lower().split(),
                "question_id": 34602 + n,
                "set_name": "val",
            }
        )
    file = {"dataset_type": "val", "dataset_name": "textvqa", "data": rows}
    (folder / "textvqa" / FILE).write_text(json.dumps(file), encoding="utf-8")
    layout.write(folder / "world", records)


def evaluated(out: Path, folder: Path, *where: str) -> Scores:
    data = [f"text=text_vqa:{folder / 'textvqa' / FILE}", f"world={folder / 'world'}"]
    how = ["--model", str(MODEL), "--image-tokens", TOKENS, "--modes", "tool", "direct"]
    lfpc("evaluate", str(out), "--data", *data, *how, *where)
    diagnosed = ["noise", "blank", "other", "downsampled", "truth"]
    lfpc("evaluate", str(out), "--data", data[1], *how, *where, "--diagnose", *diagnosed)
    lines = map(json.loads, (out / "scores.jsonl").read_text().splitlines())
    return {(line["part"], line["record"]): line["right"] for line in lines}


def lfpc(*arguments: str) -> None:
    print("lfpc", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "lfpc_jax", *arguments], check=True)


@contextmanager
def served() -> Iterator[str]:
    """The model on a server; yields its address."""
    command = [sys.executable, "-m", "lfpc_jax", "serve", "--model", str(MODEL), "--port", "0"]
    with subprocess.Popen(
        [*command, "--image-tokens", TOKENS], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("serving"):
            raise SystemExit(f"the server did not start: {line}")
        try:
            yield line.split(" at ")[1].split(",")[0]
        finally:
            process.terminate()


def lmms_eval(python: Path, out: Path, folder: Path, url: str) -> dict[int, float]:
    """The score of each question, by its place in the file."""
    model = f"model={MODEL.name}:look,base_url={url},api_key=none,timeout=600,num_concurrent=16"
    arguments = ["--model", "openai", "--model_args", model, "--tasks", "lfpc_text_vqa"]
    arguments += ["--include_path", str(TASKS), "--output_path", str(out.absolute())]
    arguments += ["--batch_size", "1", "--log_samples"]
    print("lmms-eval", *arguments, flush=True)
    # its own environment, which knows nothing of this project
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [python, "-m", "lmms_eval", *arguments],
        check=True, cwd=folder / "textvqa", env=own | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    [samples] = out.rglob("*samples_lfpc_text_vqa.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return {line["doc_id"]: line["exact_match"] for line in lines}


def compared(name: str, ours: Scores, theirs: Scores) -> int:
    """Prints the questions that two ways score differently, and returns how many there are."""
    different = sorted(key for key in ours.keys() | theirs if ours.get(key) != theirs.get(key))
    for key in different:
        print(f"{name}: {' '.join(key)}: {ours.get(key)} and {theirs.get(key)}")
    print(f"{name}: {len(ours)} scores, {len(different)} differ")
    return len(different)


def compare(out: Path, count: int, python: Path | None) -> int:
    records = questions(count)
    write(out, records)
    alone = evaluated(out / "engine", out)
    differ = 0
    with served() as url:
        if python is not None:
            found = lmms_eval(python, out / "lmms_eval", out, url)
            part = f"text-{TOKENS}-tool"
            order = [f"text_vqa/{Path(FILE).stem}/{n}" for n in range(count)]
            theirs: Scores = {(part, order[n]): [score] for n, score in found.items()}
            ours = {key: right for key, right in alone.items() if key[0] == part}
            print(
                f"lmms-eval: {fmean(found.values()):.4f}, evaluate: "
                f"{fmean(right[0] or 0.0 for right in ours.values()):.4f}"
            )
            differ += compared("lmms-eval", ours, theirs)
        where = ["--endpoint", url, "--endpoint-model", MODEL.name]
        differ += compared("--endpoint", alone, evaluated(out / "server", out, *where))
    return differ


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--lmms-eval", type=Path, metavar="PYTHON")
    parser.add_argument("--questions", type=int, default=40)
    args = parser.parse_args()
    return int(compare(args.out.absolute(), args.questions, args.lmms_eval) > 0)


if __name__ == "__main__":
    sys.exit(main())
