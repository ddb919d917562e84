"""The files that an evaluation's results are written to: results.json, results.png, timing.json and
scores.jsonl."""

from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.plots import plot
from lfpc_jax.evaluation.results import Answers, Results, encoded


def write_results(
    journal: Journal, answers: Answers, results: Results, seconds: dict[str, float]
) -> None:
    """Writes them all under other names before the first replaces an older one."""
    out = journal.folder
    new_files = [out / f"{name}.new" for name in ("results.json", "timing.json")]
    for file, value in zip(new_files, (results, seconds)):
        file.write_bytes(encoded(value))
    picture = out / "results.new.png"
    plot(results, picture)
    journal.write_scores(answers)
    picture.replace(out / "results.png")
    for file in new_files:
        file.replace(file.with_suffix(""))
