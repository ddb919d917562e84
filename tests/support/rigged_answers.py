"""A target model that is a few lines of Python over what a real one would be shown, and a crop
network that proposes what it is told to.

Its world is that of `rigged`: a coloured square, the right answer, and a stripe of the same colour
for whoever looks at the whole.

python -m support.rigged_answers OUT DATA [SECONDS] [FLAGS] runs the command with both, so slowly,
for killing it.
"""

import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lfpc_jax.cropvlm.asked import AskedTarget
from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.cropvlm.proposing import proposing, write_box
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.cropvlm.target import Likelihood, Said
from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.run import ask
from lfpc_jax.rollout.episode import Rules
from support import rigged, small
from support.rigged import counted
from support.rigged_target import RiggedProposer

SETTINGS = TargetSettings(path="rigged", image_tokens=32, crop_tokens=16)


def letter(record, colour) -> str:
    return "ABCD"[record.options.index(colour)]


def reads_the_crop(record, full, crop) -> str:
    """Answers from the middle of the crop, and guesses where that shows no colour."""
    seen = None if crop is None else rigged.named(crop)
    return letter(record, seen or rigged.guess(record, crop is None))


def reads_the_whole(record, full, crop) -> str:
    return letter(record, rigged.named(full[:, :10]))


@dataclass
class RiggedTarget:
    """`fails` names records that it cannot be asked, with the reason."""

    say: Callable = reads_the_crop
    settings: TargetSettings = SETTINGS
    pause: float = 0.0
    fails: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    weights: str = "w"

    def __post_init__(self) -> None:
        self.dialogue = Showing.from_folder(small.folder(), self.settings)

    @property
    def identity(self):
        return {"weights": self.weights} | dataclasses.asdict(self.settings)

    def answers(self, questions, *, seed=0):
        for question in questions:
            time.sleep(self.pause)
            self.asked.append(question)
            yield tuple(self._said(question.record, box) for box in question.boxes)

    def _said(self, record, box):
        if record.id in self.fails:
            return Said(fault=self.fails[record.id])
        return Said(self.say(record, *self.dialogue.pictures(record, box)))

    def likelihoods(self, questions):
        for question in questions:
            pictures = [self.dialogue.pictures(question.record, box) for box in question.boxes]
            yield tuple(
                Likelihood(
                    -0.1 if self.say(question.record, *seen) == question.record.answer else -2.0
                )
                for seen in pictures
            )


def outlines(episode) -> str:
    """Writes the true box."""
    record, view = episode.opening.record, episode.opening.view
    return write_box(record.targets[0][0], view.frame)


def outlines_wide(episode) -> str:
    """Writes a box of twice the sides about the true one."""
    record, view = episode.opening.record, episode.opening.view
    x1, y1, x2, y2 = record.targets[0][0]
    across, down = (x2 - x1) / 2, (y2 - y1) / 2
    return write_box((x1 - across, y1 - down, x2 + across, y2 + down), view.frame)


def outlines_two_in_three(episode) -> str:
    """The same, but every third record gets no box that can be read."""
    if rigged.digest(episode.opening.record.id) % 3 == 0:
        return "the square"
    return outlines(episode)


def proposer(say=outlines, image_tokens=32) -> RiggedProposer:
    dialogue = proposing(small.folder(), image_tokens=image_tokens, crop_tokens=16)
    return RiggedProposer(say, dialogue, Rules(max_turns=1, turn_tokens=64))


def evaluated(folder, records, conditions, target=None, engine=None, rollouts=1, **more):
    """The results of a set, why questions were not answered, and the journal."""
    target = target or RiggedTarget()
    pair = None if engine is None else lambda: Pair(engine, target)
    asks = AskedTarget(target, pair, **more)
    benchmark = Benchmark("set", "layout", records, ())
    journal = Journal(folder)
    boxed = sum(bool(record.targets) for record in records)
    about = {"questions": len(records), "digest": benchmark.digest, "column": None,
             "with_boxes": boxed}  # fmt: skip
    journal.begin({"rollouts": rollouts, "target": target.identity}, {"set": about})
    unanswered = ask(lambda: asks, benchmark, 32, conditions, journal, rollouts=rollouts, seed=0)
    found = counted(journal)["benchmarks"]["set"]["budgets"]["32"]
    return found, unanswered, journal


class RiggedTargets:
    """What the command asks, in place of models."""

    def __init__(self, target: RiggedTarget, engine=None, likelihoods=False) -> None:
        self.target, self.proposer, self.likelihoods = target, engine, likelihoods
        self.asked = {"target": target.identity}
        if engine is not None:
            token = engine.dialogue.tokenizer.image_pad
            self.asked |= {"image_token": token, "dtype": "float32", "model": "rigged"}

    def keep_assets(self, folder) -> None:
        shutil.copytree(small.folder(), folder / "target", dirs_exist_ok=True)
        if self.proposer is not None:
            rigged.RiggedEngines(self.proposer).keep_assets(folder)

    def engine(self, tokens, records) -> AskedTarget:
        also = {"likelihoods": self.likelihoods}
        pair = None if self.proposer is None else lambda: Pair(self.proposer, self.target, **also)
        return AskedTarget(self.target, pair, likelihoods=self.likelihoods)


def targets(target: RiggedTarget, engine=None) -> type:
    """For the command's place of its own."""

    def load(args, settings, *rest):
        rigged_here = dataclasses.replace(target, settings=dataclasses.replace(
            SETTINGS, presentation=settings.presentation))  # fmt: skip
        return RiggedTargets(rigged_here, engine if args.model else None, args.likelihoods)

    return type("TargetEngines", (), {"load": staticmethod(load)})


def command(out: Path | str, data: Path | str, *more: str) -> list[str]:
    flags = ["--target", "t", "--target-image-tokens", "32", "--target-crop-tokens", "16"]
    flags += ["--model", "m", "--image-tokens", "32", "--boxes", "random", "--expand", "4"]
    return [str(out), *flags, "--data", f"set={data}", "--diagnose", "noise", *more]


def main(out: str, data: str, seconds: str = "0", *more: str) -> int:
    from lfpc_jax.cli import evaluate

    made = targets(RiggedTarget(pause=float(seconds)), proposer(outlines_two_in_three))
    evaluate.TargetEngines = made
    return evaluate.main(command(out, data, *more))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
