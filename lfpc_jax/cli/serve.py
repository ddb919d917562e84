"""A model as an OpenAI-compatible server over the rollout engine, and a page to try it.

    lfpc serve --model DIR [--port 8000]

DIR is a Hugging Face folder or a name on the Hub, a folder that lfpc convert wrote, or a training
run. Clients ask it as NAME, or as NAME:look to have the server run the crop loop; docs/serving.md
has all of it.
"""

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax

from lfpc_jax import stopping
from lfpc_jax.cli import asking_flags, command, revision_flag
from lfpc_jax.cli.parsers.serve import parser
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.distributed.processes import keep_programs
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.preparing import Rest
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.sizing import CHUNK, together
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.run import progress
from lfpc_jax.run.dialogues import after_prompt, dialogue_as
from lfpc_jax.run.models import load_model
from lfpc_jax.serve.app import Service
from lfpc_jax.serve.limits import Limits
from lfpc_jax.serve.metrics import Metrics
from lfpc_jax.serve.pictures import Allowed
from lfpc_jax.serve.reader import Reader
from lfpc_jax.serve.serving import bound
from lfpc_jax.serve.serving import serve as serve_until_told
from lfpc_jax.serve.site import Site
from lfpc_jax.serve.worker import Worker
from lfpc_jax.shapes import Buckets, RolloutShapes, geometric

LOOKS = ":look"
"""What the name of the mode ends in that runs the crop loop."""
_MICRO = 256
"""The width below which a model is taken to be of the small world."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(serve, args))


def serve(args: argparse.Namespace) -> int:
    args.model = revision_flag.named(args.model, args.revision)
    key = os.environ.get(args.key_variable, "").strip()
    hosts = () if key else _names_of_this_machine(args)
    if args.allow_files is not None and not args.allow_files.is_dir():
        raise ValueError(f"--allow-files {args.allow_files}: is no folder; name one that is there")
    with bound(args.host, args.port) as listening:  # before the model loads, which takes long
        _keep_programs(args.cache)
        engine = engine_of(args)
        with progress.waiting("compiling"):
            rest = engine.start()
        service = service_of(engine, args, key, hosts, rest)
        host, port = listening.getsockname()[:2]
        at = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        listening.listen()  # who reads the next line may ask at once
        print(f"serving {service.name} at {at}/v1, with a page at {at}/", flush=True)
        stopping.patient("requests in hand may end; a second Ctrl-C stops at once")
        cut_off = serve_until_told(service, listening)
    print(f"stopped; {cut_off} requests were cut off", flush=True)
    return 0


def engine_of(args: argparse.Namespace) -> Engine:
    """The model, loaded into an engine that has compiled nothing yet."""
    args = asking_flags.resolved(args, args.model)
    mesh = rollout_mesh(args.tensor, devices=jax.local_devices())
    model = load_model(args.model, dtype=args.dtype, mesh=mesh)
    asking = Asking(**{field.name: getattr(args, field.name) for field in fields(Asking)})
    sampling = Sampling(temperature=args.temperature)
    rules = Rules(args.max_turns, args.turn_tokens, args.episode_tokens, sampling)
    shapes = shapes_of(asking, rules, args, model.cfg.vision.window, mesh.shape["data"])
    engine = Engine(model.cfg, dialogue_as(asking, model.assets), shapes, rules, mesh=mesh)
    engine.load(model.params)
    return engine


def _keep_programs(folder: str | None) -> None:
    """Where this user's programs are kept unless a flag says otherwise. A machine that has no such
    place serves as well."""
    if folder is not None:
        keep_programs(folder)
        return
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "lfpc_jax/programs"
    try:
        keep_programs(os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(usual))
    except OSError as error:
        print(f"compiled programs are not kept: {error}; see --cache", file=sys.stderr)


def service_of(
    engine: Engine, args: argparse.Namespace, key: str, hosts: tuple[str, ...], rest: Rest
) -> Service:
    limits = Limits(
        body_bytes=args.body_mb << 20,
        pixels=args.megapixels * 1_000_000,
        seconds=float(args.seconds),
        memory=args.memory_mb << 20,
        drain_seconds=float(args.drain_seconds),
    )
    allowed = Allowed(limits.pixels, limits.body_bytes, args.allow_hosts, args.allow_files)
    [zoom] = [tool for tool in engine.dialogue.toolbox.tools if isinstance(tool, Zoom)]
    name = args.name or args.model.resolve().name
    models = {name: False, name + LOOKS: True}
    worker = Worker(engine, args.queue, rest)
    small = engine.slots.cfg.text.width < _MICRO
    return Service(
        name=name,
        reader=Reader(
            engine.dialogue, zoom.processor, engine.rules, engine.shapes, models, allowed
        ),
        worker=worker,
        metrics=Metrics(worker, version("lfpc_jax")),
        limits=limits,
        site=Site(args.examples or ("micro" if small else "default"), {"model": name + LOOKS}),
        key=key,
        hosts=hosts,
    )


def shapes_of(
    asking: Asking, rules: Rules, args: argparse.Namespace, window: int, groups: int
) -> RolloutShapes:
    """Room for every episode that the rules allow. Every request has a prompt of its own, whose
    beginning is kept for others about the same picture."""
    following = after_prompt(rules, asking.crop_tokens)
    batch = together(args.slots, groups)
    texts: Buckets = geometric(min(512, args.prompt_tokens), args.prompt_tokens, 4.0)
    return RolloutShapes(
        slots=args.slots,
        chunk=CHUNK,
        image_tokens=asking.image_tokens,
        crop_tokens=asking.crop_tokens,
        prompt_text=texts,
        capacity=asking.image_tokens + args.prompt_tokens + following,
        own=following,
        members=1,
        prefill_rows=batch,
        extend_rows=batch,
        kept=max(args.slots, batch),
        window=window,
    )


def _names_of_this_machine(args: argparse.Namespace) -> tuple[str, ...]:
    """The names by which a server without a token may be called, so that no page of another site
    can reach it under a name of its own."""
    try:
        alone = args.host == "localhost" or ipaddress.ip_address(args.host).is_loopback
    except ValueError:
        alone = False
    if not alone:
        raise ValueError(
            f"--host {args.host}: other machines could ask this server, and there is no token; put "
            f"one into the environment variable {args.key_variable}, or leave --host out"
        )
    return ("127.0.0.1", "localhost", "::1", args.host)


if __name__ == "__main__":
    sys.exit(main())
