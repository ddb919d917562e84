"""An evaluation whose equal beginnings are computed once leaves the bytes of one that computes
everything again."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest

from lfpc_jax.evaluation.benchmark import open_benchmark
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.results import grade_all
from lfpc_jax.evaluation.run import ask
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.sizing import (
    beginnings,
    in_buckets,
    share_pictures,
    sizes,
    text_buckets,
)
from lfpc_jax.trajectory import Picture
from support import benchmark_files, small
from support.engines import engine

CONDITIONS = ("tool", "noise", "blank", "other")
SAMPLES = 3


@dataclass
class Anew:
    """Only what `Asks` needs, so that every condition is run by itself."""

    made: Engine

    def run(self, records, *, rollouts, seed):
        self.made.dialogue, self.made.rules = self.dialogue, self.rules
        return self.made.run(records, rollouts=rollouts, seed=seed)

    def __post_init__(self):
        self.dialogue, self.rules = self.made.dialogue, self.made.rules


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hr_bench")
    file = benchmark_files.write_tsv(folder / "b.tsv", benchmark_files.rows(SAMPLES))
    return open_benchmark(file, pictures=folder / "pictures", seed=0, name="b")


@pytest.fixture(scope="module")
def engines(benchmark):
    """One that keeps and one that does not."""
    both = small.dialogue(), without_tool(small.dialogue())
    seen = {size for each in both for size in sizes(each, benchmark.records)}
    texts = text_buckets([text for _, text in seen])
    shapes = replace(small.SHAPES, prompt_text=texts, capacity=304 + texts.sizes[-1])
    shapes = replace(shapes, prefill_rows=2, extend_rows=2)
    plain = engine(shapes, fresh=True)
    plain.warm_up(in_buckets(seen, shapes))
    keeping = engine(replace(shapes, kept=2), fresh=True)
    begin = {size for each in both for size in beginnings(each, benchmark.records)}
    keeping.warm_up(in_buckets(begin, shapes))
    return keeping, plain


def evaluated(made, benchmark, out, seed, conditions=CONDITIONS):
    journal = Journal(out)
    if not (out / "evaluation.json").exists():
        journal.begin({"rollouts": 2, "image_token": small.config().image_token}, {})
    how = {"rollouts": 2, "seed": seed}
    ask(lambda: made, benchmark, 32, conditions, journal, **how)
    journal.write_scores(grade_all(journal))
    return (out / "scores.jsonl").read_bytes(), {
        (part.name, group.record.id): [t.ids.tolist() for t in group.trajectories]
        for part in journal.parts()
        for group in journal.read(part, 2)
    }


@pytest.mark.compiles
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_the_same_bytes(engines, benchmark, tmp_path, seed):
    keeping, plain = engines
    scores, ids = evaluated(keeping, benchmark, tmp_path / "kept", seed)
    assert (scores, ids) == evaluated(Anew(plain), benchmark, tmp_path / "anew", seed)
    assert {name.rpartition("-")[2] for name, _ in ids} == {"direct", *CONDITIONS}
    assert keeping.slots.programs.late == plain.slots.programs.late == []


@pytest.mark.compiles
def test_a_condition_that_is_asked_later_is_sampled_anew_to_the_same_bytes(
    engines, benchmark, tmp_path
):
    keeping, _ = engines
    at_once = evaluated(keeping, benchmark, tmp_path / "once", 0)
    evaluated(keeping, benchmark, tmp_path / "later", 0, ("tool",))
    assert evaluated(keeping, benchmark, tmp_path / "later", 0) == at_once


@pytest.mark.compiles
def test_the_four_cycles_of_a_sample_encode_its_picture_once(engines, benchmark, tmp_path):
    keeping, _ = engines
    keeping.load(small.params())
    calls: Counter[str] = Counter()
    program = keeping.slots.programs.encode
    pictures = {record.picture for record in benchmark.records}
    assert len(pictures) <= SAMPLES < len(benchmark.records)
    assert share_pictures(benchmark.records)
    assert not share_pictures([replace(r, picture=Picture()) for r in benchmark.records])

    def counted(params, images):
        calls["shown"] += images.pixels.shape[1] == small.SHAPES.image_windows.sizes[0]
        return program(params, images)

    keeping.slots.programs.encode = counted
    try:
        evaluated(keeping, benchmark, tmp_path / "out", 0)
    finally:
        keeping.slots.programs.encode = program
    assert calls["shown"] == len(pictures), "under all conditions together"
