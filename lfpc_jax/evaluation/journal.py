"""Answers on disk, as they come. If interrupted, rerun the same evaluation to resume.

    OUT/evaluation.json           what was asked, of whom and how
    OUT/trajectories/             an archive, a part for each benchmark, budget and condition
    OUT/answers/<part>.jsonl      a readable line a question as it comes: answers, verdicts by rule,
                                 seconds
    OUT/scores.jsonl              a line a question of every part: the verdicts that results.json
                                 counts, a judge's where there was one

A question counts as answered once its whole group is in the archive. A damaged line of either kind
is logged and skipped: the question is asked again, and its first whole group counts. Each of
several processes writes its own file of a part, and all read every file.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.evaluation.alter import TRUTH
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.jsonfile import OTHER_SHAPE, read_object
from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.total import Rewards, compute_rewards
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.episode import with_limits
from lfpc_jax.rollout.said import said
from lfpc_jax.trajectory import Group

FORMAT = 1
IDENTITY = "identity"
"""Among what is asked: the digests of the model, in parts; see `checkpoint.identity`."""
TARGET = "target"
"""Among what is asked: which target model answered with a crop network's boxes, and how it was
asked; see `cropvlm.target`."""
ASSETS_OF_TARGET = "target"
"""The folder of a local target's files, among the assets."""
ENDPOINT = "endpoint"
"""Among what is asked: the name of a model on a server, and where the server was last."""
WITH_BOXES = "with_boxes"
"""Of a benchmark that a target is asked: how many questions have true boxes."""
CROPVLM = "cropvlm"
"""Of the same: the set, if CropVLM's figures are for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One benchmark at one budget under one condition; `tokens` is the shown image's budget."""

    benchmark: str
    tokens: int
    condition: str

    @property
    def name(self) -> str:
        return f"{self.benchmark}-{self.tokens}-{self.condition}"

    @classmethod
    def of(cls, name: str) -> "Trial":
        rest, _, condition = name.rpartition("-")
        benchmark, _, tokens = rest.rpartition("-")
        return cls(benchmark, int(tokens), condition)


