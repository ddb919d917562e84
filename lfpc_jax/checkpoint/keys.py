"""The two ways in which Qwen2.5-VL folders name their tensors, and what a round trip must keep.

The parameter spec names tensors as the published files do ("old"). Folders saved by some versions
of transformers prefix differently ("new"):

    old  visual.*        model.embed_tokens|layers|norm.*                  lm_head.weight
    new  model.visual.*  model.language_model.embed_tokens|layers|norm.*   lm_head.weight
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Layout = Literal["old", "new"]

_DTYPES = ("bfloat16", "float16", "float32")

EMBEDDING = "model.embed_tokens.weight"
UNEMBEDDING = "lm_head.weight"
_NEW_TO_OLD = {"model.visual.": "visual.", "model.language_model.": "model."}
_OLD_TO_NEW = {"visual.": "model.visual.", "model.": "model.language_model."}


def canonical(key: str) -> str:
    """The old name of a key of either layout; an unknown key is returned unchanged."""
    return _exchange(key, _NEW_TO_OLD)


def spelled(name: str, layout: Layout) -> str:
    """A canonical name as a folder of this layout spells it."""
    return name if layout == "old" else _exchange(name, _OLD_TO_NEW)


def is_new(key: str) -> bool:
    return canonical(key) != key


def _exchange(key: str, prefixes: dict[str, str]) -> str:
    for theirs, ours in prefixes.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


@dataclass(frozen=True)
class Origin:
    """How a Hugging Face folder stores its tensors, so that an export can do the same.

    `dtypes` are those of its tensors, sorted. `repeats_embedding` is whether the folder of a tied
    model has the embedding a second time, as `lm_head.weight`.
    """

    dtypes: tuple[str, ...]
    layout: Layout = "old"
    repeats_embedding: bool = False

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Origin":
        """Raises ValueError, or what reading a value of another shape raises."""
        origin = cls(**{**raw, "dtypes": tuple(raw["dtypes"])})
        dtypes = bool(origin.dtypes) and all(name in _DTYPES for name in origin.dtypes)
        known = origin.layout in get_args(Layout) and isinstance(origin.repeats_embedding, bool)
        if not (dtypes and known):
            raise ValueError(f"no names of dtypes, layout and repeated embedding: {raw!r:.120}")
        return origin
