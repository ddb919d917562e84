"""The same episodes by a loop over transformers' `generate`, as one would write it.

The conversations of a batch are left-padded and generated together until all their turns have
ended. Then the host reads them, cuts the crops and appends the replies, and the unfinished ones are
generated again from their whole prompts. Prompts, parser, tool and replies are the engine's, so
both sides do the same work.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from rollout_world import World
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lfpc_jax.model import spec
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.rollout.vocabulary import allowed_ids
from lfpc_jax.trajectory import Record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.small import hf_config


class Reference:
    def __init__(self, world: World) -> None:
        self.world = world
        self.model = _model(world)
        self.processor = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=10**7)
        allowed = allowed_ids(world.dialogue.tokenizer, world.cfg.text.vocab)
        self.suppressed = np.flatnonzero(~allowed).tolist()

    def run(
        self, records: Sequence[Record], rollouts: int, rules: Rules, batch: int
    ) -> list[Episode]:
        """All episodes, `batch` at a time."""
        w = self.world
        episodes = [
            Episode(opening, number, rules, w.dialogue, w.shapes.capacity)
            for opening in map(w.dialogue.open, records)
            for number in range(rollouts)
        ]
        for first in range(0, len(episodes), batch):
            running = episodes[first : first + batch]
            while running:
                self._turn(running)
                running = [episode for episode in running if episode.end is None]
        return episodes

    def _turn(self, episodes: Sequence[Episode]) -> None:
        w = self.world
        length = max(len(episode.ids) for episode in episodes)
        new = min(episode.budget for episode in episodes)
        out = self.generate(
            [episode.ids for episode in episodes],
            [[episode.opening.view.shown, *episode.crops] for episode in episodes],
            new,
            eos_token_id=list(w.ends),
            pad_token_id=w.dialogue.tokenizer.endoftext,
        )[:, length:].numpy()
        for episode, row in zip(episodes, out):
            ending = np.flatnonzero(np.isin(row, w.ends))
            ids = row[: ending[0] + 1 if len(ending) else len(row)].tolist()
            episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
            request = episode.close_turn(stopped=len(ending) > 0)
            if request is not None:
                episode.take(w.dialogue.reply(request, episode.opening, episode.cut))

    @torch.inference_mode()
    def generate(
        self,
        rows: Sequence[Sequence[int]],
        pictures: Sequence[Sequence[Any]],
        new: int,
        **more: Any,
    ) -> torch.Tensor:
        length = max(map(len, rows))
        ids = torch.zeros((len(rows), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, length - len(tokens) :] = torch.tensor(tokens)
            mask[row, length - len(tokens) :] = 1
        return self.model.generate(
            **self.inputs(ids, mask, pictures),
            do_sample=True,
            top_k=0,
            max_new_tokens=new,
            suppress_tokens=self.suppressed,
            **more,
        )

    def inputs(
        self, ids: torch.Tensor, mask: torch.Tensor, pictures: Sequence[Sequence[Any]]
    ) -> dict[str, torch.Tensor]:
        """What transformers' model takes; every row's pictures in the order of its ids."""
        seen = [picture for each in pictures for picture in each]
        images = dict(self.processor(seen, return_tensors="pt")) if seen else {}
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.world.cfg.image_token).int(),
            **images,
        }


def _model(world: World) -> Qwen2_5_VLForConditionalGeneration:
    cfg = world.cfg
    config = hf_config(cfg, world.dialogue.tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    state = {
        name.removeprefix("model.").replace("language_model.", "model."): tensor
        for name, tensor in model.state_dict().items()
    }
    specs = jax.tree.leaves(spec.spec_tree(cfg), is_leaf=spec.is_param)
    for param, array in zip(specs, jax.tree.leaves(world.params), strict=True):
        layers = np.asarray(array) if param.stack else [np.asarray(array)]
        for name, layer in zip(param.hf_names, layers, strict=True):
            state[name].copy_(torch.tensor(np.ascontiguousarray(param.to_hf(layer))))
    return model
