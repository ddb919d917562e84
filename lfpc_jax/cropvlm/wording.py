"""How a question is put to a crop network and to a target model."""

from lfpc_jax.rollout.dialogue import listed
from lfpc_jax.trajectory import Record


def asked(record: Record) -> str:
    """The question with its first letter in upper case, and its options by letter if it has some.

    The authors' code also lowers all other letters, which changes names; here they stay."""
    return capitalised(listed(record))


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
