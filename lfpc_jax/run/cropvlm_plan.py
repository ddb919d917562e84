"""The second system's demo: the arms of crop networks, and the commands that make their data, train
them and measure them.

As in `demo_plan`, an arm is a config at the size `micro`, and this module puts all paths into one
folder. Half of the scenes is labelled, in three ways, and imitated; the other half is for GRPO. One
target model answers for all. The boxes that no crop network proposes are evaluated once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lfpc_jax.evaluation.claims import CROPVLM_CLAIMS
from lfpc_jax.run.config import TargetSettings, TrainConfig
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.demo_plan import NESTED, first_record, steps_flags
from lfpc_jax.run.steps import Step

SFT, ACCURACY, LIKELIHOOD = (
    f"cropvlm/{name}.py:micro" for name in ("sft", "accuracy", "likelihood")
)
ARMS = {
    "tight": (SFT, ""),
    "outside": (SFT, ""),
    "outside_fitted": (SFT, ""),
    "sft": (SFT, ""),
    "by_accuracy": (ACCURACY, "sft"),
    "by_likelihood": (LIKELIHOOD, "sft"),
    "tight_by_accuracy": (ACCURACY, "tight"),
    "tight_by_likelihood": (LIKELIHOOD, "tight"),
}
"""The arms' configs, and the arms that they continue. The first four imitate labels, `sft` those
of the grid."""
ALONE = {"by_likelihood": "crop_alone"}
"""The arms whose crops are also shown without the full image, and how they are then called."""
LABELS = {
    "tight": ("--boxes", "truth"),
    "outside": ("--boxes", "outside"),
    "outside_fitted": ("--boxes", "outside", "--factors", "4", "3", "2", "1.5", "1"),
    "sft": ("--noise", "0.25"),
}
"""How lfpc label makes the labels of an arm. The published factors of outside boxes are for
text of a hundredth of a picture; here they make whole pictures of marks, so there is an arm with
smaller ones. A cell of the grid is as large as a mark here, so
boxes of the grid are widened by less than the whole cell of the published rule."""
LAYER = "2"
"""The layer of its attention, as deep as the published one."""
GIVEN = (
    "without@direct", "whole@whole", "centre@centre", "random@random", f"rel_att@rel_att_{LAYER}",
    "true@true", "true_x4@true_x4",
)  # fmt: skip
"""What is compared with the arms: the target without a crop, and with given boxes."""
TRUE_ALONE = "true_alone@true"
"""The same with true boxes and without the full image."""
ABOUT = (
    "A target model that is never trained answers held-out questions of the small synthetic "
    "world (docs/demo.md) with a box in view. NAME@KIND: a given box, or none (direct). tight, "
    "outside, sft: crop networks that imitate labels. by_accuracy, by_likelihood: trained on with "
    "GRPO. alone: the target sees the crop and not the image."
)
AREAS = ("0.25", "0.5", "2", "4", "8", "16")
"""The factors of the expansion study."""
SQUARE = "64"
"""The side of rel_att's smallest square: a little more than a mark."""


@cache
def config_of(arm: str) -> TrainConfig:
    return load_config(ARMS[arm][0])


@cache
def target_settings() -> TargetSettings:
    target = config_of("by_accuracy").target
    assert target is not None
    return target


def in_order(wanted: Sequence[str]) -> list[str]:
    """The wanted arms (or `all`) and those that they continue, in the order of training."""
    names = set(ARMS) if "all" in wanted else set(wanted)
    names |= {ARMS[name][1] for name in names} - {""}
    return [name for name in ARMS if name in names]


