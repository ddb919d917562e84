"""What an episode may sample: in a turn, over its turns, and in the context."""

import pytest

from lfpc_jax.rollout.dialogue import ToolReply
from lfpc_jax.rollout.episode import Episode, Rules
from support import small

CALL = small.HEAD + "2, 3.5, 60, 50]}}</tool_call>"


def begun(rules: Rules, capacity: int = 1000) -> Episode:
    made = small.dialogue()
    return Episode(made.open(small.record(0)), 0, rules, made, capacity)


def call(episode: Episode, thoughts: int) -> ToolReply | None:
    """A turn of so many tokens before its call of five, and what comes back."""
    encode = episode.dialogue.tokenizer.encode
    ids = [encode("thinking").item()] * thoughts + encode(CALL).tolist()
    assert len(ids) == thoughts + 5
    episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
    request = episode.close_turn(stopped=True)
    if request is None:
        return None
    return episode.dialogue.reply(request, episode.opening, episode.cut)


def think(episode: Episode) -> None:
    """As much as the episode has left, without an end."""
    ids = episode.dialogue.tokenizer.encode("thinking").tolist() * episode.budget
    episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
    assert episode.budget == 0
    assert episode.close_turn(stopped=False) is None


def test_every_turn_has_the_whole_limit_of_a_turn():
    episode = begun(Rules(turn_tokens=40))
    assert episode.budget == 40
    for turn in range(1, 4):
        reply = call(episode, thoughts=33)  # 38 of 40
        assert episode.take(reply) is not None
        assert (episode.spent, episode.budget) == (38 * turn, 40)
    think(episode)
    assert (episode.end, episode.spent) == ("max_tokens", 3 * 38 + 40)
    assert [turn.stop - turn.start for turn in episode.turns] == [38, 38, 38, 40]


def test_the_episode_s_own_limit_counts_over_its_turns():
    episode = begun(Rules(turn_tokens=40, episode_tokens=50))
    assert episode.budget == 40
    assert episode.take(call(episode, thoughts=33)) is not None
    assert episode.budget == 12
    think(episode)
    assert (episode.end, episode.spent) == ("max_tokens", 50)


def test_a_call_with_the_last_token_of_an_episode_is_its_end_and_of_a_turn_is_not():
    episode = begun(Rules(turn_tokens=10, episode_tokens=10))
    assert call(episode, thoughts=5) is None
    assert episode.end == "max_tokens"
    episode = begun(Rules(turn_tokens=10))
    assert episode.take(call(episode, thoughts=5)) is not None
    assert episode.end is None


@pytest.mark.parametrize("rules", [Rules(turn_tokens=40), Rules(turn_tokens=40, episode_tokens=90)])
def test_the_context_is_the_limit_of_what_neither_ends(rules):
    prompt = len(begun(rules).ids)
    episode = begun(rules, capacity=prompt + 7)
    assert episode.budget == 7
    think(episode)
    assert episode.end == "context_full"
    assert len(episode.ids) == prompt + 7


def test_limits_that_allow_nothing_are_refused():
    for wrong in ({"turn_tokens": 0}, {"episode_tokens": -1}, {"max_turns": 0}):
        with pytest.raises(ValueError, match="at least"):
            Rules(**wrong)
