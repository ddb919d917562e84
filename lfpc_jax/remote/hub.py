"""Models and sets by their names on the Hugging Face Hub, wherever a folder or a file is expected.

    Qwen/Qwen2.5-VL-3B-Instruct            a repository
    Qwen/Qwen2.5-VL-3B-Instruct@REVISION   at a branch, a tag or a commit
    DreamMr/HR-Bench/hr_bench_8k.tsv       a file in it, or several with `*`

What is here by that name wins. What is not is fetched with `huggingface_hub`: into its cache, with
its login's token, and without the network if HF_HUB_OFFLINE is set. A file that is there whole is
not fetched again, and a connection that breaks goes on where it stopped. Before anything is
fetched, a line says what and how much. Within `fetching_nothing` it raises `NotHere` instead.
"""

import errno
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["model", "dataset"]

_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w.-]+))?(?:/(?P<inside>.+))?"
)
_PUBLISHED = re.compile(r"Qwen2\.5-VL-\d+B-Instruct")
_OURS = ("configs", "data", "runs")
"""Folders that configs and pages name. A path in one that is not here names nothing on the Hub."""
_fetching = ContextVar("fetching", default=True)


class NotHere(ValueError):
    """What is on the Hub, and not here, and is not to be fetched now."""


@dataclass(frozen=True)
class HubName:
    """A repository, the revision if one is named, and what is meant of its files if not all."""

    repo: str
    revision: str = ""
    inside: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return self.repo + revision + (f"/{self.inside}" if self.inside else "")

    @classmethod
    def parse(cls, text: str | Path) -> "HubName | None":
        """None if the text is a path: of something that is here, or within a folder that is here.
        The published models are known without their owner, as configs name them."""
        path, text = Path(text), str(text)
        if _PUBLISHED.fullmatch(text) and not path.exists():
            return cls(f"Qwen/{text}")
        found = _NAME.fullmatch(text)
        if not found or path.exists() or path.parts[0] in _OURS or Path(path.parts[0]).exists():
            return None
        return cls(found["repo"], found["revision"] or "", found["inside"] or "")


@contextmanager
def fetching_nothing() -> Iterator[None]:
    """Within the context, what is not in the cache raises `NotHere`, and nothing is asked for."""
    token = _fetching.set(False)
    try:
        yield
    finally:
        _fetching.reset(token)


def fetched(name: HubName, kind: Kind, patterns: tuple[str, ...] = ()) -> Path:
    """The repository's folder in the cache, with the files that match a pattern, or all. Raises
    ValueError, in one line with a remedy, for what cannot be fetched."""
    return _fetched(name.repo, name.revision, kind, patterns, _fetching.get())


def commit_of(folder: Path) -> str:
    """The commit of a repository's folder in the cache; empty for other folders."""
    return folder.name if folder.parent.name == "snapshots" else ""


@cache
def _fetched(
    repo: str, revision: str, kind: Kind, patterns: tuple[str, ...], fetching: bool
) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    asked: dict[str, Any] = {
        "repo_id": repo,
        "repo_type": kind,
        "revision": revision or None,
        "allow_patterns": [*patterns] or None,
        "library_name": "lfpc_jax",
    }
    name = HubName(repo, revision)
    try:
        if not fetching:
            return Path(huggingface_hub.snapshot_download(**asked, local_files_only=True))
        _announce(name, kind, asked)
        return Path(huggingface_hub.snapshot_download(**asked))
    except errors.LocalEntryNotFoundError as error:
        if not fetching:
            raise NotHere(f"{name}: is to come from the Hub, and is not here yet") from error
        raise ValueError(_in_words(name, kind, error)) from error
    except (errors.HFValidationError, errors.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(_in_words(name, kind, error)) from error


def _announce(name: HubName, kind: Kind, asked: Mapping[str, Any]) -> None:
    """Says what is about to be fetched, if anything is and the Hub can be asked."""
    import huggingface_hub
    from huggingface_hub import constants, errors, utils

    utils.disable_progress_bars()
    try:
        files = huggingface_hub.snapshot_download(**asked, dry_run=True)
    except errors.DryRunError:
        return  # the download finds it in the cache, or says why it is not there
    finally:
        if sys.stderr.isatty():
            utils.enable_progress_bars()
    missing = [file for file in files if file.will_download]
    if not missing:
        return
    size = sum(file.file_size for file in missing) / 1e6
    print(
        f"fetching {kind} {name} from {constants.ENDPOINT}: {len(missing)} files, {size:,.1f} MB, "
        f"to {constants.HF_HUB_CACHE}",
        file=sys.stderr,
        flush=True,
    )


def _in_words(name: HubName, kind: Kind, error: BaseException) -> str:
    """What went wrong, and what to do."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT + ("/datasets/" if kind == "dataset" else "/") + name.repo
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    match cause:
        case errors.GatedRepoError():
            return (
                f"{name}: only people who accepted its terms may fetch it: accept them at {where}, "
                "then `hf auth login` with a token of that account"
            )
        case errors.RevisionNotFoundError():
            return f"{name}: has no such revision; its branches and tags are at {where}/tree/main"
        case errors.RepositoryNotFoundError():
            return (
                f"{name}: is no folder here, and no {kind} at {constants.ENDPOINT} that you may "
                "see; check the name, or `hf auth login` if it is private"
            )
        case errors.HFValidationError():
            return f"{name}: is no folder here, and cannot be a name on the Hub"
        case errors.OfflineModeIsEnabled():
            return (
                f"{name}: is no folder here and not whole in {constants.HF_HUB_CACHE}, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset that, or give the path of a folder"
            )
    reason = str(cause).partition("\n")[0] or type(cause).__name__
    return (
        f"{name}: is no folder here, and cannot be fetched from {constants.ENDPOINT} ({reason}); "
        "check the network and rerun, which keeps the files that are whole, or give a folder's path"
    )
