"""The shipped warm start of the small world: the file that was made, and a plain loop over
transformers that has the same greedy episodes."""

import hashlib
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.cli import dialogues
from lfpc_jax.cli.model_folder import load_model
from lfpc_jax.cli.overrides import load_config
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.data import scene
from lfpc_jax.data.world import World
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import system_prompt
from lfpc_jax.rollout.vocabulary import allowed_ids

WARM = CONFIGS / "micro/warm"
SIDES = (56, 84, 224)
BUDGET = 12 * 28 * 28
"""Of a crop, in pixels."""


def test_it_is_the_file_that_its_note_names():
    [digest] = re.findall(r"\b[0-9a-f]{64}\b", (WARM / "README.md").read_text())
    assert hashlib.sha256((WARM / "model.safetensors").read_bytes()).hexdigest() == digest
    assert (WARM / "model.safetensors").stat().st_size < 5e6


def records(count):
    world = World(scene.MICRO, 3, "heldout", count)
    return [replace(one, longest_side=SIDES[i % len(SIDES)]) for i, one in enumerate(world)]


@pytest.fixture(scope="module")
def ours():
    """Greedy episodes of the engine, the system prompt, and which ids no policy samples."""
    config = load_config("micro/baseline.py", CONFIGS)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    model = load_model(WARM, dtype="float32", mesh=mesh)
    dialogue = dialogues.zooming(WARM, image_tokens=64, crop_tokens=12, convention="percent")
    rules = replace(config.rules, sampling=Sampling(temperature=0.0))
    shapes = config.rollout_shapes(model.cfg.vision.window)
    engine = Engine(model.cfg, dialogue, shapes, rules, mesh=mesh)
    engine.load(model.params)
    made = {group.record.id: group for group in engine.run(records(12), rollouts=1, seed=0)}
    banned = np.flatnonzero(~allowed_ids(dialogue.tokenizer, model.cfg.text.vocab))
    return made, system_prompt(dialogue.toolbox), banned.tolist()


class Loop:
    """transformers' model, tokenizer and image processor, and Pillow; nothing of ours."""

    def __init__(self, folder: Path, banned: list[int]) -> None:
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.banned = banned

    def episode(self, system: str, question: str, original: PIL.Image.Image, side: int):
        """All ids, of four turns at most."""
        small = original
        if side < max(original.size):
            small = original.resize((side, side), PIL.Image.Resampling.BICUBIC)
        seen = [self._processed(small, 224 * 224)]
        user = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        ids = self._ids(text, seen[0])
        for _ in range(4):
            turn = self._turn(ids, seen)
            ids += turn
            said = self.tokenizer.decode(turn)
            call = re.search(r"<tool_call>(.*)</tool_call>", said)
            if call is None:
                return ids
            box = json.loads(call[1])["arguments"]["bbox_2d"]
            seen.append(self._processed(original.crop(pixels(box, original.size)), BUDGET))
            ids += self._ids(
                "\n<|im_start|>user\n<tool_response>\n<|vision_start|><|image_pad|><|vision_end|>"
                "\nBoxes still refer to the first image.\n</tool_response>\n"
                "Call a tool again, or give your answer.<|im_end|>\n<|im_start|>assistant\n",
                seen[-1],
            )
        return ids

    def _processed(self, image: PIL.Image.Image, most: int):
        processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=most)
        return processor(images=[image], return_tensors="pt")

    def _ids(self, text: str, image) -> list[int]:
        count = int(image["image_grid_thw"].prod()) // 4
        text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
        return self.tokenizer(text)["input_ids"]

    def _turn(self, ids: list[int], seen) -> list[int]:
        inputs = torch.tensor([ids])
        out = self.model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            mm_token_type_ids=(inputs == self.image).int(),
            pixel_values=torch.cat([one["pixel_values"] for one in seen]),
            image_grid_thw=torch.cat([one["image_grid_thw"] for one in seen]),
            do_sample=False,
            max_new_tokens=64,
            suppress_tokens=self.banned,
            eos_token_id=[self.end],
        )
        return out[0, len(ids) :].tolist()


def pixels(box, size) -> tuple[int, int, int, int]:
    """Of a box in per cent: at least 28 a side, inside, whole."""
    edges = []
    for low, high, extent in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        low, high = (min(max(edge, 0), 100) * extent / 100 for edge in (low, high))
        if high - low < 28:
            low = min(max((low + high) / 2 - 14, 0), extent - 28)
            high = low + 28
        edges.append((math.floor(low + 1e-9), math.ceil(high - 1e-9)))
    (x1, x2), (y1, y2) = edges
    return x1, y1, x2, y2


def test_transformers_has_the_same_greedy_episodes(ours):
    groups, system, banned = ours
    loop = Loop(WARM, banned)
    looks = 0
    for record in records(12):
        [found] = groups[record.id].trajectories
        if any(turn.fault for turn in found.turns):
            continue  # refusals have texts of their own
        with PIL.Image.open(io.BytesIO(record.picture.data)) as image:
            original = image.convert("RGB")
        wanted = loop.episode(system, record.question, original, record.longest_side)
        np.testing.assert_array_equal(np.asarray(found.ids), wanted)
        looks += sum(turn.crop is not None for turn in found.turns)
    assert looks >= 6
