"""Model folders with damaged small files: each is read, or refused in one line that names it."""

import copy
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from lfpc_jax.checkpoint.folder import open_folder
from lfpc_jax.model import config
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.asking import Asking

WARM = Path(__file__).parents[2] / "configs/micro/warm"
VALUES = (
    *(None, True, False, 0, -1, 1, 3, 7, 2.5, 1e308, -1e308, 10**30, 10**400, 1_000_000),
    *(float("nan"), float("inf"), "", "text", "12", "\ud800", [], [1], [1, 2, 3], {}, {"a": 1}),
    [[[]]],
)
FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json",
         "merges.txt", "asking.json")  # fmt: skip


def places(value, place=()):
    """The place of every value within a JSON value, its own first."""
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def with_another_value(text: str, rng: random.Random) -> bytes:
    raw = json.loads(text)
    place = rng.choice(list(places(raw)))
    value = copy.copy(rng.choice(VALUES))
    if not place:
        return json.dumps(value).encode()
    parent = raw
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    if rng.random() < 0.2:
        del parent[place[-1]]
    return json.dumps(raw).encode()


def damaged(name: str, text: str, rng: random.Random) -> bytes:
    kind = 9 if name == "merges.txt" else rng.randrange(10)
    if kind < 7:
        return with_another_value(text, rng)
    if kind == 7:
        return text.encode()[: rng.randrange(len(text))]
    if kind == 8:
        return rng.choice((b"[", b'{"a":')) * 100_000
    changed = bytearray(text.encode())
    for _ in range(rng.randrange(1, 20)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def refusal_of(folder: Path) -> str | None:
    """The error with which the folder is refused, or None if it can be read."""
    try:
        open_folder(folder, config.from_folder(folder))
        ImageProcessor.from_folder(folder)
        ChatTemplate.from_folder(folder, Tokenizer.from_folder(folder))
        Asking.read(folder)
    except (ValueError, OSError) as error:
        return str(error)
    return None


@pytest.fixture
def outcomes(tmp_path):
    """What became of so many damaged folders. All but one line of an error is raised."""

    def read_many(count: int, seed: int) -> Counter[str]:
        rng = random.Random(seed)
        seen: Counter[str] = Counter()
        for number in range(count):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            for path in WARM.iterdir():
                (folder / path.name).symlink_to(path)
            name = rng.choice(FILES)
            (folder / name).unlink()
            (folder / name).write_bytes(damaged(name, (WARM / name).read_text(), rng))
            refusal = refusal_of(folder)
            assert refusal is None or (str(folder) in refusal and "\n" not in refusal)
            assert len(refusal or "") < 1000
            seen["read" if refusal is None else "refused"] += 1
        return seen

    return read_many


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_are_read_or_refused(outcomes):
    seen = outcomes(150, seed=0)
    assert seen["refused"] > 75
    assert seen["read"] > 15


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_damaged_folders_are_read_or_refused(outcomes, seed):
    assert sum(outcomes(600, seed).values()) == 600


@pytest.mark.long
@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        (
            "text_config",
            "num_hidden_layers",
            10**6,
            "`num_hidden_layers` is 1000000, expected a whole number",
        ),
        (
            "text_config",
            "vocab_size",
            10**9,
            "`vocab_size` is 1000000000, expected a whole number from 1",
        ),
        ("vision_config", "depth", 10**6, "`vision_config.depth` is 1000000"),
        ("text_config", "rms_norm_eps", 0.0, "`rms_norm_eps` is 0.0, expected a number above 0"),
    ],
)
def test_a_config_that_asks_for_more_than_any_model_has_is_refused(
    tmp_path, section, name, value, words
):
    raw = json.loads((WARM / "config.json").read_text())
    del raw["text_config"]["layer_types"]
    raw[section][name] = value
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=words):
        config.from_folder(tmp_path)
