"""What the fuzz tests damage, and how they judge what a command makes of it."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
from transformers import AutoTokenizer

from support.limited import Worker
from support.processes import ROOT

WARM = ROOT / "configs" / "micro" / "warm"


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("worker"))
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def judged(worker):
    """Collects the faults of many commands, and fails at the end with the first of each kind."""
    faults = []

    def judge(case, surface, *words, within):
        """`within` is the folder of the damaged file, which an error has to name."""
        outcome = worker.run(surface, *words)
        fault = outcome.fault
        if outcome.code and not fault and str(within) not in outcome.errors:
            fault = "an error that names no file"
        if fault:
            faults.append((str(case), fault, outcome.errors[-1500:]))
        return outcome

    judge.faults = faults
    return judge


def assert_sound(judged):
    faults, judged.faults[:] = list(judged.faults), []
    shown = "\n\n".join("\n".join(fault) for fault in faults[:12])
    assert not faults, f"{len(faults)} outcomes are no success, loss or error line:\n{shown}"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)
    PIL.Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The small model twice: with the files of older versions of transformers, and of newer
    ones."""
    folder = tmp_path_factory.mktemp("models")
    old = shutil.copytree(WARM, folder / "old")
    new = shutil.copytree(WARM, folder / "new")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json"):
        (new / name).unlink()
    AutoTokenizer.from_pretrained(old).save_pretrained(new)
    processor = json.loads((old / "preprocessor_config.json").read_text())
    (new / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    return old, new