@dataclass(frozen=True)
class Journal:
    """The folder of one evaluation. `still_ours` raises, before answers are added, if the folder
    now belongs to another command."""

    folder: Path
    process: int = 0
    still_ours: Callable[[], None] = lambda: None

    @property
    def archive(self) -> Archive:
        return Archive(self.folder / "trajectories")

    def begin(self, asked: dict[str, Any], benchmarks: dict[str, dict[str, Any]]) -> None:
        """Records what is asked. A folder that was begun before may only be resumed with the same
        settings; benchmarks, budgets and conditions may be added, and to a target's evaluation a
        crop network."""
        path = self.folder / "evaluation.json"
        known: dict[str, Any] = {}
        before: dict[str, Any] = {}
        if path.exists():
            old = self.settings()
            known, before = old["benchmarks"], old["asked"]
            self._check_truth(old, asked)
            changed = self._changed(old["asked"], asked)
            changed += [
                f"benchmark {name}"
                for name, about in benchmarks.items()
                if name in known
                and known[name]["digest"] not in (about["digest"], about.get("digest_by_place"))
            ]
            if changed:
                raise ValueError(
                    f"{path}: was begun with another {', '.join(changed)}; resume with the same, "
                    "or choose another folder"
                )
        if self.process != 0:
            return
        settings = {
            "format": FORMAT,
            "truth": TRUTH,
            "asked": before | asked,
            "benchmarks": known | benchmarks,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(settings, indent=2) + "\n")
        beside.replace(path)

    def settings(self) -> dict[str, Any]:
        path = self.folder / "evaluation.json"
        if not path.is_file():
            raise ValueError(f"{path}: missing; is {self.folder} an evaluation's folder?")
        try:
            settings = read_object(path)
            version = settings["format"]
            settings["asked"] = with_limits(settings["asked"])
            settings["benchmarks"] = dict(settings["benchmarks"])
            for about in settings["benchmarks"].values():
                str(about["digest"])
        except OTHER_SHAPE as error:
            raise ValueError(f"{path}: is damaged ({error!r:.200}); restore it") from error
        if version != FORMAT:
            raise ValueError(f"{path}: format {version!r}, where {FORMAT} is read; evaluate anew")
        return settings

    def _check_truth(self, old: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """A folder that is older than `alter.true_box` may be resumed if the rule makes no
        difference there."""
        if old.get("truth") == TRUTH:
            return
        for part in self.parts():
            groups = self.read(part, asked["rollouts"]) if part.condition == "truth" else ()
            if any(len(group.record.targets) > 1 for group in groups):
                files = self.archive.folder / f"{part.name}-p*"
                raise ValueError(
                    f"{self.folder / 'evaluation.json'}: of several targets, {part.name} was shown "
                    "one alone with every crop, and would be shown all with the first now; choose "
                    f"another folder, or remove {files} to ask these anew"
                )

    def _changed(self, old: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
        """The settings that differ. A folder without the model's identity is resumed with a
        warning, and one without the prompt is resumed without. Where a model lies does not matter
        if its identity is known, nor at which address a server has it."""
        old, asked = _anywhere({"prompt": asked.get("prompt")} | dict(old)), _anywhere(asked)
        if TARGET in asked and "model" not in old:  # the crop network is added now
            asked = {name: asked[name] for name in asked if name in old}
        known = {IDENTITY, "model"} if IDENTITY in asked and IDENTITY in old else {IDENTITY}
        changed = [
            name for name in asked if name not in {*known, TARGET} and old.get(name) != asked[name]
        ]
        changed += _changed_target(old.get(TARGET), asked.get(TARGET))
        if IDENTITY not in asked:
            return changed
        if (before := old.get(IDENTITY)) is None:
            log.warning(
                "%s does not say which weights it was begun with; it is resumed, and if those of "
                "%s were replaced since, its answers are of two models",
                self.folder / "evaluation.json", asked.get("model", "the model"),
            )  # fmt: skip
            return changed
        now = asked[IDENTITY]
        return changed + [f"model ({part})" for part in now if now[part] != before.get(part)]

    def parts(self) -> list[Trial]:
        """Every part that has answers, sorted by name."""
        return [Trial.of(name) for name in sorted({n.rpartition("-p")[0] for n in self._files()})]

    def add(self, part: Trial, group: Group, seconds: float) -> None:
        """Keeps a group: once this returns, no interruption loses it."""
        answers = [said(trajectory) for trajectory in group.trajectories]
        verdicts = grade([(answer, group.record) for answer in answers], judge=None)
        right = [verdict.accuracy for verdict in verdicts]
        records = {group.record.id: group.record}
        computed = compute_rewards(group.trajectories, records, Rewards(grounding=1.0))
        # An untaught model's answer has no tags, and no reward: only whether it is right.
        rewards = tuple(
            {name: value for name, value in reward.parts.items() if name != "total"}
            | {"accuracy": hit}
            for reward, hit in zip(computed, right)
        )
        name = f"{part.name}-p{self.process}"
        self.still_ours()
        self.archive.append(name, [replace(group, rewards=rewards)])
        line = {
            "record": group.record.id,
            "answers": answers,
            "right": right,
            "ends": [trajectory.end for trajectory in group.trajectories],
            "crops": [
                sum(turn.crop is not None for turn in trajectory.turns)
                for trajectory in group.trajectories
            ],
            "tokens": [int(trajectory.sampled.sum()) for trajectory in group.trajectories],
            "seconds": round(seconds, 3),
        }
        self._write_line(self.folder / "answers" / f"{name}.jsonl", line)

    def read(self, part: Trial, rollouts: int) -> Iterator[Group]:
        """The whole groups of a part, one for each record."""
        seen = set()
        for name in self._files(part):
            for group in self.archive.read(name):
                if len(group.trajectories) != rollouts or group.record.id in seen:
                    continue
                seen.add(group.record.id)
                yield group

    def seconds(self, part: Trial) -> float | None:
        """Wall seconds for each question, over all sessions; None if no time was recorded.
        Processes ask at the same time, so the longest process's seconds count."""
        answered, longest = 0, 0.0
        for name in self._files(part):
            seconds: list[float] = []
            path = self.folder / "answers" / f"{name}.jsonl"
            for number, line in enumerate(
                regular.contents(path).splitlines() if path.exists() else (), 1
            ):
                try:
                    seconds.append(float(json.loads(line)["seconds"]))
                except OTHER_SHAPE as error:
                    log.warning("%s, line %d: no whole line, skipped (%r)", path, number, error)
            answered, longest = answered + len(seconds), max(longest, sum(seconds))
        return longest / answered if answered else None

    def write_scores(self, answers: Mapping[Trial, Sequence[Answered]]) -> None:
        """Writes scores.jsonl, sorted by part and record, whatever order the answers came in."""
        beside = self.folder / "scores.jsonl.new"
        with beside.open("w") as out:
            for part, answered in sorted(answers.items(), key=lambda pair: pair[0].name):
                for question in answered:
                    right = [episode.right for episode in question.episodes]
                    line = {
                        "part": part.name,
                        "record": question.record.id,
                        "answers": question.answers,
                    }
                    out.write(json.dumps(line | {"right": right}) + "\n")
        beside.replace(self.folder / "scores.jsonl")

    def _files(self, part: Trial | None = None) -> list[str]:
        names = self.archive.parts() if self.archive.folder.is_dir() else []
        return [name for name in names if part is None or name.rpartition("-p")[0] == part.name]

    def _write_line(self, path: Path, line: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as out:
            if out.seek(0, os.SEEK_END):
                out.seek(-1, os.SEEK_END)
                if out.read(1) != b"\n":
                    out.write(b"\n")
            out.write(json.dumps(line).encode() + b"\n")


def _anywhere(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, without the address of its server."""
    named = {ENDPOINT: asked[ENDPOINT]["model"]} if ENDPOINT in asked else {}
    return {**asked, **named}


def _changed_target(old: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """What differs between two targets; with one of them missing, the target."""
    if old is None or now is None:
        return [] if old is now else [TARGET]
    return [f"{TARGET} ({part})" for part in {**old, **now} if old.get(part) != now.get(part)]
