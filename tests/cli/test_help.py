"""`--help` of every command, in a process of its own: at once, and without the heavy libraries."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import lfpc_jax
from lfpc_jax.cli import asking_flags
from lfpc_jax.cli.parsers import (
    asking,
    compare,
    demo,
    evaluate,
    gather,
    label_boxes,
    plan,
    replay,
    select_resolution,
    synthesize,
)
from lfpc_jax.cropvlm.labels import Rule, Source, Ties
from lfpc_jax.cropvlm.vicrop import RelativeAttention
from lfpc_jax.data import layout
from lfpc_jax.evaluation import arms, conditions
from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.infogap.levels import Search
from lfpc_jax.infogap.selection import Settings, Strategy
from lfpc_jax.plan.work import PlannedEpisode
from lfpc_jax.run import cropvlm_plan, demo_plan, replaying

ROOT = Path(lfpc_jax.__file__).parents[1]
COMMANDS = sorted(path.stem for path in (ROOT / "launch").glob("*.py"))
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore", "grain", "transformers", "scipy",
         "tokenizers", "matplotlib", "pyarrow", "rapidfuzz", "tensorboardX"}  # fmt: skip
MOST_SECONDS = 0.5

RUN = """
import json, runpy, sys, time
script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0], code = script, None
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as stopped:
    code = stopped.code
print(json.dumps([code, time.process_time(), sorted({name.split(".")[0] for name in sys.modules})]),
      file=sys.stderr)
"""


def typed(command: str, *words: str) -> tuple[int, float, set[str], str]:
    """What the command ends with: exit code, seconds of CPU, modules, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, f"launch/{command}.py", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    code, seconds, modules = json.loads(done.stderr.splitlines()[-1])
    return code, seconds, set(modules), done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_answered_before_jax_is_imported(command):
    code, seconds, modules, printed = typed(command, "--help")
    assert code == 0
    assert not modules & HEAVY
    assert seconds < MOST_SECONDS
    module = import_module(f"lfpc_jax.cli.parsers.{command}")
    flags = module.parser([]) if command == "synthesize" else module.parser()
    assert printed.startswith(f"usage: {command}.py")
    for action in flags._actions:
        if action.help != "==SUPPRESS==":
            assert all(option in printed for option in action.option_strings)


def test_so_does_lfpc_itself():
    code, seconds, modules, printed = typed("../lfpc_jax/__main__", "--help")
    assert code == 0
    assert not modules & HEAVY
    assert seconds < MOST_SECONDS
    assert printed.startswith("usage: lfpc [-h] [--version] COMMAND ...")


def test_wrong_flags_are_refused_before_jax_is_imported():
    code, _, modules, printed = typed("evaluate", "out", "--slots", "many")
    assert code == 2
    assert not modules & HEAVY
    assert "argument --slots: invalid int value: 'many'" in printed


def test_the_help_of_a_world_shows_its_own_settings():
    assert "the gap (default: None)" in typed("synthesize", "--help")[3]
    assert "the gap (default: 48)" in typed("synthesize", "--world", "easy", "--help")[3]


def test_the_parsers_know_what_the_modules_decide():
    """Values that a parser writes again, since it may not import the module that decides them."""
    usual = asking_flags.USUAL
    assert {name: getattr(usual, name) for name in asking.FLAGS} == asking.USUAL
    assert set(compare.MEASURES) == set(arms.MEASURES)
    assert demo.USUAL["lfpc"].known == tuple(demo_plan.ARMS)
    assert demo.USUAL["cropvlm"].known == tuple(cropvlm_plan.ARMS)
    assert evaluate.ALTERATIONS == ALTERATIONS
    assert evaluate.BOXES == conditions.BOXES
    assert evaluate.MODES == (conditions.TOOL, conditions.DIRECT)
    assert evaluate.SQUARE == RelativeAttention.side
    assert label_boxes.SOURCES == get_args(Source)
    assert label_boxes.TIES == get_args(Ties)
    labels = label_boxes.parser().parse_args(["set", "out"])
    rule = Rule()
    assert (labels.within, labels.ties, labels.seed, labels.factors) == (
        rule.within, rule.ties, rule.seed, rule.factors,
    )  # fmt: skip
    planned = PlannedEpisode()
    assert (plan.SAMPLED, plan.CROPS) == (planned.sampled, planned.crops)
    assert replay.TOLERANCE == replaying.TOLERANCE
    assert select_resolution.STRATEGIES == get_args(Strategy)
    assert select_resolution.SEARCHES == get_args(Search)
    chosen = vars(select_resolution.parser().parse_args(["set", "out"]))
    assert Settings(**{name: chosen[name] for name in vars(Settings())}) == Settings()
    assert synthesize.TABLES == gather.TABLES == get_args(layout.Table)
