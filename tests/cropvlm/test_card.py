"""The card of a crop network's export, whose code asks it in transformers as the engine does."""

import json
import re

import numpy as np
import pytest
import transformers
from transformers import AutoTokenizer
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli import convert
from lfpc_jax.cropvlm.proposing import read_box
from lfpc_jax.data import pictures
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run.building import dialogue_of
from lfpc_jax.run.config import (
    DataSettings,
    ModelSettings,
    Rewards,
    RolloutSettings,
    Source,
    TargetSettings,
    TrainConfig,
)
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.models import asking_of, load_model
from support import small, small_boxes

pytestmark = pytest.mark.compiles

CONFIG = TrainConfig(
    model=ModelSettings(path="Tiny-VL"),
    data=DataSettings(train=(Source("set"),)),
    rollout=RolloutSettings(
        dialogue="box", convention="percent", max_turns=1, turn_tokens=12, slots=8, chunk=4,
        capacity=128, image_tokens=32, crop_tokens=32, prompt_text=(64,), workers=1,
    ),
    rewards=Rewards(accuracy=1.0, format=0.0, tool=0.0, valid=0.5),
    target=TargetSettings(url="http://secret:8000/v1", model="Answers-7B", cache="/secret",
                          crop_tokens=16, presentation="crop"),
)  # fmt: skip


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The export of a run after its step 4, begun as `train.py` begins one."""
    where = tmp_path_factory.mktemp("card")
    base = small_boxes.hf_folder(where / "hf")
    made = RunFolder(where / "run")
    check(CONFIG)
    made.begin(CONFIG, base, Origin(dtypes=("float32",)), None)
    keeper = Checkpoints(made.checkpoints)
    keeper.save(4, {"trained": load_model(base).params}, {})
    keeper.close()
    assert convert.main(["to-hf", str(made.path), str(where / "export")]) == 0
    return where / "export"


def test_it_says_what_the_model_is_and_names_no_server(export):
    card = (export / "README.md").read_text()
    assert "A crop network: a Qwen2.5-VL" in card
    assert "the weights after step 4 of 80." in card
    for row in (
        "| reward | accuracy 1, likelihood 0, valid 0.5, grounding 0 |",
        "| target | `Answers-7B`, shown `crop` |",
        "| it writes | `[x1, y1, x2, y2].`, in hundredths of the image's sides |",
        "| tokens of the target's crop, at most | 16 |",
        "| tokens of its turn, at most | 12 |",
    ):
        assert f"\n{row}\n" in card
    assert "lfpc ask --model FOLDER --target ANSWERING_MODEL --image" in card
    assert "in hundredths of\nthe image's width and height" in card
    assert asking_of(export) == CONFIG.asking
    assert CONFIG.asking.prompt in card
    assert "secret" not in card
    settings = json.loads(card.split("```json\n")[1].split("```")[0])
    assert settings["target"]["model"] == "Answers-7B"


def processor(folder, max_pixels):
    """transformers' own, from parts that need no torchvision, which videos would."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder, max_pixels=max_pixels),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=tokenizer.chat_template,
    )


@pytest.mark.long
def test_its_code_gets_the_box_that_the_engine_gets(export, monkeypatch):
    model = load_model(export)
    dialogue = dialogue_of(CONFIG, export)
    shapes = CONFIG.rollout_shapes(model.cfg.vision.window)
    engine = Engine(model.cfg, dialogue, shapes, CONFIG.rules)
    engine.load(model.params)
    records = [small.record(seed, question="which colour is it?") for seed in range(6)]
    groups = engine.run(records, rollouts=1, seed=0, sampling=Sampling(temperature=0.0))
    proposed = {
        group.record.id: group.trajectories[0]
        for group in groups
        if group.trajectories[0].end == "proposed"
    }
    record = next(record for record in records if record.id in proposed)
    trajectory = proposed[record.id]
    monkeypatch.setattr(
        Qwen2_5_VLProcessor, "check_argument_for_proper_class", lambda *unused: None
    )
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", processor)
    [code] = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.DOTALL)
    for name, value in (
        ("FOLDER", export),
        ("FILE", record.picture.path),
        ("TEXT", record.question),
    ):
        code = code.replace(f'"{name}"', repr(str(value)))
    found = {}
    exec(code, found)
    assert (
        found["inputs"]["input_ids"][0].tolist()
        == trajectory.ids[: trajectory.turns[0].start].tolist()
    )
    assert found["written"] == trajectory.turns[0].text
    numbers = [found[name] for name in ("x1", "y1", "x2", "y2")]
    assert numbers == read_box(trajectory.turns[0].text).arguments["bbox_2d"]
    x1, y1, x2, y2 = (round(edge) for edge in trajectory.turns[0].crop.box)
    original = np.array(pictures.original(record.picture))
    np.testing.assert_array_equal(np.array(found["crop"]), original[y1:y2, x1:x2])
