"""The files that an evaluation's results are written to: results.json, results.png, timing.json,
scores.jsonl, and expansion.png of an expansion study."""

from lfpc_jax.evaluation.journal import Journal
from lfpc_jax.evaluation.plots import plot, plot_expansion
from lfpc_jax.evaluation.results import Answers, Results, encoded


def write_results(
    journal: Journal, answers: Answers, results: Results, seconds: dict[str, float]
) -> None:
    """Writes them all under other names before the first replaces an older one."""
    out = journal.folder
    new_files = [out / f"{name}.new" for name in ("results.json", "timing.json")]
    for file, value in zip(new_files, (results, seconds)):
        file.write_bytes(encoded(value))
    picture, expansion = out / "results.new.png", out / "expansion.new.png"
    plot(results, picture)
    expanded = plot_expansion(results, expansion)
    journal.write_scores(answers)
    picture.replace(out / "results.png")
    if expanded:
        expansion.replace(out / "expansion.png")
    for file in new_files:
        file.replace(file.with_suffix(""))
