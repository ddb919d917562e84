"""Openings whose rollouts go on in several ways, each in a row of its own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.data import pictures
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.rollout.dialogue import Opening, ToolReply
from lfpc_jax.rollout.vocabulary import allowed_ids
from support import ported, small
from support.engines import RULES, engine, run
from support.reference import Prompt

pytestmark = pytest.mark.compiles

QUESTIONS = ("Which colour is it?", "blue", "Is the 7 red? Or is it blue, as the 8 is?")
BOXES = (None, (0, 0, 60, 60), (20, 30, 160, 70))


def left_of(record):
    """A record's prompt up to the end of its picture."""
    dialogue = small.dialogue()
    opening = dialogue.open(record)
    end = int(np.flatnonzero(opening.ids == dialogue.tokenizer.image_pad)[-1]) + 2
    return replace(opening, ids=opening.ids[:end], positions=opening.positions[:, :end])


def reply_of(record, question, box):
    """A crop, if there is one, and a question, up to the cue."""
    dialogue = small.dialogue()
    pieces, grids, crop = [], [], None
    if box is not None:
        cut = pictures.original(record.picture).crop(box)
        crop = small.CROPS.resize(cut)
        grids = [small.CROPS.grid_of(crop)]
        pad = "<|image_pad|>" * (grids[0][0] * grids[0][1])
        pieces = [f"<|vision_start|>{pad}<|vision_end|>"]
    text = "".join([*pieces, question, "<|im_end|>\n<|im_start|>assistant\n"])
    return ToolReply(dialogue.tokenizer.encode(text), tuple(grids), crop)


def branching(number, boxes=BOXES, questions=QUESTIONS):
    record = small.record(number)
    replies = [reply_of(record, *each) for each in zip(questions, boxes, strict=True)]
    return replace(left_of(record), follow=tuple((lambda r=reply: r) for reply in replies))


def whole(opening, reply):
    """The same conversation as one ordinary prompt, which can show one picture."""
    assert reply.picture is None
    ids = np.concatenate([opening.ids, reply.ids])
    dialogue = small.dialogue()
    grids = [dialogue.processor.grid_of(opening.view.shown)]
    positions, _ = mrope_positions(ids, grids, dialogue.tokenizer.image_pad)
    return Opening(opening.record, ids, positions, opening.view)


@pytest.fixture(scope="module")
def followed(shared):
    return run(shared, [branching(number) for number in range(6)], 2)


def test_each_follow_has_its_rollouts_in_order(shared, followed):
    assert len(followed) == 6 * 3 * 2
    for (record, rollout), trajectory in followed.items():
        opening = branching(int(record[1:]))
        reply = opening.follow[rollout // 2]()
        begins = [*opening.ids.tolist(), *reply.ids.tolist()]
        assert trajectory.ids[: len(begins)].tolist() == begins
        assert not trajectory.sampled[: len(begins)].any()
        assert trajectory.sampled[len(begins)]
        assert trajectory.turns[0].start == len(begins)
    groups = list(shared.run([branching(0)], rollouts=2, seed=0))
    seen = [len(crops) for crops in groups[0].crops]
    later = [sum(t.crop is not None for t in x.turns) for x in groups[0].trajectories]
    assert [a - b for a, b in zip(seen, later)] == [0, 0, 1, 1, 1, 1]


def test_it_is_the_conversation_as_one_prompt(shared, followed):
    """Ids and log-probabilities, where one picture is in view. An ordinary prompt's rollouts of the
    same numbers draw with the same keys."""
    sampled = 0
    for number in range(6):
        opening = branching(number)
        prompt = whole(opening, opening.follow[0]())
        ordinary = run(shared, [prompt], 2)
        for rollout in range(2):
            a, b = followed[f"r{number}", rollout], ordinary[f"r{number}", rollout]
            np.testing.assert_array_equal(a.ids, b.ids)
            assert (a.turns, a.end, a.answer) == (b.turns, b.end, b.answer)
            for name in ("logprobs", "policy_logprobs"):
                np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-5)
            sampled += int(a.sampled.sum())
    assert sampled > 100


