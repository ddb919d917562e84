"""The demo's arms, and the commands that make their data, train them and measure them.

An arm is a config at the size `micro`. The config says which set it trains on, which arm it
continues, and what it rewards. This module puts all paths into one folder and orders the commands
as steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lfpc_jax.data import layout
from lfpc_jax.evaluation.claims import CLAIMS
from lfpc_jax.run.config import TrainConfig, updates_of
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.steps import Step
from lfpc_jax.trajectory import Record

ARMS = {
    "baseline": "baseline.py:micro",
    "stage1": "stage1.py:micro",
    "control": "ablations/no_iou.py:micro",
    "stage2": "stage2.py:micro",
    "mixed": "mixed.py:micro",
    "hard": "strategies/hard.py:micro",
    "random": "strategies/random.py:micro",
    "conditional_iou": "ablations/conditional_iou.py:micro",
    "no_threshold": "ablations/no_threshold.py:micro",
    "ahead": "micro/ahead.py",
}
"""The arms' configs, each after the arm that it goes on from. Stage II is compared with `control`,
which is Table 10's design without a reward for boxes."""
_BY_NAME = ("ahead",)
"""Arms that `all` leaves out, because they are no design of the paper."""
_COMPARED = (("accuracy", "stage1", "ahead"), ("drop", "stage1", "ahead"))
"""Changes that are shown beside those that the paper claims."""
_FORMER = {
    "baseline": ("micro/baseline.py",),
    "stage1": ("micro/stage1.py",),
    "control": ("micro/control.py",),
    "stage2": ("micro/stage2.py",),
    "mixed": ("micro/stage1.py", "--rewards.grounding", "1"),
    "hard": ("micro/stage1.py",),
    "random": ("micro/stage1.py",),
    "conditional_iou": ("micro/stage2.py", "--rewards.boxes.w", "1"),
    "no_threshold": (
        "micro/stage2.py", "--rewards.boxes.w", "1", "--rewards.boxes.tau", "none",
    ),
}  # fmt: skip
"""How earlier versions gave the same settings, so that their folders can be resumed."""
TOLD = {
    "warm": "before training",
    "baseline": "GRPO on sharp images, without the information gap",
    "stage1": "Stage I, GRPO on images shown so small that the answer is lost",
    "control": "stage1, trained on with the same reward",
    "stage2": "Stage II, stage1 trained on with a reward for boxes that fit",
    "mixed": "both rewards from the start",
    "hard": "Stage I, every image shown at the smallest size",
    "random": "Stage I, every image shown at a random size",
    "conditional_iou": "as stage2, rewarded for the IoU alone",
    "no_threshold": "as stage2, rewarded for any IoU",
    "ahead": "as stage1, with prompts of the next step begun in slots that fall free",
}
"""What the arms are, for the report."""
BLURRED = 4
"""Visual tokens of an image from which no mark can be read; selection goes down to them."""
HARSHEST = 56
"""The side in pixels of such an image. Validation shows its scenes at this size."""
ABOUT = (
    "Models of the small synthetic world (docs/demo.md) on held-out questions. With "
    f"{BLURRED} visual tokens images are shown at {HARSHEST} pixels, at which no mark can be read "
    "without a crop; with more tokens they are shown sharp. A model reads its crops if noise in "
    "their place takes right answers from it."
)
NESTED = ("1", "1.3")
"""Target boxes around a mark, as multiples of its sides: as tight as a person would draw them."""


@cache
def config_of(arm: str) -> TrainConfig:
    return load_config(ARMS[arm])


def set_of(arm: str) -> str:
    """The name of the set that an arm trains on."""
    [source] = config_of(arm).data.train
    return Path(source.path).name


def before(arm: str) -> str:
    """The arm that an arm continues; empty if it begins at the warm start."""
    name = Path(config_of(arm).model.path).name.removesuffix("-0")
    return name if name in ARMS else ""


def in_order(wanted: Sequence[str]) -> list[str]:
    """The wanted arms (or `all`) and those that they continue, in the order of training."""
    names = set(wanted) - {"all"}
    if "all" in wanted:
        names |= set(ARMS) - set(_BY_NAME)
    names |= {before(name) for name in names} - {""}
    return [name for name in ARMS if name in names]


def steps_flags(config: TrainConfig, steps: int) -> tuple[str, ...]:
    """For a run of so many steps, 0 for the config's own, which may be too few for its warm-up."""
    if not steps:
        return ()
    updates = updates_of(replace(config, steps=steps))
    if config.optimizer.warmup < updates:
        return ("--steps", f"{steps}")
    return ("--steps", f"{steps}", "--optimizer.warmup", f"{updates - 1}")


def first_record(folder: Path) -> Record:
    """Of a set in our layout."""
    return next(entry for entry in layout.read(folder) if isinstance(entry, Record))


