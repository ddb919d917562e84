"""What a card says of a model that began on the Hub, for people and for the Hub itself."""

import json
import re
from dataclasses import replace

import pytest
import yaml

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.run import card
from lfpc_jax.run.config import DataSettings, ModelSettings, Source, TrainConfig
from lfpc_jax.run.folder import RunFolder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = "somebody/Tiny-VL"


@pytest.fixture
def chain(tmp_path):
    """A run that began from a run that began from a model on the Hub."""
    snapshot = tmp_path / "cache/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny-VL\n")
    (snapshot / "config.json").write_text("{}")
    config = TrainConfig(
        model=ModelSettings(path=f"{BASE}@main"), data=DataSettings(train=(Source("data/focus"),))
    )
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    origin = Origin(dtypes=("float32",))
    first.begin(config, snapshot, origin, None)
    first.checkpoints.mkdir()
    later = replace(config, model=replace(config.model, path=str(first.path)))
    second.begin(later, first.assets, origin, 8)
    assert first.origin == second.origin == origin
    line = {"step": 3, "kind": "validation", "validation/accuracy": 0.25}
    (second.path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return second, later


def test_a_card_has_base_method_settings_figures_and_how_to_load_it(chain):
    run, config = chain
    text = card.card(run, 3, config.asking)
    head, body = re.fullmatch(r"---\n(.*?)---\n(.*)", text, re.DOTALL).groups()
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "base_model": BASE,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lfpc", "tool-use"],
    }
    began = f"`{config.model.path}`, step 8, which began with `{BASE}@main`, commit `{COMMIT}`"
    assert f"\n| began with | {began} |\n" in body
    assert "\n| stage | grpo |\n" in body
    assert "\n| validation/accuracy | 0.25 |\n" in body
    assert "lfpc ask --model FOLDER --image FILE" in body
    [code] = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    compile(code, "card", "exec")
    assert "lfpc_jax.Session.load" in code
    [settings] = re.findall(r"```json\n(.*?)```", body, re.DOTALL)
    assert json.loads(settings)["steps"] == config.steps


def test_a_path_that_no_system_has_is_refused_in_a_short_line(chain):
    run, config = chain
    settings = json.loads(run.settings.read_text())
    settings["model"]["path"] = "/models/" + "[" * 100_000
    run.settings.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"100008 characters") as refused:
        card.card(run, 3, config.asking)
    assert str(refused.value).startswith(str(run.settings))
    assert len(str(refused.value)) < 400
    with pytest.raises(ValueError, match=r"100008 characters"):
        _ = run.began_from
