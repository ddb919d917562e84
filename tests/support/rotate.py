"""A second tool, for the tests: this one file is all that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import PIL.Image

from lfpc_jax.processing.chat import Message
from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.protocol import Refusal
from lfpc_jax.rollout.tools import Observation, Tool, respond


@dataclass(frozen=True)
class Rotate(Tool[int]):
    """Turns the whole picture by quarters, against the clock."""

    processor: ImageProcessor

    name: ClassVar[str] = "image_rotate_tool"
    description: ClassVar[str] = "Turns the image by quarters."
    causes: ClassVar[tuple[str, ...]] = ("no_quarter",)

    @property
    def parameters(self) -> dict[str, Any]:
        quarters = {"type": "integer", "enum": [1, 2, 3]}
        return {"type": "object", "properties": {"quarters": quarters}, "required": ["quarters"]}

    def validate(self, arguments: Mapping[str, Any], frame: Frame) -> int | Refusal:
        if set(arguments) != {"quarters"} or arguments["quarters"] not in (1.0, 2.0, 3.0):
            return Refusal("no_quarter", "quarters must be 1, 2 or 3")
        return int(arguments["quarters"])

    def execute(self, parsed: int, original: PIL.Image.Image) -> Observation:
        turned = original.rotate(90 * parsed, expand=True)
        return Observation(self.processor.resize(turned), crop=None)

    def render(self, observation: Observation) -> list[Message]:
        return respond({"type": "image"})
