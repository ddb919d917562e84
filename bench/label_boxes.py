"""Labelling records by a target's likelihoods, compared with a loop over transformers.

    JAX_PLATFORMS=cpu python bench/label_boxes.py [--json FILE]

A record has the boxes of a grid (225 for 5 x 5), and each has the log-likelihood of the right
answer. Ours is one call of `Likelihoods`. The loop encodes every prompt whole: full image, crop,
question and answer. It prepares the full image once and computes logits of the answer alone, both
in its favour. Both sides have the same machine, weights, prompts and pictures, and two threads.
Figures are medians of `--repeats` runs that alternate. Compilation is printed separately and not
part of the times. The largest difference of a likelihood is printed beside them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from rich.console import Console
from rollout import SIZES
from rollout_reference import Reference
from rollout_world import World, make_world, records

from lfpc_jax.cropvlm.grid import cells, in_pixels
from lfpc_jax.cropvlm.likelihood import Likelihoods
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Place, Showing
from lfpc_jax.cropvlm.target import Question
from lfpc_jax.processing.images import ImageProcessor

_SIDE = 448
"""Pixels of a picture's sides."""


def main() -> None:
    args = _parser().parse_args()
    torch.set_num_threads(2)
    world = make_world(*SIZES[args.size], slots=1, chunk=1)
    settings = TargetSettings(image_tokens=256, crop_tokens=64)
    showing = Showing.within(
        settings, world.dialogue.tokenizer, world.dialogue.chat, ImageProcessor(min_pixels=784)
    )
    figures = _label(world, showing, args)
    _print(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--grid", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def _label(world: World, showing: Showing, args: argparse.Namespace) -> dict[str, Any]:
    boxes = tuple(in_pixels(cell, args.grid, (_SIDE, _SIDE)) for cell in cells(args.grid))
    asked = [Question(record, boxes) for record in records(args.repeats + 1)]
    likelihoods, reference = Likelihoods(world.cfg), Reference(world)
    began = time.perf_counter()
    [*likelihoods(world.params, showing, asked[:1])]
    compiling = time.perf_counter() - began
    ours, theirs, apart, tokens = [], [], 0.0, 0
    for question in asked[1:]:
        began = time.perf_counter()
        [found] = likelihoods(world.params, showing, [question])
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        wanted = _by_transformers(reference, showing, question)
        theirs.append(time.perf_counter() - began)
        tokens = found[0].tokens
        differences = [abs(one.total - other) / tokens for one, other in zip(found, wanted)]
        apart = max(apart, *differences)
    if apart > 1e-4:
        raise SystemExit(f"the two sides' likelihoods lie {apart:.2g} a token apart")
    return {
        "boxes": len(boxes),
        "answer_tokens": tokens,
        "seconds": statistics.median(ours),
        "transformers_seconds": statistics.median(theirs),
        "ratio": statistics.median(b / a for a, b in zip(ours, theirs)),
        "ratios": [b / a for a, b in zip(ours, theirs)],
        "first_call_seconds": compiling,
        "most_apart_a_token": apart,
        "device": jax.devices()[0].device_kind,
    }


@torch.inference_mode()
def _by_transformers(reference: Reference, showing: Showing, question: Question) -> list[float]:
    """The log-likelihood for each box, one prompt at a time."""
    shown, answer = showing.show(question), showing.answer_ids(question.record)
    found = []
    full: dict[int, dict[str, torch.Tensor]] = {}
    for place in shown.places:
        assert isinstance(place, Place), place
        opening = shown.openings[place.opening]
        if place.opening not in full:
            assert opening.view is not None
            full[place.opening] = dict(
                reference.processor([opening.view.shown], return_tensors="pt")
            )
        reply = opening.follow[place.follow]()
        crop = reference.processor([reply.picture], return_tensors="pt")
        both = {name: torch.cat([value, crop[name]]) for name, value in full[place.opening].items()}
        ids = torch.tensor(np.concatenate([opening.ids, reply.ids, answer])[None]).long()
        logits = reference.model(
            **reference.inputs(ids, torch.ones_like(ids), []),
            **both,
            use_cache=False,
            logits_to_keep=len(answer) + 1,
        ).logits[0, :-1]
        chosen = logits.log_softmax(-1).gather(1, ids[0, -len(answer) :, None])
        found.append(float(chosen.double().sum()))
    return found


def _print(figures: dict[str, Any]) -> None:
    Console().print(
        f"A record with {figures['boxes']} boxes, answers of {figures['answer_tokens']} tokens: "
        f"{figures['seconds']:.2f} s, transformers {figures['transformers_seconds']:.2f} s, ratio "
        f"{figures['ratio']:.2f}; first call {figures['first_call_seconds']:.0f} s; at most "
        f"{figures['most_apart_a_token']:.1e} a token apart"
    )


if __name__ == "__main__":
    main()
