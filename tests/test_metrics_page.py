"""docs/metrics.md has an entry for every metric that the code writes, and for no other.

What whole runs write is held against the page in tests/cli/test_train.py and
tests/run/test_validation.py.
"""

import ast
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.cli import train
from lfpc_jax.cropvlm.pair import TargetStats
from lfpc_jax.cropvlm.proposing import Proposal
from lfpc_jax.evaluation.alter import ALTERATIONS
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.arms import MEASURES
from lfpc_jax.evaluation.conditions import CONDITIONS
from lfpc_jax.evaluation.diagnostics import AnswerFirst, diagnose
from lfpc_jax.evaluation.journal import Trial
from lfpc_jax.evaluation.measures import ENDS, Measures, gather
from lfpc_jax.evaluation.results import results
from lfpc_jax.grpo.objective import FROM_DRAWN, Objective, loss_of
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.report import words
from lfpc_jax.report.figures import FIGURES
from lfpc_jax.rewards.total import OwnReward, Rewards, compute_rewards
from lfpc_jax.rollout import engine
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.run.metrics import rollout_metrics, target_metrics
from lfpc_jax.serve.metrics import Metrics
from lfpc_jax.serve.worker import Worker
from lfpc_jax.trajectory import Batch, End, Picture, Record, Tokens
from support import handmade, metrics_page

PACKAGE = Path(train.__file__).parents[1]
GROUPS = {name.split("/")[0] for name in metrics_page.of_runs()}
REWARD_COUNTS = {"masked", "unjudged", "undecided", "flat"}
TARGETED = handmade.record("A", ("red", "blue"), targets=[[(20, 20, 40, 40)]])


def of_group(group: str) -> set[str]:
    return {
        name.partition("/")[2] for name in metrics_page.of_runs() if name.startswith(f"{group}/")
    }


def measures(*faults: str, end: End = "answered") -> Measures:
    return Measures(
        record="r", rollout=0, right=1.0, turns=2, tokens=9, calls=1 + len(faults), areas=(0.1,),
        crop_tokens=(4,), faults=dict.fromkeys(faults, 1), end=end, iou=0.5, overlap=0.5, full=1.0,
    )  # fmt: skip


