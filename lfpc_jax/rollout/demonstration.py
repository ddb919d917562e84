"""Episodes whose turns are written and not sampled, in the form that an engine leaves.

They serve supervised fine-tuning. The prompt, crops and replies come from the same dialogue as in a
rollout; only what the model should write is encoded from text. It counts as sampled.
"""

from collections.abc import Sequence

from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.episode import Episode, Rules
from lfpc_jax.trajectory import Group


def demonstrated(
    opening: Opening, turns: Sequence[str], dialogue: Dialogue, rules: Rules, capacity: int
) -> Group:
    """The episode in which the model writes `turns`. It goes on from the opening as the first of
    its `follow` says, if it has any. Raises ValueError for turns that do not make a whole episode
    within the rules."""
    record = opening.record
    episode = Episode(opening, 0, rules, dialogue, capacity)
    if opening.follow and episode.take(opening.follow[0]()) is None:
        raise ValueError(
            f"record {record.id!r}: the prompt of the demonstration does not fit the capacity of "
            f"{capacity}; raise capacity"
        )
    for number, text in enumerate(turns):
        if episode.end is not None:
            raise ValueError(
                f"record {record.id!r}: the demonstration has {len(turns)} turns, but ended "
                f"({episode.end}) after {number}: {turns[number - 1]!r}"
            )
        ids = [*dialogue.tokenizer.encode(text).tolist(), dialogue.tokenizer.im_end]
        if len(ids) > episode.budget:
            raise ValueError(
                f"record {record.id!r}: turn {number} of the demonstration has {len(ids)} tokens "
                f"where {episode.budget} are left; raise turn_tokens, episode_tokens or capacity"
            )
        nothing = [0.0] * len(ids)
        episode.drew(ids, nothing, nothing)
        request = episode.close_turn(stopped=True)
        if request is not None:
            episode.take(dialogue.reply(request, opening, episode.cut))
    if episode.end not in ("answered", "no_action", "proposed"):
        fault = episode.turns[-1].fault if episode.turns else ""
        raise ValueError(
            f"record {record.id!r}: the demonstration's last turn is a call: {turns[-1:]!r}"
            f"{f', refused as {fault}' if fault else ''}; it "
            f"ended with {episode.end or 'another turn to come'}, and should with what the model "
            "is to answer: add that, or raise max_turns, episode_tokens or capacity"
        )
    image = None if opening.view is None else opening.view.shown
    return Group(record, (episode.trajectory(),), image, (tuple(episode.crops),))
