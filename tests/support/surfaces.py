"""The commands whose files the fuzz tests damage, without what XLA would compile for them.

Each is the command's own `main`, up to the point where everything that it reads was read: a model
is loaded, its engine built and its conversation opened, but nothing is rolled out; a training run
ends once its data were audited."""

from pathlib import Path

import jax

from lfpc_jax.cli import ask as asking
from lfpc_jax.cli import command, convert, report, train
from lfpc_jax.evaluation.benchmark import open_benchmark
from lfpc_jax.model import qwen, spec
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.trajectory import Tokens


class _Opening(Engine):
    """Builds what the engine builds, traces the model, and opens each record's conversation."""

    def __init__(self, cfg, *arguments, **more):
        super().__init__(cfg, *arguments, **more)
        self.cfg = cfg

    def load(self, params):
        pass

    def run(self, records, **_):
        ids = jax.ShapeDtypeStruct((1, 8), "int32")
        three = jax.ShapeDtypeStruct((3, 1, 8), "int32")
        jax.eval_shape(
            lambda params, ids, three: qwen.forward(
                params, Tokens(ids, three, ids, ids), None, cfg=self.cfg
            ),
            spec.abstract(self.cfg, self.cfg.dtype),
            ids,
            three,
        )
        for record in records:
            opening = self.dialogue.open(record)
            self.dialogue.tokenizer.decode(opening.ids)
        raise _Reached


class _Reached(Exception):
    """Everything was read."""


def _until_reached(main, words):
    try:
        return main(words)
    except _Reached:
        return 0


def ask(words):
    asking.Engine = _Opening
    return _until_reached(asking.main, words)


def ask_whole(words):
    """With the rollout, which compiles."""
    asking.Engine = Engine
    return asking.main(words)


def to_orbax(words):
    return convert.main(["to-orbax", *words, "--overwrite"])


def to_hf(words):
    return convert.main(["to-hf", *words, "--overwrite"])


def _reached(*_):
    raise _Reached


def audit(words):
    """Training, until its data were audited and digested."""
    train.make_mesh = _reached
    return _until_reached(train.main, [*words, "--run", str(Path.cwd() / "run")])


def dry_run(words):
    return train.main([*words, "--dry-run"])


def page(words):
    return report.main(words)


def benchmark(words):
    """What `evaluate.py` does with a benchmark before it loads a model."""
    path, pictures = map(Path, words)

    def opened():
        open_benchmark(path, pictures=pictures, seed=0, max_share=0.5)

    return command.run(opened)
