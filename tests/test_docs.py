"""What README and docs name is there: pages, files, commands and their flags."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from test_floors import FLOORS

from lfpc_jax.cli import lfpc
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.data.sources import PUBLISHED
from lfpc_jax.run.config_files import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
UNLISTED = ("cli", "rewards")
PLACES = r"`((?:lfpc_jax|tests|bench|launch|configs|docs)/[\w./-]*)`"


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(page: Path) -> list[list[str]]:
    """`lfpc NAME ...` and `launch/NAME.py ...`, of the blocks that hold commands, with the module's
    name; a backslash joins lines."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    text = "\n".join(text for language, text in blocks if not language)
    lines = text.replace("\\\n", " ").splitlines()
    known = lfpc.modules()
    names = "|".join((r"launch/(\w+)\.py", rf"lfpc ({'|'.join(known)})"))
    found = [re.search(rf"\b(?:{names})(?![\w-])(.*)", line.split("  # ")[0]) for line in lines]
    return [
        [line[1] or known[line[2]], *shlex.split(line[3].split(" && ")[0], comments=True)]
        for line in found
        if line
    ]


def test_the_readme_is_short_and_no_page_is_long():
    """But for the log, which goes by month."""
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in NAMES}
    assert lengths["README.md"] <= 150
    long = [name for name, lines in lengths.items() if lines >= 450]
    assert not [name for name in long if not name.startswith("docs/log")], long


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        other = page.parent / path if path else page
        assert other.is_file(), link
        if anchor:
            assert anchor in anchors(other), link


OF_TODAY = [name for name in NAMES if not name.startswith(("docs/log", "docs/contributing/"))]
"""The log names files that were; pages on adding something, files that are to be written."""


@pytest.mark.parametrize("name", OF_TODAY)
def test_files_that_are_named_exist(name):
    for place in re.findall(PLACES, (ROOT / name).read_text()):
        assert (ROOT / place).exists(), place


@pytest.mark.parametrize("name", NAMES)
def test_commands_have_the_flags_that_are_typed(name, capsys):
    for script, *words in commands(ROOT / name):
        assert (ROOT / "launch" / f"{script}.py").is_file(), script
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        unknown = flags - flags_of(script, words[:1], capsys)
        if "--config" in words:  # further flags override its settings
            named = words[words.index("--config") + 1]
            written_here = f"\n# configs/{named}\n" in (ROOT / name).read_text()
            config = load_config("stage1.py:micro" if written_here else named, CONFIGS)
            unknown -= {flag for flag in unknown if has_setting(config, flag[2:])}
        assert not unknown, script


def flags_of(script: str, first: list[str], capsys) -> set[str]:
    command = importlib.import_module(f"lfpc_jax.cli.{script}")
    with pytest.raises(SystemExit, match="0"):
        command.main([*(first if script == "convert" else ()), "--help"])
    return set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def has_setting(config: object, name: str) -> bool:
    """`lora` is a setting, and so is what it has once it is on."""
    first, _, rest = name.partition(".")
    if config is None or not rest:
        return config is None or hasattr(config, first)
    return hasattr(config, first) and has_setting(getattr(config, first), rest)


def test_the_page_on_data_says_where_each_public_set_is_and_how_it_becomes_ours():
    page = (ROOT / "docs/data.md").read_text()
    for name in (*PUBLISHED, "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"):
        assert f"`{name}`" in page, name
    written = [line.split() for line in page.splitlines() if line.startswith("lfpc gather ")]
    made = {words[-1] for words in written} | {words[-3] for words in written if "--boxes" in words}
    assert {"data/focus", "data/boxes"} <= made


def test_the_design_has_every_room_on_its_floor_and_every_module():
    page = (ROOT / "docs/design.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)` \| (.*) \|$", page, re.MULTILINE)
    package = ROOT / "lfpc_jax"
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    there -= {"__init__", "__main__", "__pycache__"}
    assert there <= {room for _, room, _ in rows}
    for floor, room, text in rows:
        assert room in FLOORS[int(floor)], room
        for path in (package / room).glob("[!_]*.py") if room not in UNLISTED else ():
            assert f"`{path.stem}`" in text, path
