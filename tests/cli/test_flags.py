"""Values of flags that cannot be meant are refused while flags are read, and named."""

from importlib import import_module

import pytest

from lfpc_jax.cli.parsers import evaluate


@pytest.mark.parametrize(
    "words",
    [
        "ask --model m --image i --question q --temperature nan",
        "ask --model m --image i --question q --temperature=-1",
        "ask --model m --image i --question q --tensor 0",
        "demo --steps 0",
        "demo --steps=-4",
        "demo --scenes 0",
        "demo --questions=-1",
        "demo --seeds 0 -1",
        "demo --temperatures 0 -1",
        "evaluate out --rollouts 0",
        "evaluate out --slots 0",
        "evaluate out --limit=-1",
        "evaluate out --max-lost nan",
        "evaluate out --max-lost 2",
        "evaluate out --temperature inf",
        "gather set out --max-lost=-1",
        "label_boxes set out --max-lost nan",
        "replay run --tensor 0",
        "select_resolution set out --n-answers 0",
        "select_resolution set out --chunk 0",
        "synthesize out --seed=-1",
        "new_model out --seed=-1",
        "serve --model m --temperature nan",
        "serve --model m --port=-1",
        "serve --model m --port 99999",
        "serve --model m --queue=-1",
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_flag(words, capsys):
    """`evaluate --rollouts 0` began a journal that no sound command could go on with, `demo --steps
    -4` made all of its data first, and `serve --port 99999` ended with a traceback."""
    command, *flags = words.split()
    with pytest.raises(SystemExit) as ended:
        import_module(f"lfpc_jax.cli.parsers.{command}").parser().parse_args(flags)
    assert ended.value.code == 2
    flag, value = flags[-1].split("=") if "=" in flags[-1] else (flags[-2], flags[-1])
    said = capsys.readouterr().err
    assert f": {value}: must " in said
    assert flag in said or not flag.startswith("--")


def test_the_ends_of_their_ranges_are_taken():
    flags = ["out", "--max-lost", "1", "--temperature", "0", "--limit", "1", "--rollouts", "1"]
    args = evaluate.parser().parse_args(flags)
    assert (args.max_lost, args.temperature, args.limit, args.rollouts) == (1.0, 0.0, 1, 1)
