"""The engine against transformers on the same weights: greedy text, and whole conversations."""

import numpy as np
import pytest
import torch

from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.trajectory import Picture
from support import small
from support.engines import engine
from support.small_torch import banned, inputs, theirs

pytestmark = pytest.mark.compiles


@pytest.mark.parametrize("pictured", [True, False], ids=["image", "text"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_text_equals_generate(seed, pictured):
    rules = Rules(max_turns=1, turn_tokens=32, sampling=Sampling(temperature=0.0))
    made = engine(rules=rules, params=small.params(seed, push=0.0))
    records = [small.record(i) for i in range(4)]
    if not pictured:
        records = [small.record(i, picture=Picture()) for i in range(4)]
    lengths = []
    for group in made.run(records, rollouts=1, seed=0):
        [found] = group.trajectories
        start = found.turns[0].start
        pictures = [] if group.image is None else [group.image]
        out = theirs(seed, 0.0).generate(
            **inputs(found.ids[:start], pictures),
            do_sample=False,
            max_new_tokens=32,
            suppress_tokens=np.flatnonzero(banned()).tolist(),
            eos_token_id=[small.dialogue().tokenizer.im_end, small.dialogue().tokenizer.endoftext],
        )
        wanted = out[0, start:].numpy()
        np.testing.assert_array_equal(found.ids[start:], wanted[: len(found.ids) - start])
        lengths.append(len(found.ids) - start)
        assert len(wanted) == lengths[-1] or found.turns[0].text.endswith("</tool_call>")
    assert max(lengths) >= 10


def test_log_probabilities_of_whole_conversations():
    """Crops, refusals and all: transformers' forward over the recorded ids and pictures."""
    rules = Rules(episode_tokens=60)
    made = engine(rules=rules)
    after_crops = 0
    for group in made.run([small.record(i) for i in range(6)], rollouts=2, seed=0):
        for found, crops in zip(group.trajectories, group.crops):
            with torch.no_grad():
                made_by = theirs(0, 12.0)(
                    **inputs(found.ids, [group.image, *crops]), use_cache=False
                )
            logits = made_by.logits[0].double()
            logits[:, torch.tensor(banned())] = -torch.inf
            logprobs = torch.log_softmax(logits, -1).numpy()
            at = np.flatnonzero(found.sampled)
            wanted = logprobs[at - 1, found.ids[at]]
            np.testing.assert_allclose(found.policy_logprobs[at], wanted, atol=1e-4)
            np.testing.assert_allclose(found.logprobs[at], wanted, atol=1e-4)
            after_crops += len(crops)
    assert after_crops >= 4
