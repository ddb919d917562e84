"""Evaluations whose judge fails: found out early, named, and never written over a good result."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest

from lfpc_jax.cli import compare
from lfpc_jax.cli import evaluate as command
from lfpc_jax.data import layout
from lfpc_jax.rewards.judge import JudgeSettings
from support import rigged, small
from support.judge_server import JudgeServer, say, status

FILES = ("results.json", "results.png", "scores.jsonl", "timing.json")


def says(episode):
    """Every fifth answer is one for the judge; the rules know that the others are right."""
    number = int(episode.opening.record.id[1:])
    return f"<answer>{'crimson or so' if number % 5 == 0 else 'red'}</answer>"


def knows(index, claim):
    """A sound judge, to whom crimson is red."""
    return say("no" if claim["answer"] == "blue" else "yes")


def only_the_check(trouble):
    """Sound as long as it is tried."""
    return lambda index, claim: knows(index, claim) if index < 2 else trouble


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """200 questions, of whose answers 40 need the judge."""
    place = tmp_path_factory.mktemp("unjudged") / "set"
    records = [replace(one, options=(), answer="red") for one in rigged.world(10)]
    layout.write(place, [replace(records[n % 10], id=f"w{n}") for n in range(200)])
    return place


@pytest.fixture(scope="module")
def graded(data, tmp_path_factory):
    """By rule alone: 80.0 %."""
    out = tmp_path_factory.mktemp("graded") / "out"
    assert asks(out, data, says) == 0
    return out


def asks(out, data, say_, *flags):
    """The exit code of an evaluation of a rigged model."""
    engine = rigged.RiggedEngine(say_, small.dialogue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "Engines", rigged.engines(engine))
        return command.main([str(out), "--model", "rigged", "--data", f"set={data}", *flags])


def kept(out):
    return {name: (out / name).read_bytes() for name in FILES}


def judged_by(server, *more):
    return ["--judge-url", server.url, "--judge-model", "m", *more]


def rescored(out, behave, *more):
    with JudgeServer(behave) as server:
        return command.main([str(out), "--rescore", *judged_by(server, *more)]), server


def overall(out):
    found = json.loads((out / "results.json").read_text())
    [condition] = found["benchmarks"]["set"]["budgets"]["1024"]["conditions"].values()
    return found, condition, condition["accuracy"]["overall"]


@pytest.mark.seconds
def test_a_sound_judge_decides_what_the_rules_cannot(graded, capsys):
    _, condition, accuracy = overall(graded)
    assert (accuracy["value"], accuracy["samples"]) == (0.8, 200)
    assert (condition["undecided_by_rule"], condition["unjudged"]["count"]) == (40, 0)
    before = kept(graded)
    code, server = rescored(graded, knows)
    assert code == 0
    assert len(server.requests) == 2 + 1  # claims alike are one
    assert overall(graded)[2]["value"] == 1
    said = capsys.readouterr()
    assert "200 of 200" in said.out
    assert f"trying the judge, {server.url}/chat/completions, model m ..." in said.err
    assert command.main([str(graded), "--rescore"]) == 0
    assert kept(graded) == before


TROUBLE = {
    "a wrong key": (lambda index, claim: status(401), "HTTP 401 Unauthorized"),
    "says yes to all": (lambda index, claim: say("yes"), "calls 'blue' right where 'red' is"),
    "not a judge": (lambda index, claim: say("Certainly!"), "neither yes nor no"),
    "a wrong key, later": (only_the_check(status(401)), "40 of 40 answers put to the judge"),
    "no model, later": (only_the_check(status(404)), "HTTP 404 Not Found"),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_a_failed_grading_leaves_the_good_one(graded, capsys, name):
    """79.0 % once became 100.0 [97.6, 100.0] of "200 of 200" by a server that refuses the key."""
    behave, cause = TROUBLE[name]
    shutil.rmtree(graded / "verdicts", ignore_errors=True)
    before = kept(graded)
    code, server = rescored(graded, behave)
    assert code == 1
    assert kept(graded) == before
    said = capsys.readouterr()
    assert server.url in said.err
    assert cause in said.err
    assert "100.0" not in said.out


def test_nobody_there_is_said_before_the_model_is_asked(data, tmp_path, capsys, monkeypatch):
    """67 s of silence, 0.0 % and an exit of 0, once."""

    def no_model(args):
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(command.Engines, "load", no_model)
    with JudgeServer(knows) as server:
        flags = [str(tmp_path / "out"), "--model", "m", "--data", str(data), *judged_by(server)]
    assert command.main(flags) == 1
    said = capsys.readouterr().err
    assert f"error: the judge gives no verdicts: {server.url}/chat/completions, model m" in said
    assert "no connection (ConnectionRefusedError: Connection refused) (attempt 1)" in said
    assert not (tmp_path / "out" / "trajectories").exists()


@pytest.mark.seconds
def test_a_judge_that_dies_while_the_model_answers_costs_no_answer(data, tmp_path, capsys):
    out = tmp_path / "out"
    with JudgeServer(only_the_check(status(401))) as server:
        assert asks(out, data, says, *judged_by(server)) == 1
    said = capsys.readouterr().err
    assert "HTTP 401 Unauthorized" in said
    assert f"run lfpc evaluate {out} --rescore with the flags of a judge" in said
    assert not (out / "results.json").exists()
    assert rescored(out, knows)[0] == 0
    assert overall(out)[2]["value"] == 1


def varied(episode):
    """Of 200 answers, 40 for the judge, each another."""
    number = int(episode.opening.record.id[1:])
    return f"<answer>{f'crimson {number}' if number % 5 == 0 else 'red'}</answer>"


@pytest.fixture
def many(data, tmp_path):
    assert asks(tmp_path / "out", data, varied) == 0
    return tmp_path / "out"


@pytest.mark.seconds
def test_a_judge_that_is_gone_midway_is_no_grading(data, tmp_path, capsys):
    """10 verdicts of 200, then none: nothing is written, whatever share is allowed, and once
    it is back it is not asked those 10 again."""

    def all_for_the_judge(episode):
        return f"<answer>crimson {episode.opening.record.id}</answer>"

    out = tmp_path / "out"
    assert asks(out, data, all_for_the_judge) == 0
    before = kept(out)

    mended = False

    def behave(index, claim):
        return knows(index, claim) if index < 12 or mended else status(401)

    with JudgeServer(behave) as server:
        again = [str(out), "--rescore", *judged_by(server)]
        assert command.main([*again, "--max-unjudged", "1"]) == 1
        assert "gives no more verdicts" in capsys.readouterr().err
        assert kept(out) == before
        mended, asked = True, len(server.requests)
        assert command.main(again) == 0
    assert len(server.requests) == asked + 2 + 190
    assert overall(out)[2]["value"] == 1


quick = partial(JudgeSettings, first_wait=0.001)


@pytest.mark.seconds
def test_what_could_not_be_judged_stands_in_the_headline(many, capsys):
    """A judge that cannot tell 16 of 40: no more than half. 184 of 200 are judged, all right."""

    def behave(index, claim):
        number = claim["answer"].removeprefix("crimson ")
        return say("hm") if number.isdigit() and int(number) < 80 else knows(index, claim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.judge_flags, "JudgeSettings", quick)
        assert rescored(many, behave, "--max-unjudged", "0.3")[0] == 1
        assert "16 of 40 answers put to the judge could not be judged, more than the share 0.3" in (
            capsys.readouterr().err
        )
        assert rescored(many, behave)[0] == 0
    found, condition, accuracy = overall(many)
    unjudged = {"count": 16, "of": 200, "share": 0.08, "causes": {"judge: neither yes nor no": 16}}
    assert found["unjudged"] == condition["unjudged"] == unjudged
    assert (accuracy["value"], accuracy["samples"], condition["unscored"]) == (1.0, 184, 16)
    said = capsys.readouterr()
    printed = " ".join(said.out.split())
    assert "over samples]; 8.0% of the answers could not be judged" in printed
    assert "184 of 200" in printed
    assert "200 of 200" not in printed
    assert (
        "16 of 200 answers could not be judged, which do not count (judge: neither yes" in printed
    )
    assert "16 answers could not be judged (judge: neither yes nor no); the first: http" in said.err


def test_a_share_that_is_none_is_refused(tmp_path, capsys):
    assert command.main([str(tmp_path), "--rescore", "--max-unjudged", "50"]) == 1
    assert "--max-unjudged is 50.0; it is a share" in capsys.readouterr().err


@pytest.mark.long
def test_a_comparison_counts_by_the_judge_who_graded(data, tmp_path, capsys):
    """It once graded by rule whatever the results said: 80.0 % where evaluate.py had said 100.0."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        assert asks(out, data, varied) == 0
    words = [str(tmp_path / "both"), "--arm", "one", str(one), "--arm", "two", str(two)]
    assert rescored(one, knows)[0] == 0
    assert compare.main(words) == 1
    assert "graded by different judges (one: m; two: by rule); grade all alike" in (
        capsys.readouterr().err
    )
    assert rescored(two, knows)[0] == 0
    assert compare.main(words) == 0
    [found] = json.loads((tmp_path / "both" / "comparison.json").read_text()).values()
    assert [found["arms"][arm]["accuracy"]["estimate"]["value"] for arm in ("one", "two")] == [1, 1]
    assert "could not be judged" not in capsys.readouterr().out
    for out in (one, two):  # a quarter of the verdicts is lost
        [kept_verdicts] = (out / "verdicts").glob("*.jsonl")
        lines = sorted(kept_verdicts.read_text().splitlines(keepends=True))
        kept_verdicts.write_text("".join(lines[len(lines) // 4 :]))
    assert compare.main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"one, {one}: 10 of 200 answers could not be judged, which do not count" in printed
    for out in (one, two):
        shutil.rmtree(out / "verdicts")
    assert compare.main(words) == 1
    said = capsys.readouterr().err
    assert "40 of 40 answers put to the judge could not be judged" in said
    url = json.loads((one / "results.json").read_bytes())["judge_server"]
    assert f"{one / 'verdicts'}: holds no verdict of m at {url}" in said
