"""A chat server that is asked about pictures, and the target that asks it."""

import base64
import io
from contextlib import contextmanager

import numpy as np
import PIL.Image

from lfpc_jax.cropvlm.remote import RemoteTarget
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.target import Question
from lfpc_jax.remote.client import Patience
from lfpc_jax.trajectory import Picture, Record
from support.judge_server import JudgeServer

PATIENCE = {
    "concurrent": 16, "attempts": 3, "first_wait": 0.01, "reply_seconds": 8.0, "batch_seconds": 20.0
}  # fmt: skip


class TargetServer(JudgeServer):
    def asked(self, body):
        """The pictures of a request's one turn, decoded, and its text."""
        (message,) = body["messages"]
        assert message["role"] == "user"
        *images, text = message["content"]
        assert all(part["type"] == "image_url" for part in images)
        assert text["type"] == "text"
        return [decoded(part["image_url"]["url"]) for part in images], text["text"]


def decoded(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64", head
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def settings(url, cache, patience=None, **changes):
    patient = Patience(**(PATIENCE | (patience or {})))
    return TargetSettings(url=url, model="seer-1", cache=str(cache), patience=patient, **changes)


@contextmanager
def asking(behave, cache, patience=None, **changes):
    """A server and the target that asks it."""
    with TargetServer(behave) as server:
        yield RemoteTarget(settings(server.url, cache, patience, **changes)), server


def picture(size=(200, 100), seed=0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return Picture(data=file.getvalue())


def record(name="r", question="what does the sign say?", size=(200, 100), seed=0, **changes):
    return Record(name, question, "exit", picture(size, seed), **changes)


def boxes(count):
    """Different boxes of a picture of 200 x 100."""
    return tuple((float(n % 10 * 10), float(n // 10), 150.0, 90.0) for n in range(count))


def ask(target, *questions, seed=0):
    return list(target.answers([Question(*each) for each in questions], seed=seed))
