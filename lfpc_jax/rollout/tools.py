"""Tools: what a tool must do, and the box that holds the tools of a run.

A tool is one file with a subclass of `Tool`. A call goes through four steps, of which the first two
are cheap and the third may run in any thread while the device decodes:

    read_turn(text)                    -> Call        protocol: the tags and the JSON
    Toolbox.validate(call, frame)      -> Ready       this tool, with these arguments
    Ready.execute(original)            -> Observation the picture to show next
    Ready.tool.render(observation)     -> messages    for `ChatTemplate.encode_after_reply`

Either of the first two may give a `Refusal` instead, and `refuse` makes that the next user turn.

The chat template of Qwen2.5-VL has no branch for tools, so `system_prompt` writes their schemas
into the system text: one JSON a line between `<tools>` tags, as Qwen's text models know it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from lfpc_jax.processing.chat import Message
from lfpc_jax.processing.geometry import Frame
from lfpc_jax.rollout import protocol
from lfpc_jax.rollout.protocol import Call, Refusal
from lfpc_jax.trajectory import Crop

CAUSES = (
    "unknown_tool",
    "bad_arguments",  # a name missing or unknown, or a value of the wrong type
    NO_IMAGE := "no_image",  # a question in text alone
)
"""Why a call that is well-formed may be refused whatever the tool."""

_NEXT_STEP = "Call a tool again, or give your answer."

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, eq=False)
class Observation:
    """What a call gives: a picture as the model will see it, and the crop that it shows, if it is
    one."""

    picture: UInt8[np.ndarray, "height width 3"]
    crop: Crop | None


class Tool(ABC, Generic[Parsed]):
    """A tool without state. `causes` are its own reasons to refuse a call, in addition to those of
    this module. A valid call of a tool that `ends` episodes is the last turn of its episode: it
    gives a crop, and nothing comes back."""

    name: ClassVar[str]
    description: ClassVar[str]
    causes: ClassVar[tuple[str, ...]]
    ends: ClassVar[bool] = False

    @property
    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The arguments as a JSON schema of type object."""

    @abstractmethod
    def validate(self, arguments: Mapping[str, Any], frame: Frame) -> Parsed | Refusal:
        """The arguments of a call as this tool needs them, or what is wrong with them.

        Never raises, whatever the JSON holds; numbers are finite floats. `frame` is that of the
        image that the episode began with.
        """

    @abstractmethod
    def execute(self, parsed: Parsed, original: PIL.Image.Image) -> Observation:
        """Carries out a valid call on the original, opened and passed through `to_rgb`.

        Neither changes the picture nor fails on it.
        """

    def crop(self, parsed: Parsed) -> Crop | None:
        """The crop that a valid call asks for, if its tool gives crops."""
        return None

    @abstractmethod
    def render(self, observation: Observation) -> list[Message]:
        """The turn in which the observation's one picture comes back; see `respond`."""

    @property
    def schema(self) -> dict[str, Any]:
        """All that the model is told of the tool."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Ready(Generic[Parsed]):
    """A call that nothing is wrong with."""

    tool: Tool[Parsed]
    parsed: Parsed

    def execute(self, original: PIL.Image.Image) -> Observation:
        return self.tool.execute(self.parsed, original)


@dataclass(frozen=True)
class Toolbox:
    """The tools of a run, by name. Without any, every call is refused."""

    tools: tuple[Tool[Any], ...]

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError(f"toolbox of {names}: two tools share a name; rename or drop one")

    @property
    def causes(self) -> tuple[str, ...]:
        """Every cause for which a call can be refused, each once. Metrics count them."""
        tools_causes = (cause for tool in self.tools for cause in tool.causes)
        return tuple(dict.fromkeys((*protocol.CAUSES, *CAUSES, *tools_causes)))

    def validate(self, call: Call, frame: Frame) -> Ready[Any] | Refusal:
        """The call, ready to be carried out, or why it cannot be."""
        for tool in self.tools:
            if tool.name == call.name:
                parsed = tool.validate(call.arguments, frame)
                if not isinstance(parsed, Refusal):
                    return Ready(tool, parsed)
                assert parsed.cause in self.causes, (tool.name, parsed)
                return parsed
        known = ", ".join(tool.name for tool in self.tools) or "none"
        return Refusal("unknown_tool", f"there is no tool of that name; the tools are: {known}")


def system_prompt(toolbox: Toolbox) -> str:
    """The system text of an episode: the tools, if any, and how to call and to answer."""
    return system_prompt_of([tool.schema for tool in toolbox.tools])


def system_prompt_of(tools: Sequence[Mapping[str, Any]]) -> str:
    """The same for tools of any origin, by their schemas."""
    how_to_answer = (
        "You may reason first, inside <think></think>. Once you know the answer, end your turn "
        "with it, inside <answer></answer>."
    )
    if not tools:
        return f"Answer the question about the image. {how_to_answer}"
    return (
        "Answer the question about the image. You can look closer before you do.\n\n"
        f"{tools_text(tools)}\n\n"
        f"# Answer\n\n{how_to_answer} Do not call and answer in one turn."
    )


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system text says of tools, by their schemas."""
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        f"# Tools\n\nThese are the tools:\n<tools>\n{schemas}\n</tools>\n\n"
        "To use one, end your turn with a single call, a JSON object of its name and arguments:\n"
        '<tool_call>{"name": <name>, "arguments": <object>}</tool_call>\n'
        "The result comes back inside <tool_response></tool_response>."
    )


def respond(*parts: Message) -> list[Message]:
    """A user turn that holds a tool's response, with the next step below it."""
    opening = {"type": "text", "text": "<tool_response>\n"}
    closing = {"type": "text", "text": f"\n</tool_response>\n{_NEXT_STEP}"}
    return [{"role": "user", "content": [opening, *parts, closing]}]


def refuse(refusal: Refusal) -> list[Message]:
    """The turn that tells the model what was wrong with its call."""
    return respond({"type": "text", "text": f"Refused: {refusal.message}."})
