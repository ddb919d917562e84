"""Reads run folders as people's own processes do, without the tests' checks of annotations, which
would refuse damaged values before the report does. Prints a JSON object a folder."""

import json
import sys
from pathlib import Path

from lfpc_jax.report.album import Album
from lfpc_jax.report.conversation import Decoder
from lfpc_jax.report.episodes import Episodes
from lfpc_jax.report.run import open_run


def gather(folder: Path, pattern: str = "*", limit: int = 100):
    run = open_run(folder, None)
    episodes, decoder = Episodes(Album()), Decoder(run.tokenizer)
    for part, group in run.groups(pattern, limit):
        episodes.add(0, part, part, group, decoder)
    return run, episodes


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run, episodes = gather(Path(name))
        problems = [str(problem) for problem in (*run.problems, *episodes.problems)]
        print(json.dumps([problems, len(episodes.lines), episodes.details]))
