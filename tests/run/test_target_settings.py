"""Settings of crop networks and targets that cannot work, and what to do instead."""

from dataclasses import replace

import pytest

from lfpc_jax.cropvlm.local import Needs
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.run.building import open_target
from lfpc_jax.run.config import MeshSettings, Rewards, TargetSettings, TrainConfig
from lfpc_jax.run.config_checks import check, check_devices
from lfpc_jax.run.config_files import CONFIGS, load_config

ACCURACY = load_config("cropvlm/accuracy.py:3b", CONFIGS)
LIKELIHOOD = load_config("cropvlm/likelihood.py:3b", CONFIGS)
ZOOM = load_config("stage1.py:3b", CONFIGS)
SERVER = TargetSettings(url="http://host:1/v1", model="m", cache="cache")


def changed(config: TrainConfig, part: str, **changes) -> TrainConfig:
    return replace(config, **{part: replace(getattr(config, part), **changes)})


def test_what_works():
    check(ACCURACY)
    check(LIKELIHOOD)
    check(replace(ACCURACY, target=SERVER))
    check(changed(ACCURACY, "target", presentation="zoom"))
    boxes = Rewards(accuracy=0.0, format=0.0, tool=0.0, valid=1.0, grounding=1.0)
    check(replace(ACCURACY, target=None, rewards=boxes))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(ZOOM, target=SERVER), r"target with rollout.dialogue zoom.*dialogue box to"),
        (changed(ZOOM, "rewards", likelihood=1.0), r"rewards.likelihood 1.0 with .* zoom.*set it"),
        (changed(ZOOM, "rewards", valid=1.0), r"rewards.valid 1.0 with rollout.dialogue zoom"),
        (changed(ACCURACY, "rollout", max_turns=2), r"rollout.max_turns is 2 .*one turn; set"),
        (changed(ACCURACY, "rollout", convention="shown"), r"convention is shown .*percent"),
        (changed(ACCURACY, "rewards", format=0.2), r"rewards.format is 0.2 .*--rewards.format 0"),
        (changed(ACCURACY, "rewards", tool=1.2), r"rewards.tool is 1.2 .*rewards.valid"),
        (replace(ACCURACY, without_tool=0.5), r"without_tool is 0.5 with rollout.dialogue box"),
        (replace(ACCURACY, target=None), r"rewards.accuracy is 1.0, but there is no target.*0.0$"),
        (replace(LIKELIHOOD, target=None), r"rewards.likelihood is 1.0, but there is no target"),
        (
            replace(
                ACCURACY,
                target=None,
                rewards=Rewards(accuracy=0.0, format=0.0, tool=0.0, grounding_needs_answer=True),
            ),
            r"rewards.grounding_needs_answer is True, .* or set --rewards.grounding_needs_answer F",
        ),
        (replace(ACCURACY, target=TargetSettings()), r"target.url ''.*not both"),
        (replace(ACCURACY, target=replace(SERVER, path="x")), r"target.path 'x' and target.url"),
        (replace(ACCURACY, target=replace(SERVER, model="")), r"'': a server is asked"),
        (changed(ACCURACY, "target", model="m"), r"target.url '' and target.model 'm'"),
        (changed(ACCURACY, "target", slots=0), r"target.slots is 0; it must be at least 1"),
        (changed(ACCURACY, "target", answer_tokens=0), r"target.answer_tokens is 0"),
        (changed(ACCURACY, "target", image_tokens=1), r"target.image_tokens 1: "),
        (changed(ACCURACY, "target", presentation="image"), r"every box gets the same answer"),
        (
            replace(ACCURACY, target=replace(SERVER, presentation="zoom")),
            r"target.presentation zoom with target.url .*--target.presentation both",
        ),
        (replace(ACCURACY, target=replace(SERVER, cache="")), r"cache is empty .*--target.cache"),
        (replace(ACCURACY, target=replace(SERVER, url="host:1")), r"target.url"),
        (replace(LIKELIHOOD, target=SERVER), r"rewards.likelihood 1.0 with target.url .*local"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_remedy(config, message):
    with pytest.raises(ValueError, match=message):
        check(config)


def test_a_local_targets_slots_are_shared_among_its_copies():
    counts = {"devices": 8, "local": 8, "processes": 1}
    config = replace(ACCURACY, mesh=MeshSettings())
    check_devices(config, **counts)
    with pytest.raises(ValueError, match=r"target.slots 30 is no multiple .*24 or 32"):
        check_devices(changed(config, "target", slots=30), **counts)
    check_devices(replace(config, target=replace(SERVER, slots=30)), **counts)


def test_a_crop_network_is_no_target(tmp_path):
    (tmp_path / "asking.json").write_text(ACCURACY.asking.text)
    settings = TargetSettings(path=str(tmp_path))
    with pytest.raises(ValueError, match="is a crop network: it proposes boxes and answers no q"):
        open_target(settings, rollout_mesh(), lambda showing: Needs.up_to(showing, 8))
