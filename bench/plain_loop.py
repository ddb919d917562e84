"""Compares greedy episodes of the engine with those of a plain loop over transformers.

    python bench/plain_loop.py EXPORTED --data runs/demo/data/heldout [--questions 32]

EXPORTED is a Hugging Face folder, as `convert.py to-hf` writes it. Budgets and turns are those with
which the model was trained (its asking.json), unless a flag says otherwise. The loop is what anyone
would write with only transformers and the tool: its image processor, its chat template over the
whole conversation, its tokenizer over the whole text for each turn, and its `generate`. Exits with
1 if any text, box or answer differs.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.cli import asking_flags
from lfpc_jax.cli.parsers import asking
from lfpc_jax.data import layout, pictures
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.rollout.dialogue import Dialogue, question
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.protocol import Answer, Call, Nothing, Refusal, read_turn
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import refuse, system_prompt
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.run.models import load_model
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Record


def main() -> int:
    args = _parser().parse_args()
    args = asking_flags.resolved(args, args.model)
    usable = (record for record in layout.read(args.data) if isinstance(record, Record))
    asked = [*itertools.islice(usable, args.questions)]
    dialogue = zooming(
        args.model,
        image_tokens=args.image_tokens,
        crop_tokens=args.crop_tokens,
        convention=args.convention,
    )
    plain = Plain(args.model, dialogue, args.max_turns)
    differ, crops = 0, 0
    for record, ours in zip(asked, by_the_engine(asked, dialogue, args), strict=True):
        theirs = plain.episode(record)
        crops += len(theirs.boxes)
        if ours != theirs:
            differ += 1
            print(f"{record.id}:\n  engine        {ours}\n  transformers  {theirs}")
    print(f"{len(asked)} episodes, {crops} crops, {differ} that differ")
    return int(differ > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="EXPORTED")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--questions", type=int, default=32)
    asking.add(parser, "image_tokens", "crop_tokens", "convention", "max_turns")
    return parser


@dataclass
class Played:
    """The replies, the boxes of the crops in pixels of the original, and the answer."""

    texts: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    answer: str | None = None


def by_the_engine(
    records: Sequence[Record], dialogue: Dialogue, args: argparse.Namespace
) -> list[Played]:
    mesh = make_mesh(data=-1)
    model = load_model(args.model, dtype="float32", mesh=mesh)
    longest = 64 * (max(dialogue.size(record)[1] for record in records) // 64 + 1)
    shapes = RolloutShapes(
        slots=mesh.size * 8,
        image_tokens=args.image_tokens,
        crop_tokens=args.crop_tokens,
        prompt_text=Buckets((longest,)),
        capacity=longest + 1024,
        prefill_rows=mesh.size,
        extend_rows=mesh.size,
        window=model.cfg.vision.window,
    )
    rules = Rules(max_turns=args.max_turns, episode_tokens=256, sampling=Sampling(temperature=0.0))
    engine = Engine(model.cfg, dialogue, shapes, rules, mesh=mesh)
    engine.load(model.params)
    played = {}
    for group in engine.run(records, rollouts=1, seed=0):
        [episode] = group.trajectories
        boxes = [turn.crop.box for turn in episode.turns if turn.crop is not None]
        played[group.record.id] = Played(
            [turn.text for turn in episode.turns], boxes, episode.answer
        )
    return [played[record.id] for record in records]


class Plain:
    """transformers' model, tokenizer, template and image processor; our tool."""

    def __init__(self, folder: Path, dialogue: Dialogue, max_turns: int) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
        self.toolbox, self.max_turns = dialogue.toolbox, max_turns
        [zoom] = dialogue.toolbox.tools
        self.budgets = [dialogue.processor.max_pixels, zoom.processor.max_pixels]
        self.least = json.loads((folder / "preprocessor_config.json").read_text())["min_pixels"]

    def episode(self, record: Record) -> Played:
        original = pictures.original(record.picture)
        view = original
        if record.longest_side is not None:
            view = pictures.shrink(original, record.longest_side)
        images = [self._processed(view, self.budgets[0])]
        frame = Frame(original.size, _shown(images[0]["image_grid_thw"]))
        ask = [{"type": "image"}, {"type": "text", "text": question(record)}]
        messages = [
            {"role": "system", "content": system_prompt(self.toolbox)},
            {"role": "user", "content": ask},
        ]
        played = Played()
        for _ in range(self.max_turns):
            said = self._generate(messages, images)
            played.texts.append(said)
            action = read_turn(said)
            if isinstance(action, Answer):
                played.answer = action.text
            if isinstance(action, Answer | Nothing) or len(played.texts) == self.max_turns:
                break
            request = self.toolbox.validate(action, frame) if isinstance(action, Call) else action
            messages.append({"role": "assistant", "content": said})
            if isinstance(request, Refusal):
                messages += refuse(request)
                continue
            seen = request.execute(original)
            assert seen.crop is not None
            played.boxes.append(seen.crop.box)
            crop = original.crop(request.parsed.pixels)
            images.append(self._processed(crop, self.budgets[1]))
            messages += request.tool.render(seen)
        return played

    def _processed(self, image: PIL.Image.Image, most: int) -> dict[str, torch.Tensor]:
        processor = Qwen2VLImageProcessorPil(min_pixels=self.least, max_pixels=most)
        return dict(processor([image], return_tensors="pt"))

    @torch.inference_mode()
    def _generate(self, messages: list[dict], images: list[dict[str, torch.Tensor]]) -> str:
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        parts = text.split("<|image_pad|>")
        tokens = [int(image["image_grid_thw"].prod()) // 4 for image in images]
        whole = parts[0] + "".join(
            "<|image_pad|>" * n + part for n, part in zip(tokens, parts[1:], strict=True)
        )
        ids = self.tokenizer(whole, return_tensors="pt")["input_ids"]
        generated = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == self.model.config.image_token_id).int(),
            pixel_values=torch.cat([image["pixel_values"] for image in images]),
            image_grid_thw=torch.cat([image["image_grid_thw"] for image in images]),
            do_sample=False,
            max_new_tokens=256,
            stop_strings=["</tool_call>"],
            tokenizer=self.tokenizer,
        )
        said = self.tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=False)
        return said.removesuffix(self.tokenizer.eos_token).removesuffix("<|im_end|>")


def _shown(grid: torch.Tensor) -> tuple[int, int]:
    """Width and height in pixels."""
    _, rows, columns = grid[0].tolist()
    return 14 * columns, 14 * rows


if __name__ == "__main__":
    sys.exit(main())
