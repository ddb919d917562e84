"""lmms-eval, VLMEvalKit and `lfpc evaluate --endpoint` of a server, and `lfpc evaluate`.

    JAX_PLATFORMS=cpu python bench/harnesses.py OUT [--questions 40] \\
        [--lmms-eval VENV/bin/python] [--vlmevalkit VENV/bin/python CHECKOUT]

Writes questions of the small world to OUT as TextVQA is published (with references that let answers
be partly right), as VLMEvalKit's table and in this project's layout, has the shipped small model
answer them in every way, each as a user would, and prints the scores of each and every question
that any two of them score differently. The environments have lmms-eval, and what VLMEvalKit's
CHECKOUT needs; what is not given is left out. Exits with 1 if anything differs.

VLMEvalKit adds an instruction to questions and encodes pictures once more, so its answers are
compared with those to a file that has the same done to it. The small model was never trained with
that instruction and answers nonsense, which scores 0, so the answers themselves are compared, too.
"""

import argparse
import base64
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import PIL.Image

from lfpc_jax.data import layout
from lfpc_jax.data.scene import WORLDS
from lfpc_jax.data.world import World
from lfpc_jax.trajectory import Picture, Record

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "configs/micro/warm"
TASKS = ROOT / "bench/lmms_eval"
FILE = "TextVQA_0.5.1_val.json"
SHOWN = 56
"""The longest side of what is shown first, in pixels: marks are hidden, and each needs a crop."""
TOKENS = "4"
"""The same as image tokens."""
INSTRUCTION = "\nAnswer the question using a single word or phrase."
"""What VLMEvalKit adds to a question of a VQA set."""
KIT = "TextVQA_SMALL"
"""The set's name there: it has no checksum, and what has TextVQA in its name is scored as that."""

Scores = dict[tuple[str, str], list[float | str | None]]
"""By part of the evaluation and record; also the answers themselves."""


def questions(count: int) -> list[Record]:
    world = World(WORLDS["micro"], 11, "heldout", count)
    return [replace(world[n], longest_side=SHOWN) for n in range(count)]


def references(n: int, record: Record) -> list[str]:
    """Ten; with every question one more is right."""
    right = 1 + n % 10
    return [record.answer] * right + ["unanswerable"] * (10 - right)


def write_published(folder: Path, records: list[Record]) -> None:
    """As TextVQA is published."""
    images = folder / "train_images"
    images.mkdir(parents=True)
    rows = []
    for n, record in enumerate(records):
        (images / f"{n:016x}.jpg").write_bytes(record.picture.data or b"")
        rows.append(
            {
                "question": record.question,
                "image_id": f"{n:016x}",
                "image_classes": ["Toy"],
                "flickr_original_url": "",
                "flickr_300k_url": "",
                "image_width": 224,
                "image_height": 224,
                "answers": references(n, record),
                "question_tokens": record.question.lower().split(),
                "question_id": 34602 + n,
                "set_name": "val",
            }
        )
    file = {"dataset_type": "val", "dataset_name": "textvqa", "data": rows}
    (folder / FILE).write_text(json.dumps(file), encoding="utf-8")


def write_kit(folder: Path, records: list[Record]) -> None:
    """As VLMEvalKit has TextVQA: a table with the pictures in it."""
    folder.mkdir()
    with (folder / f"{KIT}.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image", "question", "answer"])
        for n, record in enumerate(records):
            picture = base64.b64encode(record.picture.data or b"").decode()
            table.writerow([n, picture, record.question, str(references(n, record))])


def as_sent_by_kit(record: Record) -> Record:
    out = io.BytesIO()
    with PIL.Image.open(io.BytesIO(record.picture.data or b"")) as picture:
        picture.save(out, "JPEG")
    picture_sent = Picture(data=out.getvalue())
    return replace(record, question=record.question + INSTRUCTION, picture=picture_sent)


HOW = ["--model", str(MODEL), "--image-tokens", TOKENS]


def evaluated(out: Path, folder: Path, *where: str) -> Scores:
    data = [f"text=text_vqa:{folder / 'textvqa' / FILE}", f"world={folder / 'world'}"]
    how = [*HOW, "--modes", "tool", "direct"]
    lfpc("evaluate", str(out), "--data", *data, *how, *where)
    diagnosed = ["noise", "blank", "other", "downsampled", "truth"]
    lfpc("evaluate", str(out), "--data", data[1], *how, *where, "--diagnose", *diagnosed)
    return scores(out)


