"""A remote target against a server of the test's own: what it is asked, and what is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.cropvlm import showing
from lfpc_jax.cropvlm.remote import RemoteTarget, TargetFailed
from lfpc_jax.cropvlm.target import Question, Said, Target
from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import Blank, altered
from lfpc_jax.evaluation.conditions import without_tool
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.trajectory import Picture, Record
from support.judge_server import drip, hang_up, late, say, status
from support.target_server import (
    TargetServer,
    ask,
    asking,
    boxes,
    picture,
    record,
    settings,
)

BOX = (20.0, 10.0, 120.0, 70.0)


def scripted(*behaviours):
    """Each request's behaviour in turn, the last one for all that follow."""
    return lambda index, asked: behaviours[min(index, len(behaviours) - 1)]


def shown(original, tokens, box=None):
    """What a server must see of a picture, by the resize rule alone."""
    image = pictures.original(original)
    cut = image if box is None else image.crop(tuple(map(int, box)))
    return ImageProcessor().with_tokens(tokens).resize(cut)


@pytest.mark.parametrize(
    ("presentation", "box", "parts"),
    [
        ("both", BOX, ("full", "crop")),
        ("both", None, ("full",)),
        ("crop", BOX, ("crop",)),
        ("crop", None, ()),
        ("image", BOX, ("full",)),
    ],
)
def test_what_is_asked(tmp_path, presentation, box, parts):
    """One turn with the pictures in order, exactly as the target's own budgets show them, and the
    published prompt."""
    seen = []

    def behave(index, asked):
        seen.append(asked)
        return say("Exit.")

    big = record(size=(1300, 900))
    changes = {"image_tokens": 100, "crop_tokens": 64, "presentation": presentation}
    with asking(behave, tmp_path, answer_tokens=20, **changes) as (target, server):
        assert isinstance(target, Target)
        assert ask(target, (big, (box,))) == [(Said("Exit"),)]
    ((sent, text),) = seen
    assert text == "What does the sign say?\nGive a very brief answer."
    budgets = {"full": shown(big.picture, 100), "crop": shown(big.picture, 64, BOX)}
    assert len(sent) == len(parts)
    for pixels, part in zip(sent, parts):
        np.testing.assert_array_equal(pixels, budgets[part])
    ((_, path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    del body["messages"]
    assert body == {"model": "seer-1", "temperature": 0, "seed": 0, "max_tokens": 20}


def test_pictures_are_downsampled_to_the_target_s_budget(tmp_path):
    """324 tokens have the area of 504 x 504 pixels."""
    seen = []

    def behave(index, asked):
        seen.append([(*pixels.shape,) for pixels in asked[0]])
        return say("Exit.")

    with asking(behave, tmp_path) as (target, _):
        ask(target, (record(size=(2000, 1500)), ((0.0, 0.0, 1000.0, 1500.0),)))
    (((height, width, _), (tall, wide, _)),) = seen
    assert 0.9 * 504**2 < height * width <= 504**2
    assert 0.9 * 504**2 < tall * wide <= 504**2
    assert width / height == pytest.approx(4 / 3, rel=0.05)
    assert tall / wide == pytest.approx(3 / 2, rel=0.05)


def test_a_question_without_a_picture_is_asked_in_text(tmp_path):
    seen = []

    def behave(index, asked):
        seen.append(asked)
        return say("4")

    plain = Record("t", "how much is 2 + 2?", "4", Picture(), options=("3", "4"))
    with asking(behave, tmp_path, {"concurrent": 1}) as (target, _):
        assert ask(target, (plain, (None, BOX))) == [(Said("4"), Said("4", cached=True))]
    ((sent, text),) = seen
    assert sent == []
    assert text.startswith("How much is 2 + 2?\nA. 3\nB. 4\n")


def test_alterations_and_the_missing_tool_apply(tmp_path):
    seen = []

    def behave(index, asked):
        seen.append(asked[0])
        return say(str(index))

    asked = (record(), (BOX,))
    with asking(behave, tmp_path) as (target, server):
        (plain,) = ask(target, asked)
        with altered(target, Blank()):
            (blank,) = ask(target, asked)
        before, target.dialogue = target.dialogue, without_tool(target.dialogue)
        (none,) = ask(target, asked)
        target.dialogue = before
        assert ask(target, asked) == [(replace(plain[0], cached=True),)]
        assert len(server.requests) == 3
    assert [said.answer for (said,) in (plain, blank, none)] == ["0", "1", "2"]
    full = seen[0][0]
    assert [len(sent) for sent in seen] == [2, 2, 1]
    for sent in seen:
        np.testing.assert_array_equal(sent[0], full)
    assert np.ptp(seen[0][1]) > 200
    assert set(map(tuple, seen[1][1].reshape(-1, 3))) == {(123, 117, 104)}


@pytest.mark.seconds
def test_answers_come_in_order_and_side_by_side(tmp_path):
    """Later requests are answered sooner; never more are open than allowed."""

    def behave(index, asked):
        return late(0.05 * (12 - index % 12), say(f"{asked[1][5:6]} {asked[0][1].sum()}"))

    questions = [(record(str(n), f"Sign {n}?", seed=n), boxes(4)) for n in range(6)]
    with asking(behave, tmp_path, {"concurrent": 4}) as (target, server):
        said = ask(target, *questions)
        assert server.most_open == 4
        assert len(server.requests) == 24
        for (asked, its_boxes), answers in zip(questions, said):
            for box, each in zip(its_boxes, answers):
                crop = shown(asked.picture, 324, box)
                assert each == Said(f"{asked.question[5:6]} {crop.sum()}")


@pytest.mark.seconds
def test_the_same_is_asked_once(tmp_path):
    """In one call, in the next one whatever its seed, in another target, for another record that
    looks the same; not for another model, budget, question or picture."""
    same, box = record(), (BOX,)
    with asking(scripted(late(0.3, say("Exit."))), tmp_path) as (target, server):
        (five, (last,)) = ask(target, (same, box * 5), (record("other"), box))
        assert {each.answer for each in (*five, last)} == {"Exit"}
        assert sorted(each.cached for each in (*five, last)) == [False] + [True] * 5
        assert ask(target, (same, box), seed=7) == [(Said("Exit", cached=True),)]
        again = RemoteTarget(settings(server.url, tmp_path))
        assert ask(again, (same, box)) == [(Said("Exit", cached=True),)]
        assert len(server.requests) == 1
        others = [
            replace(again.settings, model="seer-2"),
            replace(again.settings, image_tokens=4),
            replace(again.settings, answer_tokens=8),
        ]
        for number, other in enumerate(others):
            ask(RemoteTarget(other), (same, box))
            assert len(server.requests) == 2 + number
        ask(again, (replace(same, question="Which exit?"), box))
        ask(again, (replace(same, picture=picture(seed=1)), box))
        assert len(server.requests) == 6


def test_another_server_is_another_target(tmp_path):
    for answer in ("Exit", "No"):
        with asking(scripted(say(answer)), tmp_path) as (target, server):
            assert ask(target, (record(), (BOX,))) == [(Said(answer),)]
            assert len(server.requests) == 1


def test_what_another_process_added_since_is_known(tmp_path):
    with asking(scripted(say("Exit.")), tmp_path) as (first, server):
        second = RemoteTarget(settings(server.url, tmp_path))
        ask(first, (record(), (BOX,)))
        assert ask(second, (record(), (BOX,))) == [(Said("Exit", cached=True),)]
        assert len(server.requests) == 1


def test_the_encoder_of_pictures_decides_nothing(tmp_path, monkeypatch):
    """Another version of Pillow or zlib writes the same pixels in other bytes."""
    with asking(scripted(say("Exit.")), tmp_path) as (target, server):
        ask(target, (record(), (BOX,)))
        save = PIL.Image.Image.save
        monkeypatch.setattr(
            PIL.Image.Image, "save", lambda self, *args: save(self, *args, compress_level=0)
        )
        ask(target, (record(), (BOX,)))
        assert len(server.requests) == 1


def test_what_a_model_says_is_read_as_a_local_one_s(tmp_path):
    """Its spaces and thoughts are left out, and half a character becomes a question mark."""
    said = ["  Exit. \n", "<think>hm</think>Exit.", "<answer>exit</answer>", "", "\ud800!"]
    with asking(scripted(*map(say, said)), tmp_path, {"concurrent": 1}) as (target, _):
        (answers,) = ask(target, (record(), boxes(len(said))))
        assert [each.answer for each in answers] == ["Exit", "Exit", "exit", "", "?!"]
        (again,) = ask(target, (record(), boxes(len(said))))
    assert again == tuple(replace(each, cached=True) for each in answers)


def test_what_cannot_be_shown_is_a_fault_of_its_own(tmp_path):
    broken = replace(record(), picture=Picture(data=b"no picture"))
    with asking(scripted(say("Exit.")), tmp_path) as (target, server):
        ((off, fine), (unread,)) = ask(
            target, (record(), ((300.0, 0.0, 400.0, 50.0), BOX)), (broken, (BOX,))
        )
        assert off.fault.startswith("cannot be shown: the box (300.0, 0.0, 400.0, 50.0) covers")
        assert unread.fault.startswith("cannot be shown: unreadable picture: 10 embedded bytes")
        assert off.answer is unread.answer is None
        assert fine == Said("Exit")
        assert len(server.requests) == 1


def test_progress_is_told(tmp_path):
    told = []

    @contextmanager
    def bar(what, total):
        told.append((what, total))
        yield told.append

    with TargetServer(scripted(say("Exit."))) as server:
        target = RemoteTarget(settings(server.url, tmp_path), bar)
        ask(target, (record(), boxes(3)))
    assert told == [("asking the target", 3), 1, 1, 1]


# ---------------------------------------------------------------- processes

ASKING = """
import sys
from support.target_server import RemoteTarget, ask, boxes, record, settings
url, cache = sys.argv[1:]
target = RemoteTarget(settings(url, cache, {"concurrent": 4}))
ask(target, *((record(str(n), f"Sign {n}?", seed=n), boxes(10)) for n in range(4)))
"""


def started(server, cache):
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", ASKING, server.url, str(cache)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})


def asked_here(server, cache):
    """The same in this process, by a target that knows nothing but what is on disk."""
    target = RemoteTarget(settings(server.url, cache, {"concurrent": 4}))
    said = ask(target, *((record(str(n), f"Sign {n}?", seed=n), boxes(10)) for n in range(4)))
    return [[each.answer for each in of_question] for of_question in said]


def answer_of(asked):
    return f"{asked[1][:6]} {int(asked[0][1].sum())}"


@pytest.mark.seconds
def test_a_killed_process_asks_only_for_what_it_had_not_kept(tmp_path):
    """Two processes at once are killed with -9 in the middle; what was under way is asked again,
    and nothing else. Then nothing is left to ask."""
    with TargetServer(lambda index, asked: late(0.05, say(answer_of(asked)))) as server:
        two = [started(server, tmp_path) for _ in range(2)]
        while len(server.requests) < 30:
            time.sleep(0.01)
        for process in two:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        kept = {
            json.loads(line)["key"]
            for file in tmp_path.iterdir()
            for line in file.read_bytes().splitlines()
            if line.endswith(b"}")
        }
        assert 0 < len(kept) < 40
        before = len(server.requests)
        first = asked_here(server, tmp_path)
        assert len(server.requests) - before <= 40 - len(kept)
        before = len(server.requests)
        second = asked_here(server, tmp_path)
        assert len(server.requests) == before
        assert first == second
        for number in range(4):
            for box, answer in zip(boxes(10), first[number], strict=True):
                crop = shown(picture(seed=number), 324, box)
                assert answer == f"Sign {number} {int(crop.sum())}"


# ---------------------------------------------------------------- before anything depends on it


def test_a_target_that_sees_passes_and_keeps_nothing(tmp_path):
    seen = []

    def behave(index, asked):
        seen.append(asked[0])
        return say("It is Red." if all((p[..., 0] > p[..., 1]).all() for p in asked[0]) else "?")

    with asking(behave, tmp_path) as (target, _):
        target.check()
        target.check()
    assert [len(sent) for sent in seen] == [2, 2]  # as many as will be shown, and asked anew
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("behave", "named", "requests"),
    [
        (scripted(status(401)), "HTTP 401 Unauthorized (attempt 1); check the API key", 1),
        (scripted(status(404)), "HTTP 404 Not Found (attempt 1); check that target.url ends in", 1),
        (scripted(status(400)), "check that the model takes as many pictures", 1),
        (scripted(hang_up), "no connection (RemoteDisconnected) (attempt 1); check that the", 1),
        (scripted(status(503)), "HTTP 503 Service Unavailable (attempt 3)", 3),
        (scripted(say("A blue one")), "does not see its pictures: {url}, model seer-1", 1),
    ],
)
def test_a_target_that_cannot_answer_is_found_out_at_once(tmp_path, behave, named, requests):
    with asking(behave, tmp_path) as (target, server), pytest.raises(TargetFailed) as refused:
        target.check()
    assert named.format(url=f"{server.url}/chat/completions") in str(refused.value)
    assert server.url in str(refused.value)
    assert "blue" not in str(refused.value)
    assert len(server.requests) == requests


@pytest.mark.parametrize("slow", [late(20, say("red")), drip, status(503)])
def test_a_check_takes_no_longer_than_one_reply_may(tmp_path, slow):
    patience = {"reply_seconds": 0.3, "attempts": 1000, "batch_seconds": 60.0}
    with asking(scripted(slow), tmp_path, patience) as (target, _):
        started_at = time.monotonic()
        with pytest.raises(TargetFailed, match="the target gives no answers"):
            target.check()
        assert time.monotonic() - started_at < 2


def test_what_a_server_cannot_do_is_refused_with_the_remedy(tmp_path):
    target = RemoteTarget(settings("http://h/v1", tmp_path))
    with pytest.raises(ValueError, match=r"no log-likelihoods.*target\.path MODEL"):
        target.likelihoods([Question(record(), (BOX,))])
    with pytest.raises(ValueError, match=r"presentation zoom.*set target\.presentation both"):
        RemoteTarget(settings("http://h/v1", tmp_path, presentation="zoom"))
    with pytest.raises(ValueError, match=r"target\.cache is empty.*target\.cache FOLDER"):
        RemoteTarget(settings("http://h/v1", ""))
    with pytest.raises(ValueError, match=r"tokenizer is on its server.*target\.path MODEL"):
        target.dialogue.open(record())


@pytest.mark.parametrize(
    ("url", "patience"),
    [
        ("localhost:8000", {}),
        ("http://user:secret@h/v1", {}),
        ("http://h/v1?key=secret", {}),
        ("http://h/v1", {"attempts": 0}),
        ("http://h/v1", {"batch_seconds": float("nan")}),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, url, patience):
    with pytest.raises(ValueError, match=r"target\.(url|patience)") as refused:
        RemoteTarget(settings(url, tmp_path, patience))
    assert "@" not in url or "secret" not in str(refused.value)


def test_the_identity_says_where_and_how(tmp_path):
    target = RemoteTarget(settings("http://h:8000/v1", tmp_path))
    assert target.identity == {
        "url": "http://h:8000/v1", "model": "seer-1", "presentation": "both",
        "image_tokens": 324, "crop_tokens": 324, "answer_tokens": 32,
        "prompt": target.dialogue.wording,
    }  # fmt: skip
    json.dumps(target.identity)


@pytest.mark.parametrize("presentation", ["both", "crop", "image"])
def test_another_wording_is_another_target(tmp_path, monkeypatch, presentation):
    """As for a local one: what is asked around questions is part of this code."""
    target = RemoteTarget(settings("http://h:8000/v1", tmp_path, presentation=presentation))
    before = target.identity
    with altered(target, Blank()):
        assert target.identity == before
    monkeypatch.setattr(showing, "BRIEFLY", "Answer in a word.")
    assert {name for name in before if target.identity[name] != before[name]} == {"prompt"}