def test_no_metric_has_two_entries():
    entries = re.findall(r"^\| `(\w+/\w+)` \|", metrics_page.PAGE.read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_name_in_the_code_has_an_entry(path):
    texts = {node.value for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    named = {text for text in texts if re.fullmatch(rf"(?:{'|'.join(GROUPS)})/\w+", text)}
    assert named <= metrics_page.of_runs()


def test_the_report_draws_what_has_an_entry():
    assert {name for figure in FIGURES for name in figure.names} <= metrics_page.of_runs()


RUNS = sorted(name for name in metrics_page.of_runs() if not name.endswith(".py"))


@pytest.mark.parametrize("name", RUNS)
def test_every_metric_has_its_word_and_its_meaning_in_the_report(name):
    group, _, rest = name.partition("/")
    assert words.title(name) != name
    assert words.unit(name) != "value"
    meaning = words.meaning(name)
    assert meaning
    assert all(head and text and "`" not in text and "](" not in text for head, text in meaning)
    of_crops = f"crop/{rest}"
    if group == "validation" and of_crops in RUNS:
        assert meaning == words.meaning(of_crops)


def test_titles_in_a_figure_tell_its_metrics_apart():
    titles = Counter((name.partition("/")[0], words.title(name)) for name in RUNS)
    assert titles.most_common(1)[0][1] == 1


def test_a_metric_of_nobody_is_shown_by_its_name():
    assert words.title("strange/thing") == "strange/thing"
    assert words.meaning("strange/thing") == ()
    assert words.title("reward/short_text") == "Your reward short text"


def test_what_is_measured_of_episodes():
    tools = (Zoom(ImageProcessor()), Proposal(ImageProcessor()))
    written = gather([measures(*Toolbox(tools).causes), measures(end="proposed")])
    groups = ("crop", "episode", "end", "fault")
    assert set(written) == {f"{group}/{name}" for group in groups for name in of_group(group)}
    assert of_group("end") == set(ENDS)


def test_rewards_and_why_there_are_none():
    own = OwnReward("NAME", 1.0, lambda trajectory, record: 1.0)
    crop = handmade.crop_turn(20, 20, 40, 40)
    [reward] = compute_rewards(
        [handmade.episode(crop, answer="A")], {"r": TARGETED}, Rewards(own=(own,))
    )
    weights = Rewards(accuracy=1.0, likelihood=1.0, valid=1.0)
    [unknown] = compute_rewards([handmade.episode(crop)], {"r": TARGETED}, weights, proposals=True)
    assert of_group("reward") == set(reward.parts) | set(unknown.parts) | REWARD_COUNTS
    parts = {fault.part for fault in unknown.faults}
    assert parts == {"target", "likelihood"}
    assert of_group("masked") == {"judge", "record", "total", "NAME"} | parts


def test_updates():
    """Beside these a run has the loss and what counts updates: see tests/cli/test_train.py."""
    of_tokens = jax.ShapeDtypeStruct((1, 8), jnp.float32)

    def watched(x):
        tokens = Tokens(ids=x, positions=x, segments=x, image_index=x)
        batch = Batch(tokens, None, weights=x, advantages=x, sampler=x, old=x, reference=x)
        return loss_of(x, x, batch, Objective(kl=0.1, entropy=0.1))[1]

    names = jax.eval_shape(watched, of_tokens).keys() - {FROM_DRAWN}
    counted = {"loss", "gradient_norm", "refused", "empty", "learning_rate"}
    counted |= {"fill", "windows_fill", "staleness"}
    assert of_group("update") == names | counted


def test_times():
    phases = re.findall(r'clock\("(\w+)"\)', Path(train.__file__).read_text())
    asked = target_metrics(TargetStats(questions=1, episodes=2, boxes=1), TargetStats())
    of_target = {name.partition("/")[2] for name in asked if name.startswith("time/")}
    assert of_group("time") == {*phases, "step"} | of_target
    assert asked.keys() - {f"time/{name}" for name in of_target} == {
        f"target/{name}" for name in of_group("target")
    }


def test_rollouts():
    before, now = engine.Stats(slots=2), engine.Stats(slots=2, steps=4, sampled=5, seconds=1.0)
    written = rollout_metrics(now, before)
    assert set(written) == {f"rollout/{name}" for name in of_group("rollout")}
    shares = ("occupancy", "idle_ended", "idle_replies", "idle_free")
    assert sum(written[f"rollout/{name}"] for name in shares) == 1


@pytest.mark.parametrize("group", ["data", "speed"])
def test_every_entry_of_a_step_is_written(group):
    sources = (PACKAGE / "cli/train.py", PACKAGE / "run/reporting.py")
    code = "".join(path.read_text() for path in sources)
    assert of_group(group)
    assert all(f'"{group}/{name}"' in code for name in of_group(group))


def test_a_server():
    engine = Mock()
    engine.shapes.slots = 4
    worker = Mock(spec=Worker, engine=engine, running=0, in_hand=(), restarts=0, programs_left=0)
    told = {family.name for family in Metrics(worker, "1").registry.collect()}
    assert set(metrics_page.under("The server")) == told


def test_a_validation_repeats_what_is_measured_of_crops():
    twice = {
        f"{blank}{name}"
        for blank in ("", "blank_")
        for name in ("accuracy", "masked", "undecided", "likelihood")
    }
    assert of_group("validation") == of_group("crop") | twice | {"gap", "skipped", "records"}


def test_evaluations():
    record = Record(id="r", question="?", answer="A", picture=Picture(path="p"), options=("1", "2"),
                    targets=TARGETED.targets)  # fmt: skip
    answered = [Answered(record, ("A",), (measures(),), (False,))]
    conditions = dict.fromkeys(CONDITIONS, answered)
    assert set(metrics_page.under("Do crops matter")) == {
        *(diagnosis.test for diagnosis in diagnose(conditions)),
        *(field.name for field in fields(AnswerFirst)),
    }
    assert set(ALTERATIONS) <= set(metrics_page.under("Do crops matter"))
    settings = {"asked": {}, "benchmarks": {"set": {"questions": 1}}}
    found = results(settings, {Trial("set", 64, name): answered for name in CONDITIONS})
    every = found["benchmarks"]["set"]["budgets"]["64"]["conditions"]
    assert set(metrics_page.under("Evaluations")) == {key for one in every.values() for key in one}


def test_comparisons():
    assert metrics_page.under("Comparisons") == list(MEASURES)
