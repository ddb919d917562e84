"""Functions of one's own are told from others of their name."""

import logging
from dataclasses import replace

import pytest

from lfpc_jax.checkpoint.training import Saved
from lfpc_jax.run import resuming
from lfpc_jax.run.config import Source
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.own_code import changed, functions_of

CONFIG = """
from lfpc_jax.run.config import DataSettings, Source, TrainConfig
from lfpc_jax.data import sources
from lfpc_jax.rewards.total import OwnReward, Rewards

STEPS = 80


def short(episode, record):
    return float(all(_counts(turn) for turn in episode.turns))


def _counts(turn):
    return len(turn.text) < 100


def get_config():
    return TrainConfig(
        steps=STEPS,
        data=DataSettings(train=(Source("a"), Source("b", own_reader))),
        rewards=Rewards(own=(OwnReward("short", 0.1, short),)),
    )


def own_reader(path):
    return sources.read(path)
"""
NAMES = {"data.train[1].reader", "rewards.own[0].function"}


@pytest.fixture
def functions(tmp_path):
    def of(text, name="one"):
        (tmp_path / name).mkdir(exist_ok=True)
        file = tmp_path / name / "mine.py"
        file.write_text(text)
        return functions_of(load_config(str(file), tmp_path))

    return of


def test_a_function_is_told_by_what_it_and_its_helpers_say(functions):
    before = functions(CONFIG)
    assert set(before) == NAMES, "those of this package are not among them"
    assert functions(CONFIG, "elsewhere") == before
    assert functions(CONFIG.replace("STEPS = 80", "STEPS = 90"), "more") == before
    helper = functions(CONFIG.replace("< 100", "< 200"), "helper")
    assert changed(before, helper) == ["rewards.own[0].function"]
    reader = functions(CONFIG.replace("sources.read(path)", "iter(())"), "reader")
    assert changed(before, reader) == ["data.train[1].reader"]


def test_what_is_not_known_or_cannot_be_read_is_not_called_changed(functions):
    before = functions(CONFIG)
    assert changed({}, before) == []
    space = {}
    exec("def made(path):\n    yield path\n", space)
    assert functions_of(Source("a", space["made"])) == {}
    assert functions_of(replace(Source("a"), reader=str.split)) == {}


def test_a_run_that_goes_on_with_another_function_says_so(functions, tmp_path, caplog):
    before, now = functions(CONFIG), functions(CONFIG.replace("< 100", "< 200"), "other")
    with caplog.at_level(logging.WARNING):
        resuming.warn_of_other_functions(Saved(tmp_path, 4, {"functions": before}), before)
        resuming.warn_of_other_functions(Saved(tmp_path, 4, {}), now)
        assert not caplog.messages
        resuming.warn_of_other_functions(Saved(tmp_path, 4, {"functions": before}), now)
    [line] = caplog.messages
    assert "rewards.own[0].function" in line
    assert "data.train[1].reader" not in line
