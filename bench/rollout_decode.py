"""Decode alone, for `rollout.py`: tokens a second of the engine's own programs.

Rows begin from prompts whose keys and values are random, and no turn stops. All steps run in one
call. An engine with copies of its prompts copies the rows once a call, outside of the steps; with
many steps that costs little.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rollout_reference import Reference
from rollout_world import World, as_configured

from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.items import Beginning, LiveRow
from lfpc_jax.rollout.programs import Drawn
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.slots import Slots
from lfpc_jax.shapes import Buckets, RolloutShapes

LEAST_SAME = 0.8
"""The share of rows that must draw the same ids with and without copies."""


@dataclass(frozen=True)
class Case:
    """`rows` rows, of which each `members` continue one prompt of so many ids, for `steps`."""

    rows: int
    members: int
    prompt: int
    steps: int

    @classmethod
    def parsed(cls, text: str, steps: int) -> "Case":
        """From `ROWS/MEMBERS/PROMPT`."""
        return cls(*map(int, text.split("/")), steps)

    @property
    def shapes(self) -> RolloutShapes:
        """Prompts fill their rows. The capacity is such that a bucket of spans ends at the length
        of a prompt, so an engine with copies reads nothing in vain either."""
        text = min(self.prompt // 2, 64)
        shapes = RolloutShapes(
            slots=self.rows,
            chunk=self.steps,
            capacity=2 * max(self.prompt, self.steps),
            image_tokens=self.prompt - text,
            crop_tokens=16,
            prompt_text=Buckets((text,)),
        )
        return replace(as_configured(shapes, Rules(), self.members), own=self.steps)


def decoder(world: World, case: Case, *, copies: bool = False) -> Slots:
    vocabulary = world.cfg.text.vocab
    slots = Slots(
        world.cfg,
        case.shapes,
        Sampling(),
        stops=np.ones((2, vocabulary), np.uint8),
        allowed=np.ones(vocabulary, bool),
        processor=world.dialogue.processor,
        unstacked=tuning().unstacked,
        copies=copies,
    )
    slots.load(world.params)
    return slots


def decoded(slots: Slots, case: Case, seed: int) -> tuple[float, Drawn]:
    """The seconds of one call, and what it drew."""
    with slots.allocated():
        state = slots._state
        assert state is not None
        arrays, structure = jax.tree.flatten((state.prompts.k, state.prompts.v))
        keys = jax.random.split(jax.random.key(seed), len(arrays))
        k, v = structure.unflatten([_normal(key, x) for key, x in zip(keys, arrays)])
        length = jnp.full_like(state.prompts.length, case.prompt)
        slots._state = replace(state, prompts=replace(state.prompts, k=k, v=v, length=length))
        prompt_of = [row // case.members for row in range(case.rows)]
        slots.begin(
            [
                Beginning(row, prompt, 5, case.prompt, 10**6, np.array([seed, row], np.uint32))
                for row, prompt in enumerate(prompt_of)
            ]
        )
        written = case.prompt if slots.copies else 0
        live = [LiveRow(row, prompt, written) for row, prompt in enumerate(prompt_of)]
        jax.block_until_ready(slots._state)
        start = time.perf_counter()
        _, drawn = slots.decode(live)
        seconds = time.perf_counter() - start
    assert (drawn.numbers == case.steps).all(), drawn.numbers
    return seconds, drawn


@jax.jit
def _normal(key: jax.Array, x: jax.Array) -> jax.Array:
    return (0.3 * jax.random.normal(key, x.shape)).astype(x.dtype)


def against_copies(world: World, case: Case, repeats: int) -> dict[str, Any]:
    """The engine against itself with a copy of its prompt in every row, alternating. Both draw the
    same ids until a random number falls on the edge between two tokens, where rounding decides; so
    few rows may differ."""
    shared, copied = decoder(world, case), decoder(world, case, copies=True)
    seconds: list[tuple[float, float]] = []
    same: list[float] = []
    for repeat in range(repeats + 1):
        (ours, drawn), (theirs, wanted) = (decoded(s, case, repeat) for s in (shared, copied))
        same.append(float((drawn.ids == wanted.ids).all(axis=0).mean()))
        assert same[-1] >= LEAST_SAME, same
        if repeat:  # the first compiles
            seconds.append((ours, theirs))
    tokens = case.rows * case.steps
    return {
        "rows": case.rows,
        "members": case.members,
        "prompt": case.prompt,
        "tokens_per_second": statistics.median(tokens / ours for ours, _ in seconds),
        "copies_tokens_per_second": statistics.median(tokens / theirs for _, theirs in seconds),
        "ratio": statistics.median(theirs / ours for ours, theirs in seconds),
        "same_rows": statistics.mean(same),
    }


def against_transformers(
    world: World, reference: Reference, case: Case, repeats: int
) -> dict[str, Any]:
    """The engine against transformers' `generate` without sampling's stops, whose prefill is
    measured by itself and left out."""
    slots, tokens = decoder(world, case), case.rows * case.steps
    ids = torch.randint(0, 256, (case.rows, case.prompt)).tolist()
    ours, theirs = [], []
    for repeat in range(repeats + 1):
        seconds, _ = decoded(slots, case, repeat)
        if repeat:  # the first compiles
            ours.append(tokens / seconds)
            long = _generated(reference, ids, case.steps + 1)
            short = _generated(reference, ids, 1)
            theirs.append(tokens / (long - short))
    return {
        "rows": case.rows,
        "tokens_per_second": statistics.median(ours),
        "transformers_tokens_per_second": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
    }


def _generated(reference: Reference, ids: Sequence[Sequence[int]], new: int) -> float:
    none: list[list] = [[] for _ in ids]
    start = time.perf_counter()
    reference.generate(ids, none, new, min_new_tokens=new, eos_token_id=None)
    return time.perf_counter() - start
