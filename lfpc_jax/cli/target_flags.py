"""The flags of a target model, the same in every command that may ask one."""

import argparse
from pathlib import Path
from typing import get_args, get_type_hints

from lfpc_jax.cropvlm.settings import Presentation, TargetSettings

_FLAGS = {
    "image_tokens": "budget of the full image as the target sees it",
    "crop_tokens": "budget of the crop",
    "answer_tokens": "tokens of an answer, at most",
    "slots": "answers at once",
}


def add(parser: argparse.ArgumentParser) -> None:
    usual = TargetSettings()
    group = parser.add_argument_group("target model", "which answers with a crop network's box:")
    group.add_argument(
        "--target", default="", metavar="DIR", help="a local model, named as --model is"
    )
    group.add_argument(
        "--target-url", default="", help="or an OpenAI-compatible server, as http://HOST:PORT/v1"
    )
    group.add_argument("--target-model", default="", help="its name on that server")
    group.add_argument(
        "--target-key-variable", default="", help="environment variable that holds its key"
    )
    group.add_argument(
        "--target-cache", default="", metavar="DIR",
        help="folder that keeps a server's answers; default: a folder in OUT, of lfpc ask none",
    )  # fmt: skip
    group.add_argument(
        "--presentation", choices=get_args(Presentation), default=usual.presentation,
        help="what it is shown: the full image and the crop, one of them, or the zoom tool's "
        "conversation",
    )  # fmt: skip
    for name, text in _FLAGS.items():
        flag = f"--target-{name.replace('_', '-')}"
        group.add_argument(flag, type=int, default=getattr(usual, name), help=text)
    group.add_argument(
        "--target-dtype", choices=get_args(get_type_hints(TargetSettings)["dtype"]),
        default=usual.dtype,
    )  # fmt: skip


def settings_of(args: argparse.Namespace, cache: Path | None = None) -> TargetSettings | None:
    """The target that the flags name, or None if they name none. A server's answers are kept in the
    folder `cache`, unless the flags name another."""
    if args.target and args.target_url:
        raise ValueError(
            f"--target {args.target} and --target-url {args.target_url}: a target is a local model "
            "or one on a server; give one of them"
        )
    if bool(args.target_url) != bool(args.target_model):
        raise ValueError("a target on a server needs both --target-url and --target-model")
    if not args.target and not args.target_url:
        return None
    for name in _FLAGS:
        if (value := getattr(args, f"target_{name}")) < 1:
            flag = f"--target-{name.replace('_', '-')}"
            raise ValueError(f"{flag} is {value}; it must be at least 1")
    return TargetSettings(
        path=args.target,
        url=args.target_url,
        model=args.target_model,
        key_variable=args.target_key_variable,
        cache=args.target_cache or str(cache or ""),
        presentation=args.presentation,
        dtype=args.target_dtype,
        **{name: getattr(args, f"target_{name}") for name in _FLAGS},
    )
