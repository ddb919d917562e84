"""The flags of `lfpc serve`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import revision_flag
from lfpc_jax.cli.flags import not_negative, port, positive, temperature
from lfpc_jax.cli.parsers import asking


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "A model as an OpenAI-compatible server over the rollout engine, and a page to try it. "
            "SIGTERM and Ctrl-C let requests in hand end."
        )
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    revision_flag.add(parser)
    parser.add_argument("--name", help="of the model, to clients (default: the folder's)")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=port, default=8000, help="0: one that is free")
    parser.add_argument(
        "--key-variable",
        default="LFPC_SERVE_KEY",
        metavar="NAME",
        help="the environment variable with the token that clients must show; without a token only "
        "this machine is served",
    )
    asking.add(parser)
    parser.add_argument(
        "--temperature", type=temperature, default=0.0, help="unless a request says"
    )
    parser.add_argument("--slots", type=positive, default=16, help="conversations at once")
    parser.add_argument(
        "--queue",
        type=not_negative,
        default=128,
        help="requests that wait beside these; further get 429",
    )
    parser.add_argument(
        "--prompt-tokens", type=positive, default=2048, help="text of a prompt, at most"
    )
    parser.add_argument("--body-mb", type=positive, default=32, help="a request's body, at most")
    parser.add_argument("--megapixels", type=positive, default=50, help="a picture, at most")
    parser.add_argument(
        "--memory-mb", type=positive, default=2048, help="bodies and pictures of all requests"
    )
    parser.add_argument("--seconds", type=positive, default=600, help="a request, at most")
    parser.add_argument("--drain-seconds", type=positive, default=60, help="after SIGTERM")
    parser.add_argument(
        "--allow-hosts", nargs="+", default=[], metavar="HOST",
        help="hosts (HOST or HOST:PORT) whose pictures may be fetched; default: none",
    )  # fmt: skip
    parser.add_argument(
        "--allow-files", type=Path, metavar="DIR",
        help="a folder whose pictures may be read by file: URLs; default: none",
    )  # fmt: skip
    parser.add_argument(
        "--examples", choices=("default", "easy", "micro"), help="the page's world "
        "(default: micro for models of its size)",
    )  # fmt: skip
    parser.add_argument(
        "--cache", metavar="DIR", help="folder that keeps compiled programs, '' for none "
        "(default: $JAX_COMPILATION_CACHE_DIR, or lfpc_jax/programs in ~/.cache)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices that share one copy of the model"
    )
    return parser