@dataclass(frozen=True)
class CropDemo:
    """What is made in the folder `out`. Every arm begins with the crop network `warm` or where
    another ended, and `target` answers. With `steps` 0 each config's own number is used. `scenes`
    scenes are trained on, and `questions` are held out."""

    out: Path
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    scenes: int
    questions: int
    warm: str
    target: str

    @property
    def temperatures(self) -> tuple[int, ...]:
        """A crop network is evaluated greedily."""
        return (0,)

    def plan(self) -> list[Step]:
        """Every command, in order."""
        planned = [*self._data(), self._given_boxes("both"), self._given_boxes("crop")]
        for seed in self.seeds:
            planned += [self._training(arm, seed) for arm in self.arms]
            for arm in self.arms:
                planned += self._evaluations(arm, seed)
        for step in self._tables():
            after = tuple(earlier.name for earlier in planned)
            planned.append(replace(step, after=after, gathers=True))
        return planned

    def compared(self, temperature: int) -> Path:
        return self.out / "compared"

    def next_commands(self) -> Iterator[tuple[str, ...]]:
        """Commands to try on the results."""
        run, data = f"{self.out / self.arms[-1]}-{self.seeds[0]}", self.out / "data"
        record = first_record(data / "heldout")
        yield ("ask.py", "--model", run, *self.target_flags(), "--image", f"{record.picture.path}",
               "--question", record.question)  # fmt: skip
        yield "convert.py", "to-hf", run, "exported"
        if "sft" in self.arms:
            yield ("label_boxes.py", f"layout%1/2:{data / 'world'}", f"{data / 'wide'}", "--again",
                   f"{data / 'sft'}", "--within", "0.5", "--ties", "largest")  # fmt: skip

    @property
    def _world(self) -> Path:
        return self.out / "data" / "world"

    @property
    def _cache(self) -> tuple[str, str]:
        return "--cache", f"{self.out / 'compiled'}"

    def target_flags(self, presentation: str = "both") -> tuple[str, ...]:
        """The target, as a command's flags name it."""
        settings = target_settings()
        return (
            *("--target", self.target, "--presentation", presentation),
            *("--target-image-tokens", f"{settings.image_tokens}"),
            *("--target-crop-tokens", f"{settings.crop_tokens}"),
            *("--target-answer-tokens", f"{settings.answer_tokens}"),
            *("--target-slots", f"{settings.slots}"),
        )

    def _data(self) -> Iterator[Step]:
        data = self.out / "data"
        validated = f"{config_of('by_accuracy').data.validation_records}"
        scenes = {
            "world": ("train", "--count", f"{self.scenes}"),
            "heldout": ("heldout", "--count", f"{self.questions}"),
            "validation": ("heldout", "--seed", "1", "--count", validated),
        }
        for name, which in scenes.items():
            yield Step(
                f"data {name}",
                ("synthesize.py", f"{data / name}", "--world", "micro", "--nested", *NESTED,
                 "--split", *which, "--overwrite"),
            )  # fmt: skip
        for arm in self.arms:
            if arm not in LABELS:
                continue
            asked = self.target_flags() + self._cache if arm == "sft" else ()
            yield Step(
                f"label {arm}",
                ("label_boxes.py", f"layout%1/2:{self._world}", f"{data / arm}", *LABELS[arm],
                 *asked),
                after=("data world",),
                model=self.target if asked else "",
                seal=f"{data / arm / 'meta.json'}",
            )  # fmt: skip

    def _training(self, arm: str, seed: int) -> Step:
        data, begins = self.out / "data", ARMS[arm][1]
        start = f"{self.out / begins}-{seed}" if begins else self.warm
        source = f"layout%2/2:{self._world}" if begins else f"{data / arm}"
        words = (
            *("--run", f"{self.out / arm}-{seed}", "--seed", f"{seed}"),
            *("--model.path", start, "--data.train", source),
            *("--data.validation", f"{data / 'validation'}", *self._cache),
            *(("--target.path", self.target) if begins else ()),
            *steps_flags(config_of(arm), self.steps),
        )
        after = ["data world" if begins else f"label {arm}", "data validation"]
        if begins:
            after.append(f"train {begins}-{seed}")
        return Step(
            f"train {arm}-{seed}",
            ("train.py", "--config", ARMS[arm][0], *words),
            tuple(after),
            model=self.target if begins else self.warm,
        )

    def _evaluated(self, name: str) -> Path:
        return self.out / "evaluated" / name

    def _evaluation(self, name: str, presentation: str, *words: str) -> tuple[str, ...]:
        return (
            "evaluate.py", f"{self._evaluated(name)}", *words,
            "--data", f"micro={self.out / 'data' / 'heldout'}", *self.target_flags(presentation),
            *self._cache,
        )  # fmt: skip

    def _given_boxes(self, presentation: str) -> Step:
        """The target without a crop, and with boxes that no crop network proposes."""
        boxes = ["--boxes", "true", "centre", "random", "whole"]
        if presentation == "both":
            boxes += ["--expand", *AREAS, "--layer", LAYER, "--square", SQUARE]
        name = f"given-{presentation}"
        return Step(
            f"evaluate {name}",
            self._evaluation(name, presentation, *boxes),
            after=("data heldout",),
            model=self.target,
        )

    def _evaluations(self, arm: str, seed: int) -> Iterator[Step]:
        """An arm's boxes, with the full image and without."""
        for presentation in ("both", "crop") if arm in ALONE else ("both",):
            name = f"{arm}-{presentation}-{seed}"
            yield Step(
                f"evaluate {name}",
                self._evaluation(name, presentation, "--model", f"{self.out / arm}-{seed}"),
                after=("data heldout", f"train {arm}-{seed}"),
                model=self.target,
            )

    def _tables(self) -> Iterator[Step]:
        """The commands that compare everything that was trained and measured, and show it."""
        given = f"{self._evaluated('given-both')}"
        words = ["compare.py", f"{self.compared(0)}", "--over-seeds", "--rank", *self.arms]
        for name in GIVEN:
            words += ["--arm", name, given]
        words += ["--arm", TRUE_ALONE, f"{self._evaluated('given-crop')}"]
        alone = {name: arm for arm, name in ALONE.items() if arm in self.arms}
        for name in (*self.arms, *alone):
            presentation = "crop" if name in alone else "both"
            folders = (f"{alone.get(name, name)}-{presentation}-{seed}" for seed in self.seeds)
            words += ["--arm", name, *map(str, map(self._evaluated, folders))]
        known = {*GIVEN, *self.arms, *alone}
        for change in CROPVLM_CLAIMS:
            if set(change[1:]) <= known:
                words += ["--change", *change]
        yield Step("compare", tuple(words))
        runs = [f"{self.out / arm}-{seed}" for seed in self.seeds for arm in self.arms]
        report = ("report.py", f"{self.compared(0)}", *runs, "--about", ABOUT)
        yield Step("report", (*report, "--out", f"{self.out / 'report.html'}"))
