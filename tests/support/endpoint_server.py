"""A chat server whose model is one of `rigged`: a few lines of Python that see a request."""

import json
import threading
from types import SimpleNamespace

from lfpc_jax.processing.geometry import Frame
from lfpc_jax.remote.client import Patience
from support.judge_server import JudgeServer, raw
from support.target_server import decoded

END = "</tool_call>"
USUAL = Patience(concurrent=4, attempts=3, first_wait=0.01, reply_seconds=20.0, batch_seconds=120.0)


def stopped(text):
    """As OpenAI has it: without the stop string, and without a word on what ended the turn."""
    return {"message": {"content": text.removesuffix(END)}, "finish_reason": "stop"}


def told(text):
    """As vLLM does."""
    return stopped(text) | {"stop_reason": END if text.endswith(END) else None}


def parsed(text):
    """As a server does that reads calls itself."""
    if not text.endswith(END):
        return stopped(text)
    content, _, call = text.removesuffix(END).partition("<tool_call>")
    call = json.loads(call)
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    message = {"content": content, "tool_calls": [{"type": "function", "function": function}]}
    return {"message": message, "finish_reason": "tool_calls"}


def heedless(text):
    """As one that knows no stop strings, and writes special tokens out."""
    more = "<tool_call>more" if text.endswith(END) else "<|im_end|>"
    return {"message": {"content": text + more}, "finish_reason": "stop"}


class EndpointServer(JudgeServer):
    """`say` is one of the models of `rigged`, `shape` how its turns are sent, and `before(index)`
    what is done in place of an answer to the request of that index, if it returns something."""

    def __init__(self, say, records, dialogue, shape=stopped, before=lambda index: None):
        super().__init__(self._behave)
        self._say, self._shape, self._before = say, shape, before
        self._known = {
            dialogue.look(record).shown.tobytes(): (record, dialogue.look(record).original.size)
            for record in records
        }
        self.seeds = set()
        self.counted = threading.Lock()

    def asked(self, body):
        return body

    def _behave(self, index, body):
        if (instead := self._before(index)) is not None:
            return instead
        self.seeds.add(body["seed"])
        choice = self._shape(self._say(self._episode(body["messages"])))
        return raw(json.dumps({"choices": [choice]}).encode())

    def _episode(self, messages):
        system, *rest = messages
        parts = [part for m in rest if isinstance(m["content"], list) for part in m["content"]]
        shown, *crops = [
            decoded(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"
        ]
        record, (width, height) = self._known[shown.tobytes()]
        view = SimpleNamespace(
            shown=shown,
            original=SimpleNamespace(width=width, height=height),
            frame=Frame((width, height), shown.shape[1::-1]),
        )
        tools = ["zoom"] if "image_zoom_in_tool" in system["content"] else []
        return SimpleNamespace(
            opening=SimpleNamespace(record=record, view=view),
            dialogue=SimpleNamespace(toolbox=SimpleNamespace(tools=tools)),
            turns=[m for m in rest if m["role"] == "assistant"],
            crops=crops,
        )
