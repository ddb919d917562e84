"""What the engine sampled, replayed in one forward: log-probabilities, and what was changed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.rollout.replay import CLASSES, Replayer, token_classes
from lfpc_jax.rollout.sampling import Sampling
from support import small
from support.engines import RULES, engine, run

pytestmark = pytest.mark.compiles


def test_log_probabilities_equal_a_whole_forward(episodes):
    """Of the sampler's distribution and the policy's, for each class of token."""
    replayer = Replayer(small.config(), small.dialogue(), small.SHAPES, RULES)
    seen = Counter()
    for trajectory in list(episodes.values())[:16]:
        record = small.record(int(trajectory.record[1:]))
        [again] = replayer.replay(small.params(), record, [trajectory])
        assert again.differences == ()
        for name, mask in token_classes(trajectory, small.dialogue()).items():
            seen[name] += int(mask.sum())
        assert max(again.sampler.values()) <= 1e-4
        assert max(again.policy.values()) <= 1e-4
    assert min(seen[name] for name in CLASSES) >= 20


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(Sampling(temperature=0.7, top_k=20), marks=pytest.mark.slow, id="top-k"),
        pytest.param(Sampling(temperature=1.2, top_p=0.8), id="top-p"),
    ],
)
def test_log_probabilities_of_truncated_sampling(how):
    rules = replace(RULES, sampling=how, episode_tokens=20)
    found = run(engine(rules=rules), [small.record(0)], 3)
    replayer = Replayer(small.config(), small.dialogue(), small.SHAPES, rules)
    for again in replayer.replay(small.params(), small.record(0), list(found.values())):
        assert again.differences == ()
        assert max(*again.sampler.values(), *again.policy.values()) <= 1e-4
    for t in found.values():
        assert (t.logprobs[t.sampled] >= t.policy_logprobs[t.sampled] - 1e-5).all()
        assert not np.allclose(t.logprobs, t.policy_logprobs)


def test_a_replay_names_what_was_changed(episodes):
    replayer = Replayer(small.config(), small.dialogue(), small.SHAPES, RULES)
    t = next(t for t in episodes.values() if t.end == "answered" and t.turns[0].crop)
    record = small.record(int(t.record[1:]))

    def differences(trajectory, record=record, **options):
        [found] = replayer.replay(small.params(), record, [trajectory], **options)
        return " ".join(found.differences)

    assert differences(t) == ""
    assert "answer was 'green'" in differences(replace(t, answer="green"))
    assert "end was 'max_turns'" in differences(replace(t, end="max_turns"))
    box = replace(t.turns[0].crop, box=(0.0, 0.0, 1.0, 1.0))
    assert "turn 0 was" in differences(
        replace(t, turns=(replace(t.turns[0], crop=box), *t.turns[1:]))
    )
    assert "begins at" in differences(t, replace(record, question="Another and longer question?"))
    compute = lambda trajectories, record: [{"total": 1.0} for _ in trajectories]  # noqa: E731
    changed = differences(t, rewards=[{"total": 0.5}], compute=compute)
    assert changed == "reward total was 0.5, now 1.0"
    logprobs = t.logprobs.copy()
    logprobs[t.turns[-1].start] += 0.01
    [found] = replayer.replay(small.params(), record, [replace(t, logprobs=logprobs)])
    assert found.sampler["after_crop"] == pytest.approx(0.01, abs=1e-4)
    assert found.sampler["text"] <= 1e-4
