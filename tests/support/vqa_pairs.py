"""500 random answers with ten references each, and what the published evaluator gives them.

    pip install --no-deps --target FOLDER lmms-eval==0.7.3
    python tests/support/vqa_pairs.py FOLDER

writes `tests/rewards/vqa_pairs.json` with the scores of that package's TextVQA task. Its evaluator
is the one of Pythia and MMF, unchanged. The package is not installed for the tests, because it
needs fifty others.
"""

import importlib
import json
import random
import sys
import types
from pathlib import Path

FILE = Path(__file__).parents[1] / "rewards/vqa_pairs.json"
WORDS = r"""
    the a an The stop STOP red blue street main st. st Nokia nokia 7:00 12:45 10:10 3.14 .5 2. 1,000
    1,5 one two Ten none zero 0 1 10 dont don't lets let's cant can't Im I'm it's its shes she's
    somebody'd wouldn'tve couldntve y'all yall o'clock oclock mike's mikes coca-cola coca cola
    e-mail e mail (red) [blue] "quoted" {x} a/b a\b x=y x+y under_score <b> me@home.com `tick`
    what? yes! no; semi;colon wait, wait,what 50% $5 $5.00 u.s.a. USA r&b ... naïve Ünlü
    東京 unanswerable
"""
JOINS = [" "] * 12 + ["  ", "\n", "\t", "", ", ", "-", "; "]


def text(rng: random.Random) -> str:
    words = [rng.choice(WORDS.split()) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5)))]
    made = words[0]
    for word in words[1:]:
        made += rng.choice(JOINS) + word
    return made


def changed(rng: random.Random, given: str) -> str:
    """Often a text that says the same to the evaluator."""
    ways = (
        str.upper, str.lower, str.title, lambda t: t + ".", lambda t: "the " + t,
        lambda t: f" {t} ", lambda t: t.replace("'", ""), lambda t: t.replace(",", ""),
        lambda t: t + "!", lambda t: t, lambda t: t.replace("-", " "),
        lambda t: t.replace(" ", "\n"),
    )  # fmt: skip
    return rng.choice(ways)(given)


def pairs() -> list[tuple[str, list[str]]]:
    rng = random.Random(0)
    made = []
    for number in range(500):
        base = text(rng)
        references = [changed(rng, base) if rng.random() < 0.5 else text(rng) for _ in range(10)]
        answer = changed(rng, rng.choice((base, base, references[0], text(rng))))
        if number % 125 == 7:  # nothing is left of either
            answer, references[3] = " ", "the"
        if number == 100:
            answer, references = "x" + "." * 40 + "y", ["xy"] * 10
        made.append((answer, references))
    return made


def evaluator(folder: str):
    """The package's function, without all that its imports need."""
    sys.path.insert(0, folder)
    root = Path(folder) / "lmms_eval"
    for name in ("lmms_eval", "lmms_eval.tasks", "lmms_eval.tasks._task_utils"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    for name, attribute in (
        ("loguru", "logger"),
        ("lmms_eval.tasks._task_utils.file_utils", "generate_submission_file"),
    ):
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], attribute, None)
    sys.path.insert(0, str(root / "tasks/textvqa"))
    return importlib.import_module("utils").textvqa_process_results


def main(folder: str) -> None:
    evaluate = evaluator(folder)
    rows = []
    for answer, references in pairs():
        found = evaluate({"answers": list(references), "question_id": 0}, [answer])
        rows.append([answer, references, found["exact_match"], found["submission"]["answer"]])
    lines = ",\n".join(json.dumps(row) for row in rows)
    FILE.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
