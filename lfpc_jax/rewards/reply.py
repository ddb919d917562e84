"""A judge's reply: its one word, or what is wrong with it, without the server's words (see
`remote/completion.py`)."""

from lfpc_jax.remote.completion import Completion, Failed, read_completion
from lfpc_jax.remote.request import Reply

_WORDS = {"yes": True, "no": False}


def read_verdict(reply: Reply) -> bool:
    """Yes or no, the only word of the reply; anything else raises `Failed`."""
    completion = read_completion(reply)
    word = completion.content.strip().strip("*.\"'!").casefold()
    if word not in _WORDS:
        raise Failed("neither yes nor no", _instead(completion), alike=False)
    return _WORDS[word]


def _instead(completion: Completion) -> str:
    """What came in place of the word."""
    length = f", but {len(completion.content)} characters"
    if "<think>" in completion.content:
        return f"{length} that begin to think aloud"
    return f"{length}, cut off" if completion.cut_off else length
