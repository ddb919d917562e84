"""A server over the small model, in a thread of this process."""

import base64
import contextlib
import io
import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace

import numpy as np
import PIL.Image

from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.serve.app import Service
from lfpc_jax.serve.limits import Limits
from lfpc_jax.serve.metrics import Metrics
from lfpc_jax.serve.pictures import Allowed
from lfpc_jax.serve.reader import Reader
from lfpc_jax.serve.serving import bound, serve
from lfpc_jax.serve.site import Site
from lfpc_jax.serve.worker import Worker
from lfpc_jax.shapes import Buckets
from support import small
from support.engines import engine

MODELS = {"small": False, "small:look": True}
RULES = Rules(turn_tokens=60, episode_tokens=80, sampling=Sampling(0.0))


def warmed(**changes):
    """An engine as a server has it."""
    longer = Buckets((96,))  # for the questions of the page's examples
    shapes = replace(small.SHAPES, members=1, kept=4, own=200, prompt_text=longer, **changes)
    made = engine(shapes, RULES, fresh=True)
    made.warm_up(requests=True)
    return made


@dataclass
class Served:
    service: Service
    port: int
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, body=None, path="/v1/chat/completions", headers=None, raw=None, method=None):
        """The status, headers and body of a reply."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        told = {"content-type": "application/json", **(headers or {})}
        asked = urllib.request.Request(self.url + path, data, told, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=60) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def refused(self, body=None, **how):
        """The status and the error of a request that is refused."""
        status, _, text = self.ask(body, **how)
        return status, json.loads(text)["error"]

    def waits_until(self, condition, seconds=20.0):
        over = threading.Event()
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            over.wait(0.02)
        raise AssertionError("it did not come")


@contextlib.contextmanager
def served(
    made, *, key="", hosts=(), queue=16, limits=None, allowed=None, world="micro", site=None
):
    limits = limits or Limits()
    allowed = allowed or Allowed(limits.pixels, limits.body_bytes)
    worker = Worker(made, queue)
    reader = Reader(made.dialogue, small.CROPS, RULES, made.shapes, MODELS, allowed)
    about = {"model": "small:look"}
    service = Service(
        "small",
        reader,
        worker,
        Metrics(worker, "0"),
        limits,
        site or Site(world, about),
        key,
        hosts,
    )
    listening = bound("127.0.0.1", 0)
    listening.listen(100)  # so that who comes before it serves is not refused
    one = Served(service, listening.getsockname()[1])
    thread = threading.Thread(target=serve, args=(service, listening, one.stop))
    thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def held(made):
    """Decodes wait until the gate is opened."""
    gate, turn = threading.Event(), made.slots.decode
    made.slots.decode = lambda *args: (gate.wait(30), turn(*args))[1]
    try:
        yield gate
    finally:
        gate.set()
        made.slots.decode = turn


def png(width=160, height=120, seed=0) -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def data_url(contents: bytes, kind="image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def message(text, *pictures):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