def test_log_probabilities_equal_a_forward_over_both_pictures(shared):
    cfg, tokenizer = small.config(), small.dialogue().tokenizer
    banned = ~allowed_ids(tokenizer, cfg.text.vocab)
    checked = 0
    for group in shared.run([branching(number) for number in range(3)], rollouts=1, seed=0):
        for trajectory, crops in zip(group.trajectories[1:], group.crops[1:]):
            first = trajectory.turns[0]
            ids, shown = trajectory.ids[: first.stop], [group.image, crops[0]]
            tokens, images = ported.arrays([Prompt(ids, shown)], cfg, length=192, windows=8)
            logits, _ = ported.both(small.params(), tokens, images, cfg=cfg)
            logits = jnp.where(jnp.asarray(banned), -jnp.inf, logits[0].astype(jnp.float32))
            wanted = jax.nn.log_softmax(logits, axis=-1)
            at = np.arange(first.start, first.stop)
            np.testing.assert_allclose(
                trajectory.policy_logprobs[at], np.asarray(wanted)[at - 1, ids[at]], atol=1e-5
            )
            checked += len(at)
    assert checked >= 30


@pytest.mark.long
def test_slots_and_chunk_change_nothing(followed):
    """Few slots are filled again and again, in the middle of an opening's follows. A follow longer
    than a piece is written in several."""
    changes_nothing(engine(replace(small.SHAPES, slots=1, chunk=5, observation_text=8)), followed)


@pytest.mark.slow
def test_a_mesh_changes_nothing(followed):
    """The answers alone are compared in `tests/cropvlm/test_local.py`, in less time."""
    shapes = replace(small.SHAPES, slots=8, extend_rows=4, prefill_rows=2)
    mesh = rollout_mesh(1, devices=jax.devices()[:2])
    changes_nothing(engine(shapes, mesh=mesh), followed)


def changes_nothing(other, followed):
    again = run(other, [branching(number) for number in range(3)], 2)
    for name, trajectory in again.items():
        wanted = followed[name]
        np.testing.assert_array_equal(trajectory.ids, wanted.ids, str(name))
        assert (trajectory.turns, trajectory.end) == (wanted.turns, wanted.end)
        np.testing.assert_allclose(trajectory.logprobs, wanted.logprobs, atol=1e-5)
    assert other.stats.prompts == 3
    assert other.stats.rollouts == 18


def test_a_follow_that_does_not_fit_ends_its_episodes_alone(shared, followed):
    long = "Is the 7 red? " * 80
    opening = branching(0, questions=(*QUESTIONS[:2], long))
    fits = run(shared, [opening, branching(1)], 2)
    for rollout in range(6):
        trajectory = fits["r0", rollout]
        if rollout < 4:
            np.testing.assert_array_equal(trajectory.ids, followed["r0", rollout].ids)
            continue
        assert trajectory.end == "context_full"
        assert trajectory.turns == ()
        assert trajectory.answer is None
        np.testing.assert_array_equal(trajectory.ids, opening.ids)
    np.testing.assert_array_equal(fits["r1", 5].ids, followed["r1", 5].ids)


@pytest.mark.slow
def test_a_warm_up_for_follows_leaves_nothing_to_compile():
    """Also where every episode has one turn, which alone would compile nothing for replies. A local
    target's warm-up, in `tests/cropvlm/test_local.py`, shows the same."""
    made = engine(rules=replace(RULES, max_turns=1), fresh=True)
    programs = made.warm_up(follows=True)
    found = run(made, [branching(number) for number in range(4)], 2)
    assert {len(t.turns) for t in found.values()} == {1}
    assert made.slots.programs.late == []
    assert len(made.slots.programs.traces) == programs


def test_a_follow_that_fails_stops_the_run_and_frees_the_slots(shared):
    def fails():
        raise ValueError("the picture is gone")

    opening = branching(0)
    opening = replace(opening, follow=(*opening.follow, fails))
    with pytest.raises(ValueError, match="the picture is gone"):
        run(shared, [opening], 1)
    assert len(run(shared, [branching(0)], 1)) == 3


def test_what_is_skipped_is_told_with_its_reason(shared):
    """The opening itself, since two may have the same record."""
    told = []
    fine, long = branching(0), branching(0)
    ids = np.concatenate([long.ids, np.full(400, long.ids[-1])]).astype(np.int32)
    positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
    long = replace(long, ids=ids, positions=positions)
    groups = shared.run(
        [fine, long], rollouts=1, seed=0, on_skipped=lambda *about: told.append(about)
    )
    assert [group.record.id for group in groups] == ["r0"]
    [(opening, reason)] = told
    assert opening is long
    assert "text tokens of a prompt" in reason
