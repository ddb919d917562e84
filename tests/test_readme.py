"""The Python of docs/python.md runs, on a tiny model with the real vocabulary."""

import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage import data
from transformers import Qwen2_5_VLConfig

from support import reference
from support.qwen_vocabulary import write_model_folder

PAGE = Path(__file__).parents[1] / "docs/python.md"
MODEL = "Qwen2.5-VL-3B-Instruct"


@pytest.mark.long
@pytest.mark.compiles
def test_the_example_answers_about_a_photograph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / MODEL
    folder.mkdir()
    small = reference.random_config(1, tied=True, vocab_size=151936)
    ids = {
        "image_token_id": 151655,
        "video_token_id": 151656,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
    }
    config = Qwen2_5_VLConfig(**(small.to_dict() | ids))
    config.vision_config.window_size = 112
    reference.random_model(config, 1).save_pretrained(folder)
    write_model_folder(folder, "merges")
    PIL.Image.fromarray(data.astronaut()).save("street.jpg")

    example, rollouts = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shorter = example.replace("length=1280, windows=80", "length=384, windows=25")
    assert shorter != example  # the same program, sooner: this photograph needs no more
    found: dict = {}
    exec(compile(shorter, str(PAGE), "exec"), found)
    rolls_out(rollouts, found)

    assert found["cfg"].dtype == "bfloat16"
    assert found["picture"].shape == (504, 504, 3)  # 512 x 512 in whole merged tokens
    prompt = found["ids"]
    assert (prompt == 151655).sum() == 18 * 18
    assert found["logits"].shape == (1, 384, 151936)
    assert np.isfinite(np.asarray(found["logits"][0, : len(prompt)])).all()


def rolls_out(example: str, found: dict) -> None:
    """The second example goes on from the first; here with fewer and shorter episodes."""
    replaced = {
        "slots=16, capacity=8192": "slots=2, capacity=2048",
        "Rules()": "Rules(max_turns=2, episode_tokens=8)",
        "rollouts=8": "rollouts=2",
        "engine.warm_up()": "",
    }
    for old, new in replaced.items():
        assert old in example
        example = example.replace(old, new)
    exec(compile(example, str(PAGE), "exec"), found)
    assert found["engine"].stats.rollouts == 2
    assert found["episode"].sampled.sum() <= 8
