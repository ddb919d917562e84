"""Requests as they come: each is answered as if it were alone, and one that is given up leaves its
slots to others."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.requests import Request, RequestRun
from lfpc_jax.rollout.sampling import Sampling, sample
from lfpc_jax.rollout.sampling_rows import RowSampling, sample_rows
from support import small
from support.engines import RULES, engine, run, same

pytestmark = pytest.mark.compiles

SAMPLINGS = (
    Sampling(0.0), Sampling(1.0), Sampling(0.7), Sampling(1.3, top_k=5), Sampling(1.0, top_p=0.6),
    Sampling(0.9, top_k=7, top_p=0.8), Sampling(0.5, top_k=5000),
)  # fmt: skip


def test_rows_with_samplings_of_their_own_draw_what_each_alone_draws():
    rng = np.random.default_rng(0)
    together, alone = jax.jit(sample_rows), jax.jit(sample, static_argnames="sampling")
    logits = jnp.asarray(3 * rng.standard_normal((len(SAMPLINGS), 700)), jnp.float32)
    allowed = jnp.asarray(rng.random(700) > 0.1)
    for trial in range(20):
        uniform = jnp.asarray(rng.random(len(SAMPLINGS)), jnp.float32)
        found = together(logits, uniform, allowed=allowed, sampling=RowSampling.of(SAMPLINGS))
        for row, sampling in enumerate(SAMPLINGS):
            one = slice(row, row + 1)
            wanted = alone(logits[one], uniform[one], allowed=allowed, sampling=sampling)
            assert found[0][row] == wanted[0][0], (trial, sampling)
            for values, want in zip(found[1:], wanted[1:]):
                assert abs(float(values[row] - want[0])) < 1e-5, (trial, sampling)


def test_rows_that_truncate_nothing_are_not_truncated():
    logits = jnp.zeros((2, 300))
    none = RowSampling.of([Sampling(1.0), Sampling(0.0)])
    tokens, *_ = jax.jit(sample_rows)(
        logits, jnp.asarray([0.999, 0.5]), allowed=jnp.ones(300, bool), sampling=none
    )
    assert tokens.tolist() == [299, 0]


class Asked:
    """A run that is asked, and what came of it."""

    def __init__(self, made):
        self.made, self.ended, self.skipped, self.told = made, {}, {}, 0
        self.run = RequestRun(made, on_episode=self.episode, on_skipped=self.skip)

    def episode(self, request, episode):
        self.told += 1
        if episode.end is not None:
            self.ended[episode.opening.record.id, episode.rollout] = episode.trajectory()

    def skip(self, request, reason):
        self.skipped[request.opening.record.id] = reason

    def ask(self, number, rules=RULES, seed=3, rollouts=2):
        dialogue = self.made.dialogue
        request = Request(dialogue.open(small.record(number)), seed, rules, dialogue, rollouts)
        self.run.add(request)
        return request


@pytest.fixture(scope="module")
def made():
    return engine()


def test_requests_with_rules_of_their_own_give_what_the_engine_gives(made):
    records = [small.record(n) for n in range(4)]
    wanted = run(made, records, 2, seed=3)
    cold = {n: t for n, t in run(made, records[:2], 1, sampling=Sampling(0.0)).items()}
    asked = Asked(made)
    with asked.run:
        requests = [asked.ask(n) for n in (0, 1)]
        for _ in range(3):
            asked.run.turn()
        requests += [asked.ask(n) for n in (2, 3)]
        while not asked.run.idle:
            asked.run.turn()
        same(asked.ended, wanted)
        asked.ended.clear()
        asked.ask(0, replace(RULES, sampling=Sampling(0.0)), rollouts=1)
        short = Rules(max_turns=1, turn_tokens=5, sampling=Sampling(0.0))
        asked.ask(1, short, rollouts=1)
        while not asked.run.idle:
            asked.run.turn()
        assert not asked.run.requests
    same({("r0", 0): asked.ended["r0", 0]}, {("r0", 0): cold["r0", 0]})
    cut = asked.ended["r1", 0]
    assert cut.sampled.sum() <= 5
    whole = cold["r1", 0]
    np.testing.assert_array_equal(cut.ids, whole.ids[: len(cut.ids)])


def test_what_is_given_up_frees_its_slots_and_changes_no_neighbour(made):
    """Given up in every phase: not begun, opening, decoding, waiting for a crop."""
    wanted = run(made, [small.record(0)], 2, seed=3)
    for turns in range(12):
        asked = Asked(made)
        with asked.run:
            given_up = [asked.ask(n) for n in (1, 2, 3, 4)]
            for _ in range(turns):
                asked.run.turn()
            asked.ask(0)
            for request in given_up:
                asked.run.give_up(request)
                asked.run.give_up(request)  # which may be said twice
            assert asked.run.running == 0
            before = set(asked.ended)
            while not asked.run.idle:
                asked.run.turn()
            assert set(asked.ended) - before == set(wanted)
            assert len(asked.run._scheduler.free_prompts) == small.SHAPES.slots
            assert not asked.run._scheduler.groups_left
        same({name: asked.ended[name] for name in wanted}, wanted)


def test_a_row_that_was_given_up_does_not_decode_on(made):
    """Where rows are decoded in place, all are, so the device must know."""
    asked = Asked(made)
    with asked.run:
        request = asked.ask(1)
        while not asked.told:
            asked.run.turn()
        asked.run.give_up(request)
        budgets = jax.device_get(made.slots._state.rows.budget)
    assert not budgets.any()


def test_what_cannot_be_shown_is_told_and_forgotten(made):
    asked = Asked(made)
    with asked.run:
        dialogue = made.dialogue
        long = replace(small.record(0), question="Which " * 200)
        asked.run.add(Request(dialogue.open(long), 0, RULES, dialogue))
        asked.ask(1)
        while not asked.run.idle:
            asked.run.turn()
        assert "bucket" in asked.skipped["r0"]
        assert ("r1", 1) in asked.ended
        assert made.stats.skipped == []