def scores(out: Path, column: str = "right") -> Scores:
    lines = map(json.loads, (out / "scores.jsonl").read_text().splitlines())
    return {(line["part"], line["record"]): line[column] for line in lines}


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
    theirs([python, "-m", "lmms_eval", *arguments], folder / "textvqa", HF_HUB_OFFLINE="1")
    [samples] = out.rglob("*samples_lfpc_text_vqa.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return {line["doc_id"]: line["exact_match"] for line in lines}


def vlmevalkit(
    python: Path, checkout: Path, out: Path, folder: Path, url: str
) -> tuple[dict[int, float], dict[int, str]]:
    """The same of VLMEvalKit, and the answers."""
    out.mkdir()
    model = {"class": "GPT4V", "model": f"{MODEL.name}:look", "key": "none", "img_detail": "high",
             "timeout": 600, "api_base": f"{url}/chat/completions"}  # fmt: skip
    data = {"class": "ImageVQADataset", "dataset": KIT}
    config = out / "config.json"
    config.write_text(json.dumps({"model": {MODEL.name: model}, "data": {KIT: data}}))
    command = [python, "run.py", "--config", str(config), "--work-dir", str(out)]
    theirs(command, checkout, LMUData=str(folder / "kit"), PRED_FORMAT="tsv")
    [results] = (path for path in out.rglob(f"*{KIT}_results.tsv") if not path.is_symlink())
    with results.open(encoding="utf-8", newline="") as file:
        lines = {int(line["index"]): line for line in csv.DictReader(file, delimiter="\t")}
    found = {n: float(line["eval_score"]) for n, line in lines.items()}
    return found, {n: line["prediction"] for n, line in lines.items()}


def theirs(command: list[str | Path], folder: Path, **environment: str) -> None:
    """Runs a harness in its own environment, which knows nothing of this project."""
    print(*command, flush=True)
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=folder, env=own | environment)


def compared_by_place(name: str, found: Mapping[int, float | str], ours: Scores) -> int:
    """Compares what a harness has of each question with ours of the same file."""
    part = f"text-{TOKENS}-tool"
    ours = {key: right for key, right in ours.items() if key[0] == part}
    by_record: Scores = {
        (part, f"text_vqa/{Path(FILE).stem}/{n}"): [one] for n, one in found.items()
    }
    return compared(name, ours, by_record)


def mean(ours: Scores) -> float:
    """Of the mode with the tool, as a harness asks."""
    found = [right[0] for key, right in ours.items() if key[0] == f"text-{TOKENS}-tool"]
    return fmean(one for one in found if isinstance(one, float))


def compared(name: str, ours: Scores, others: Scores) -> int:
    """Prints the questions that two ways score differently, and returns how many there are."""
    different = sorted(
        key for key in ours.keys() | others if rounded(ours, key) != rounded(others, key)
    )
    for key in different:
        print(f"{name}: {' '.join(key)}: {ours.get(key)} and {others.get(key)}")
    print(f"{name}: {len(ours)} scores, {len(different)} differ")
    return len(different)


def rounded(found: Scores, key: tuple[str, str]) -> list[float | str | None]:
    """Means are summed in another order elsewhere."""
    return [round(one, 9) if isinstance(one, float) else one for one in found.get(key, [])]


def compared_with_kit(found: dict[int, float], answers: dict[int, str], folder: Path) -> int:
    out = folder / "engine_for_kit"
    lfpc("evaluate", str(out), "--data", f"text=text_vqa:{folder / 'sent_by_kit' / FILE}", *HOW)
    ours = scores(out)
    print(f"VLMEvalKit: {fmean(found.values()):.4f}, evaluate: {mean(ours):.4f}")
    differ = compared_by_place("VLMEvalKit", found, ours)
    return differ + compared_by_place("VLMEvalKit's answers", answers, scores(out, "answers"))


def compare(out: Path, args: argparse.Namespace) -> int:
    records = questions(args.questions)
    write_published(out / "textvqa", records)
    layout.write(out / "world", records)
    alone = evaluated(out / "engine", out)
    differ = 0
    with served() as url:
        if args.lmms_eval:
            found = lmms_eval(args.lmms_eval, out / "lmms_eval", out, url)
            print(f"lmms-eval: {fmean(found.values()):.4f}, evaluate: {mean(alone):.4f}")
            differ += compared_by_place("lmms-eval", found, alone)
        if args.vlmevalkit:
            python, checkout = args.vlmevalkit
            write_kit(out / "kit", records)
            write_published(out / "sent_by_kit", [as_sent_by_kit(record) for record in records])
            found, answers = vlmevalkit(python, checkout, out / "vlmevalkit", out, url)
            differ += compared_with_kit(found, answers, out)
        where = ["--endpoint", url, "--endpoint-model", MODEL.name]
        differ += compared("--endpoint", alone, evaluated(out / "server", out, *where))
    return differ


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--lmms-eval", type=Path, metavar="PYTHON")
    parser.add_argument("--vlmevalkit", type=Path, nargs=2, metavar=("PYTHON", "CHECKOUT"))
    parser.add_argument("--questions", type=int, default=40)
    args = parser.parse_args()
    return int(compare(args.out.absolute(), args) > 0)


if __name__ == "__main__":
    sys.exit(main())
