"""Damaged model folders, as `ask.py` and `convert.py` are given them."""

import json
import random
import shutil

import pytest

from lfpc_jax.checkpoint import manifest
from lfpc_jax.cli import convert
from support import damage

from .conftest import assert_sound

pytestmark = pytest.mark.slow

SMALL = ("--image-tokens", "16", "--crop-tokens", "12", "--max-turns", "2", "--turn-tokens", "8")


def asked(folder, picture):
    out = folder.parent / "asked.png"
    return ["--model", folder, "--image", picture, "--question", "Which way?", "--out", out, *SMALL]


def damaged(path, rng):
    if path.suffix == ".json":
        return damage.of_json(path.read_text(), rng)
    return damage.of_bytes(path.read_bytes(), rng)


@pytest.mark.parametrize("seed", range(3))
def test_config_tokenizer_and_processor_files(models, picture, judged, seed):
    """200 files a seed; every twentieth model that loads is asked, too."""
    rng = random.Random(seed)
    loaded = 0
    for case in range(200):
        folder = models[case % 2]
        files = [p for p in sorted(folder.iterdir()) if p.suffix in (".json", ".txt", ".jinja")]
        path = rng.choice([p for p in files if p.name != "sums.json"])
        sound = path.read_bytes()
        path.write_bytes(damaged(path, rng))
        outcome = judged(
            f"{seed}:{case} {path.name}", "ask", *asked(folder, picture), within=folder
        )
        loaded += outcome.code == 0
        if outcome.code == 0 and loaded % 20 == 1:
            judged(
                f"{seed}:{case} {path.name}, asked",
                "ask_whole",
                *asked(folder, picture),
                within=folder,
            )
        path.write_bytes(sound)
    assert 0 < loaded < 200
    assert_sound(judged)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("summed", [False, True])
def test_safetensors(models, picture, judged, tmp_path, seed, summed):
    """125 files each, with checksums and without; with them nothing but the sound file loads."""
    rng = random.Random(1000 + seed)
    folder = shutil.copytree(models[0], tmp_path / "model")
    if not summed:
        (folder / "sums.json").unlink()
    path = folder / "model.safetensors"
    sound = path.read_bytes()
    length = int.from_bytes(sound[:8], "little")
    for case in range(125):
        if rng.random() < 0.6:  # the header, whole
            text = damage.of_json(sound[8 : 8 + length].decode(), rng)
            data = len(text).to_bytes(8, "little") + text + sound[8 + length :]
        else:
            data = damage.of_bytes(sound, rng)
        path.write_bytes(data)
        outcome = judged(
            f"{seed}:{case} {path.name}", "ask", *asked(folder, picture), within=folder
        )
        assert not (summed and outcome.code == 0 and data != sound), case
    assert_sound(judged)


@pytest.fixture(scope="module")
def store(models):
    out = models[0].parent / "store"
    assert convert.main(["to-orbax", str(models[0]), str(out)]) == 0
    return out


@pytest.mark.parametrize("seed", range(2))
def test_the_description_of_a_store(store, judged, tmp_path, seed):
    rng = random.Random(2000 + seed)
    path = store / "lfpc.json"
    sound = path.read_bytes()
    for case in range(50):
        path.write_bytes(damaged(path, rng))
        judged(f"{seed}:{case}", "to_hf", store, tmp_path / "out", within=store)
        path.write_bytes(sound)
    assert_sound(judged)


@pytest.mark.parametrize("seed", range(2))
def test_what_orbax_says_of_a_store_whose_sums_are_right(store, judged, tmp_path, seed):
    rng = random.Random(3000 + seed)
    about = store / "lfpc.json"
    described = about.read_bytes()
    files = sorted(path for path in (store / "params").rglob("*") if path.is_file())
    texts = [path for path in files if path.read_bytes()[:1] == b"{"]
    for case in range(50):
        path = rng.choice(texts if rng.random() < 0.8 else files)
        sound = path.read_bytes()
        text = path in texts
        path.write_bytes(
            damage.of_json(sound.decode(), rng) if text else damage.of_bytes(sound, rng)
        )
        raw = json.loads(described)
        raw["files"] = manifest.describe(store, raw["files"])
        about.write_text(json.dumps(raw))
        judged(
            f"{seed}:{case} {path.relative_to(store)}",
            "to_hf",
            store,
            tmp_path / "out",
            within=store,
        )
        path.write_bytes(sound)
    about.write_bytes(described)
    assert_sound(judged)
