"""What a dry run prints, against what one counts by hand."""

import shutil
from dataclasses import replace

import pytest

from lfpc_jax.cli import train
from lfpc_jax.data import layout
from support import micro, small

FLAGS = [
    "--dry-run",
    "--data.train",
    "set",
    "--model.dtype",
    "bfloat16",
    "--model.train_vision",
    "false",
]


def printed_rows(text: str) -> dict[str, list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    return {name: values for name, *values in cells}


def test_stage_1_is_planned_without_its_weights(tmp_path, monkeypatch, capsys):
    """The published 7B has 7,615,616,512 parameters of text and 676,550,144 of the tower, which is
    frozen here. Four copies on eight devices. A token has keys and values of 28 layers with 4 heads
    of 128. There are 256 slots of 8,192 places, copied in a decode with 16 more, and half more than
    the 16 prompts that slots need, of an image of 1,024 and 1,024 tokens of text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    layout.write(tmp_path / "set", [small.record(0)])
    assert train.main(["--config", "stage1.py", *FLAGS, "--rollout.tensor", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Qwen2.5-VL-7B-Instruct is not here: planned with the published model" in printed
    rows = printed_rows(printed)
    assert rows["prompts and rollouts a step"] == ["256 x 16"]
    assert rows["updates of the run"] == ["640"]
    assert rows["ids of an episode, at most"] == ["8192"]
    assert rows["tokens sampled in a turn, at most"] == ["2048"]
    # An image and 1,024 tokens of text; four crops with 64 of text each.
    assert rows["in an episode, without crops"] == [str(8192 - 1024 - 1024)]
    assert rows["in an episode, with 4 full crops"] == [str(8192 - 2048 - 4 * (1024 + 64))]
    # A window is 16 tokens: an image of 1,024 has at most 72, if it is not a strip.
    assert rows["a micro-batch on each shard"] == ["2 x 8192 tokens, and of pictures 144 windows"]
    assert rows["places for tokens that count, a row"] == ["(2048, 8192)"]
    # Four episodes of 1,489 tokens and their prompt in a row; 4 groups on each of 8 devices.
    [fill] = rows["expected fill of rows and windows"]
    assert fill.startswith(f"{(1423 + 4 * 1489) / 8192:.2f} and {64 / 72:.2f}")
    assert rows["micro-batches of an update"] == ["8 of rows, 34 of pictures"]
    assert rows["a prompt is computed"] == ["4.0 times in an update"]
    [saved] = rows["updates save"]
    assert saved == "none, of the vision tower none (fastest on a CPU)"
    text, tower = 7_615_616_512, 676_550_144
    token = 2 * 28 * 4 * 128 * 2
    prompts, own, copied = 24 * 2048 * token, 256 * 8192 * token, 256 * 8208 * token
    assert rows["prompts in memory, a process"] == [
        "24 of at most 2048 ids, each for up to 16 rollouts"
    ]
    assert rows["slots, a process"] == ["256 with room for 8192 ids after the prompt"]
    for name, in_all, on_each in (
        ("trained parameters, float32", 4 * text, text / 2),
        ("Adam's two moments", 8 * text, text),
        ("gradients, float32", 4 * text, text / 2),
        ("trained parameters, bfloat16", 2 * text, text / 4),
        ("frozen parameters", 2 * tower, tower / 4),
        ("rollout's parameters", 4 * 2 * (text + tower), text + tower),
        ("rollout's prompts, a process", prompts, prompts / 8),
        ("rollout's slots, a process", own, own / 8),
        ("their working copies in decode", copied, copied / 8),
    ):
        assert rows[name] == [f"{size / 2**30:.2f}" for size in (in_all, on_each)], name


def test_a_kl_term_holds_a_copy_of_what_is_trained(tmp_path, monkeypatch, capsys):
    """The 7B's parameters in bfloat16 over eight devices; updates have the frozen tower already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    layout.write(tmp_path / "set", [small.record(0)])
    tables = []
    for kl in ("0", "0.1"):
        assert train.main(["--config", "stage1.py", *FLAGS, "--update.objective.kl", kl]) == 0
        tables.append(printed_rows(capsys.readouterr().out))
    without, with_kl = tables
    whole = 2 * 7_615_616_512 / 2**30
    row = {"reference's parameters": [f"{whole:.2f}", f"{whole / 8:.2f}"]}
    assert with_kl == without | row


def test_a_model_of_no_published_name_must_be_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "stage2.py", "--dry-run"]) == 1
    assert "runs/stage1 is not here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (None, "set"),
        (0, "set: no records"),
        (3, "set: none of the first 3 records can be used; the first, r0: missing picture"),
    ],
)
def test_data_that_cannot_be_read_fails_a_dry_run(tmp_path, monkeypatch, capsys, records, message):
    """It was found only by the run itself, on the machines that were paid for."""
    monkeypatch.chdir(tmp_path)
    if records is not None:
        layout.write(tmp_path / "set", [small.record(number) for number in range(records)])
        shutil.rmtree(tmp_path / "set" / "images", ignore_errors=True)
    assert train.main(["--config", "stage1.py", *FLAGS]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_counts_the_records_and_opens_the_first_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    layout.write(tmp_path / "set", [small.record(n) for n in range(19)])
    layout.write(tmp_path / "held", [small.record(n) for n in range(3)])
    min((tmp_path / "held" / "images").rglob("*.*")).unlink()
    assert train.main(["--config", "stage1.py", *FLAGS, "--data.validation", "held"]) == 0
    rows = printed_rows(capsys.readouterr().out)
    assert rows["set"] == ["train", "19", "none", "16 of 16 read", "not measured"]
    assert rows["held"] == ["validation", "3", "none", "2 of 3 read", "not measured"]


def fitting(tmp_path, monkeypatch, questions, *flags, config=micro.__file__):
    """A dry run of a micro config with a set of these questions, and a sound one to validate on:
    its exit code."""
    monkeypatch.setenv("MICRO", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "150")
    small.hf_folder(tmp_path / "hf")
    records = [replace(small.record(n), question=each) for n, each in enumerate(questions)]
    layout.write(tmp_path / "set", records)
    layout.write(tmp_path / "held", [small.record(0)])
    held = ("--data.validation", str(tmp_path / "held"))
    return train.main(["--config", str(config), "--dry-run", *held, *flags])


LONG = "Where is " + "the red " * 120 + "mark?"


@pytest.mark.compiles
def test_prompts_that_fit_are_measured(tmp_path, monkeypatch, capsys):
    assert fitting(tmp_path, monkeypatch, ["Where?"] * 3) == 0
    printed, errors = capsys.readouterr()
    [longest] = printed_rows(printed)[str(tmp_path / "set")][-1:]
    text = small.dialogue().size(replace(small.record(0), question="Where?"))[1]
    assert longest == f"{text} text tokens"
    assert "warning" not in errors


@pytest.mark.compiles
def test_one_long_prompt_among_many_is_found_and_its_flags_named(tmp_path, monkeypatch, capsys):
    """A run skipped it, a step after the machines were paid for. The flags that are named do."""
    questions = ["Where?"] * 600
    questions[457] = LONG
    assert fitting(tmp_path, monkeypatch, questions) == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert f"{tmp_path / 'set'}: a few of its prompts are longer" in line
    assert "rollout.prompt_text (48,)" in line
    assert "the longest, r457, has" in line
    flags = line.rpartition(" fit with ")[2].split()
    assert fitting(tmp_path / "again", monkeypatch, questions, *flags) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("long", "most", "code"),
    [(3, "0.5", 1), (2, "0.5", 0), (1, "0.2", 1), (4, "1", 1), (3, "1", 0)],
)
def test_a_set_of_which_a_run_would_skip_too_much_fails(
    tmp_path, monkeypatch, capsys, long, most, code
):
    questions = [LONG] * long + ["Where?"] * (4 - long)
    assert fitting(tmp_path, monkeypatch, questions, "--health.most_skipped", most) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: " if code else "warning: ")
    assert f"{long / 4:.1%} of its prompts are longer" in last
    assert "--rollout.prompt_text 48," in last


IMITATES = """
from dataclasses import replace
from lfpc_jax.grpo.objective import Objective
from support import micro

def answers(record, view, rng):
    return (record.answer,)

def get_config():
    config = micro.get_config()
    update = replace(config.update, objective=Objective(kind="sft"))
    return replace(config, stage="sft", demonstrate=answers, update=update)
"""


@pytest.mark.compiles
def test_imitation_has_no_buckets_for_its_prompts(tmp_path, monkeypatch, capsys):
    config = tmp_path / "imitates.py"
    config.write_text(IMITATES)
    code = fitting(tmp_path, monkeypatch, [LONG] * 4, config=config)
    errors = capsys.readouterr().err
    assert code == 0, errors
    assert "longer" not in errors


def test_the_prompts_of_a_model_that_is_not_here_are_not_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    layout.write(tmp_path / "set", [small.record(0)])
    assert train.main(["--config", "stage1.py", *FLAGS]) == 0
    printed, errors = capsys.readouterr()
    assert printed_rows(printed)["set"][-1] == "not measured"
    assert "is not here, so whether prompts fit is not known" in errors
