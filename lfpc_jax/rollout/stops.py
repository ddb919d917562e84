"""Where a turn ends, decided on the device, token by token.

A stop string may be spelled by many token sequences, and its last letters may share a token with
what follows. So the strings are compiled into one automaton over bytes, and that into a table over
tokens: `table[state, token]` is the state after the token's bytes. State `DONE` means that a stop
string was completed; it is never left. A stop token ends the turn whatever was written before.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

DONE = 0
START = 1


def stop_table(
    vocabulary: Sequence[bytes], strings: Sequence[str], tokens: Sequence[int]
) -> UInt8[np.ndarray, "states V"]:
    """The table for a vocabulary given as each token's bytes, none for ids that write nothing."""
    moves = _automaton([string.encode() for string in strings])
    states = len(moves)
    table = np.repeat(np.arange(states, dtype=np.uint8)[:, None], len(vocabulary), axis=1)
    lengths = np.array([len(word) for word in vocabulary])
    order = np.argsort(-lengths, kind="stable")
    text = np.frombuffer(b"".join(vocabulary), np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    for place in range(lengths.max(initial=0)):
        longer = order[: np.searchsorted(-lengths[order], -place, side="left")]
        table[:, longer] = moves[table[:, longer], text[starts[longer] + place]]
    table[:, list(tokens)] = DONE
    return table


def completes(table: UInt8[np.ndarray, "states V"], ids: Sequence[int]) -> bool:
    """Whether a turn of these ids has stopped."""
    state = START
    for token in ids:
        state = int(table[state, token])
    return state == DONE


def _automaton(strings: Sequence[bytes]) -> UInt8[np.ndarray, "states 256"]:
    """Aho and Corasick's: a state is the longest end of what was read that begins some string."""
    if not all(strings):
        raise ValueError(f"stop strings {list(strings)!r}: an empty one would stop at once")
    prefixes = {b""} | {word[:n] for word in strings for n in range(1, len(word))}
    if len(prefixes) > 254:
        raise ValueError(
            f"stop strings {list(strings)!r} need {len(prefixes)} states, at most 254; "
            "take fewer or shorter ones"
        )
    number = {
        prefix: START + i for i, prefix in enumerate(sorted(prefixes, key=lambda p: (len(p), p)))
    }
    moves = np.full((len(number) + 1, 256), DONE, np.uint8)
    for prefix, state in number.items():
        for byte in range(256):
            read = prefix + bytes([byte])
            if not any(read.endswith(word) for word in strings):
                ends = (read[i:] for i in range(len(read) + 1))
                moves[state, byte] = number[next(end for end in ends if end in number)]
    return moves
