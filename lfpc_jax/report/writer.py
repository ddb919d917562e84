"""Writes a run's metrics while it trains: `metrics.jsonl`, TensorBoard, and W&B if configured.

Each step and kind is one flushed line: `{"step": 3, "kind": "train", "reward/total": 1.2, ...}`. A
run that is interrupted and resumed may write a step again; the last line counts. A run of several
processes has one writer, in the first process.

Both link the run's report, a page that `lfpc report RUN` writes. W&B gets a copy of it at the end
of training, if it is there.

A run's folder keeps its id at W&B (`wandb_id`). So a resumed run continues there, and two folders
of the same name, or a folder that was made anew, are two runs."""

import json
import logging
import math
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lfpc_jax import regular

log = logging.getLogger(__name__)

Kind = Literal["train", "validation"]


def check_wandb(project: str) -> None:
    """Raises ValueError if a project is named and Weights & Biases is not installed."""
    if project:
        _wandb(project)


class MetricsWriter:
    def __init__(self, run: Path, *, wandb_project: str = "", config: Any = None) -> None:
        run.mkdir(parents=True, exist_ok=True)
        path = run / "metrics.jsonl"
        earlier = regular.contents(path) if path.exists() else b""
        self._wandb = None
        if wandb_project:
            self._wandb = _wandb(wandb_project).init(
                project=wandb_project,
                name=run.name,
                id=_wandb_id(run, begun=bool(earlier)),
                resume="allow",
                config=config,
            )
        self._lines = path.open("a", encoding="utf-8")
        if earlier and not earlier.endswith(b"\n"):  # the run was killed
            self._lines.write("\n")
        from tensorboardX import SummaryWriter  # which imports PyTorch where it is installed

        self._board = SummaryWriter(str(run / "tensorboard"))
        self._report = run.absolute() / "report.html"
        self._board.add_text("report", _link(run, self._report), 0)
        if self._wandb is not None:
            self._wandb.summary["report"] = self._report.as_uri()

    def write(self, step: int, kind: Kind, values: Mapping[str, float]) -> None:
        """Numbers that are not finite are written as null, since JSON does not have them."""
        plain = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._lines.write(json.dumps({"step": step, "kind": kind} | plain) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        self._board.flush()
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": v for name, v in values.items()}, step=step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            if self._report.is_file():
                folder = str(self._report.parent)
                self._wandb.save(str(self._report), base_path=folder, policy="now")
            self._wandb.finish()


def _link(run: Path, report: Path) -> str:
    """Where the report is, and how it comes there, as Markdown. A browser may not follow a link
    from a server's page to a file, so the address can be copied."""
    command = f"lfpc report {shlex.quote(str(run))} --watch"
    return f"[{report}]({report.as_uri()}), once `{command}` has written it: `{report.as_uri()}`"


def _wandb_id(run: Path, *, begun: bool) -> str:
    """The run's id, which is drawn once."""
    file = run / "wandb_id"
    if file.is_file():
        if drawn := file.read_text().strip():
            return drawn
        raise ValueError(f"{file}: is empty; write the run's id at W&B into it, or remove it")
    drawn = secrets.token_hex(6)
    if begun:
        log.warning(
            "%s: continues at W&B under the new id %s; steps that it sent before, if any, are "
            "there under the id %s",
            run, drawn, run.name,
        )  # fmt: skip
    beside = run / "wandb_id.new"
    beside.write_text(f"{drawn}\n")
    beside.replace(file)
    return drawn


def _wandb(project: str) -> Any:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ValueError(
            f"wandb_project is {project!r}, but Weights & Biases is not installed; "
            "pip install wandb, or leave the project empty"
        ) from error
    return wandb