@dataclass(frozen=True)
class Demo:
    """What is made in the folder `out`, beginning with the model `warm`. With `steps` 0 each
    config's own number is used. `scenes` scenes are trained on, and `questions` are held out."""

    out: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    temperatures: tuple[int, ...]
    steps: int
    scenes: int
    questions: int
    warm: str

    def plan(self) -> list[Step]:
        """Every command, in order."""
        planned = [*self._data(), *self._evaluations("warm", self.warm)]
        for seed in self.seeds:
            planned += [self._training(arm, seed) for arm in self.arms]
            for arm in self.arms:
                planned += self._evaluations(f"{arm}-{seed}", f"{self.out / arm}-{seed}")
        for step in self._tables():
            after = tuple(earlier.name for earlier in planned)
            planned.append(replace(step, after=after, gathers=True))
        return planned

    def compared(self, temperature: int) -> Path:
        return self.out / f"compared-{temperature}"

    def next_commands(self) -> Iterator[tuple[str, ...]]:
        """Commands to try on the results."""
        arm = "stage2" if "stage2" in self.arms else self.arms[-1]
        run, data = f"{self.out / arm}-{self.seeds[0]}", self.out / "data"
        record = first_record(data / "heldout")
        yield ("ask.py", "--model", run, "--image", f"{record.picture.path}",
               "--question", record.question, "--longest-side", f"{HARSHEST}")  # fmt: skip
        yield "convert.py", "to-hf", run, "exported"
        yield ("train.py", "--config", "stage1.py:micro", "--run", "runs/mine",
               "--data.train", f"{data / 'answer'}", "--data.validation", f"{data / 'blurred'}",
               "--optimizer.learning_rate", "1e-4")  # fmt: skip

    def _evaluated(self, temperature: int) -> Path:
        return self.out / "evaluated" / f"temperature-{temperature}"

    @property
    def _cache(self) -> tuple[str, str]:
        return "--cache", f"{self.out / 'compiled'}"

    def _data(self) -> Iterator[Step]:
        data, config = self.out / "data", config_of("stage1")
        validated = f"{config.data.validation_records}"
        scenes = {
            "world": ("train", "--count", f"{self.scenes}"),
            "heldout": ("heldout", "--count", f"{self.questions}"),
            "blurred": ("heldout", "--count", validated, "--longest-side", f"{HARSHEST}"),
        }
        for name, which in scenes.items():
            yield Step(
                f"data {name}",
                ("synthesize.py", f"{data / name}", "--world", "micro", "--nested", *NESTED,
                 "--split", *which, "--overwrite"),
            )  # fmt: skip
        for strategy in dict.fromkeys(map(set_of, self.arms)):
            if strategy == "world":
                continue
            asked: tuple[str, ...] = ()
            if strategy == "answer":
                asked = ("--model", self.warm, "--search", "bisect", "--exact", *self._cache)
            yield Step(
                f"select {strategy}",
                ("select_resolution.py", f"{data / 'world'}", f"{data / strategy}", *asked,
                 "--strategy", strategy, "--image-tokens", f"{config.rollout.image_tokens}",
                 "--harshest", f"{HARSHEST}", "--turn-tokens", "24",
                 "--slots", f"{config.rollout.slots}"),
                after=("data world",),
                model=self.warm if asked else "",
                seal=f"{data / strategy / 'meta.json'}",
            )  # fmt: skip

    def _training(self, arm: str, seed: int) -> Step:
        data, name, begins = self.out / "data", set_of(arm), before(arm)
        start = f"{self.out / begins}-{seed}" if begins else self.warm
        words = (
            *("--run", f"{self.out / arm}-{seed}", "--seed", f"{seed}"),
            *("--model.path", start, "--data.train", f"{data / name}"),
            *("--data.validation", f"{data / 'blurred'}", *self._cache),
            *steps_flags(config_of(arm), self.steps),
        )
        after = ["data world" if name == "world" else f"select {name}", "data blurred"]
        if begins:
            after.append(f"train {begins}-{seed}")
        formerly: tuple[str, ...] = ()
        if arm in _FORMER:
            file, *overrides = _FORMER[arm]
            formerly = ("train.py", "--config", file, *words, *overrides)
        return Step(
            f"train {arm}-{seed}",
            ("train.py", "--config", ARMS[arm], *words),
            tuple(after),
            model="" if begins else self.warm,
            formerly=formerly,
        )

    def _evaluations(self, name: str, model: str) -> Iterator[Step]:
        rollout = config_of("stage1").rollout
        for temperature in self.temperatures:
            yield Step(
                f"evaluate {name} temperature {temperature}",
                ("evaluate.py", f"{self._evaluated(temperature) / name}", "--model", model,
                 "--data", f"micro={self.out / 'data' / 'heldout'}",
                 "--convention", rollout.convention,
                 "--image-tokens", f"{BLURRED}", f"{rollout.image_tokens}",
                 "--crop-tokens", f"{rollout.crop_tokens}", "--diagnose", "noise",
                 "--temperature", f"{temperature}", "--max-turns", f"{rollout.max_turns}",
                 "--turn-tokens", f"{rollout.turn_tokens}",
                 "--episode-tokens", f"{rollout.episode_tokens}",
                 "--slots", f"{rollout.slots}", *self._cache),
                after=("data heldout", *(() if name == "warm" else (f"train {name}",))),
                model=model if name == "warm" else "",
            )  # fmt: skip

    def _tables(self) -> Iterator[Step]:
        """The commands that compare everything that was trained and measured, and show it."""
        for temperature in self.temperatures:
            folder = self._evaluated(temperature)
            words = ["compare.py", f"{self.compared(temperature)}"]
            words += ["--arm", "warm", f"{folder / 'warm'}"]
            for arm in self.arms:
                words += ["--arm", arm, *(f"{folder / f'{arm}-{seed}'}" for seed in self.seeds)]
            for change in (*CLAIMS, *_COMPARED):
                if {name.rpartition("*")[2] for name in change[1:]} <= {"warm", *self.arms}:
                    words += ["--change", *change]
            yield Step(f"compare temperature {temperature}", tuple(words))
        runs = [f"{self.out / arm}-{seed}" for seed in self.seeds for arm in self.arms]
        compared = [f"{self.compared(temperature)}" for temperature in self.temperatures]
        told = [f"{arm}: {TOLD[arm]}." for arm in ("warm", *self.arms)]
        words = ["report.py", *compared, *runs, "--out", f"{self.out / 'report.html'}"]
        words += ["--about", ABOUT, "--about", " ".join(told)]
        yield Step("report", tuple(words))
