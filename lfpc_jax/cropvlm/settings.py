"""The settings of a target model, and how it is shown a picture and a crop of it."""

from dataclasses import dataclass, field
from typing import Literal

from lfpc_jax.remote.client import Patience

Presentation = Literal["both", "crop", "image", "zoom"]
"""`both`: the full image and the crop in one turn, as published. `crop`: the crop alone. `image`:
the full image alone. `zoom`: the conversation of the zoom tool, as if the target had called it."""


@dataclass(frozen=True)
class TargetSettings:
    """A frozen model that answers with a crop network's box in view: a local one by its `path`
    (named as `ModelSettings.path` is), or a remote one by the `url` of an OpenAI-compatible server
    and the name of its `model`.

    `image_tokens` and `crop_tokens` are the budgets of the two pictures, whatever the crop network
    sees. For a server a token is 28 x 28 pixels, as for Qwen2.5-VL. An answer has at most
    `answer_tokens`.

    A server's answers are kept in the folder `cache`. `key_variable` names the environment variable
    that holds its API key; empty for none. `patience` says how it is asked. Its `batch_seconds` are
    for 256 answers, or a step with fewer.
    """

    path: str = ""
    url: str = ""
    model: str = ""
    presentation: Presentation = "both"
    image_tokens: int = 324
    crop_tokens: int = 324
    answer_tokens: int = 32
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    slots: int = 64
    cache: str = ""
    key_variable: str = ""
    patience: Patience = field(default_factory=Patience)
