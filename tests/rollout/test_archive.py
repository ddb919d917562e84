import base64
import hashlib
import json
import resource
import zlib
from dataclasses import astuple, fields, replace

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from lfpc_jax.processing.geometry import Frame
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.protocol import Answer, read_turn
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.trajectory import Crop, Group, Picture, Record, Trajectory, Turn

ARRAYS = {"ids": np.int32, "sampled": bool, "logprobs": np.float32, "policy_logprobs": np.float32}
RECORD = Record(
    id="r/1",
    question='Is it "red"?\n\ud800 汉字',
    answer="A",
    picture=Picture(path="images/1.jpg"),
    options=("yes", "no"),
    targets=(((1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 1e308, 5e-324)), ((0.0, 0.0, 9.0, 9.0),)),
    longest_side=224,
    dataset="synthetic",
    category="single",
)
TURNS = (
    Turn(
        3,
        9,
        "<think>\ud800 é",
        call=True,
        crop=Crop((-1e308, 1 / 3, 2.0, 3.0), (0.0, 0.0, 28.0, 28.0)),
    ),
    Turn(12, 14, "?", call=True, fault="bad_json"),
    Turn(15, 20, "<answer>A</answer>"),
)


def trajectory(rollout=0, tokens=20, record="r/1", seed=0):
    rng = np.random.default_rng(seed)
    logprobs = rng.standard_normal(tokens).astype(np.float32)
    return Trajectory(
        record=record,
        rollout=rollout,
        ids=rng.integers(0, 152_064, tokens).astype(np.int32),
        sampled=rng.random(tokens) < 0.5,
        logprobs=logprobs,
        policy_logprobs=logprobs + rng.standard_normal(tokens).astype(np.float32),
        original=(7680, 4320),
        shown=(1176, 672),
        turns=TURNS,
        end="answered",
        answer="A",
    )


def assert_same(found, wanted):
    for field in fields(Trajectory):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if field.name in ARRAYS:
            assert a.dtype == ARRAYS[field.name]
            assert not a.flags.writeable, "as of every trajectory"
            np.testing.assert_array_equal(a.view(np.uint8), np.asarray(b).view(np.uint8))
        else:
            assert a == b, field.name
            assert type(a) is type(b), field.name


def group(*rollouts, record=RECORD):
    return Group(record, tuple(trajectory(n, record=record.id, seed=n) for n in rollouts))


def test_round_trip(tmp_path):
    archive = Archive(tmp_path / "trajectories")
    groups = [group(0, 1, 2), Group(RECORD, ()), group(5, record=replace(RECORD, id=""))]
    archive.append("step-7", groups[:1])
    archive.append("step-7", groups[1:])
    archive.append("other.part", groups[:1])
    found = list(archive.read("step-7"))
    assert [one.record for one in found] == [one.record for one in groups]
    for one, wanted in zip(found, groups):
        assert len(one.trajectories) == len(wanted.trajectories)
        for a, b in zip(one.trajectories, wanted.trajectories):
            assert_same(a, b)
    assert archive.parts() == ["other.part", "step-7"]


bits = hnp.arrays(np.uint32, 9)


@given(bits, bits, hnp.arrays(np.int32, 9), hnp.arrays(bool, 9))
def test_every_bit_of_the_arrays_comes_back(tmp_path_factory, a, b, ids, sampled):
    archive = Archive(tmp_path_factory.mktemp("archive"))
    arrays = {
        "ids": ids,
        "sampled": sampled,
        "logprobs": a.view(np.float32),
        "policy_logprobs": b.view(np.float32),
    }
    wanted = replace(trajectory(), **arrays)
    archive.append("a", [Group(RECORD, (wanted,))])
    [found] = archive.read("a")
    assert_same(found.trajectories[0], wanted)


@pytest.mark.parametrize("tokens", [0, 1, 5000])
def test_any_length_comes_back(tmp_path, tokens):
    wanted = trajectory(tokens=tokens)
    Archive(tmp_path).append("a", [Group(RECORD, (wanted,))])
    [found] = Archive(tmp_path).read("a")
    assert_same(found.trajectories[0], wanted)


@pytest.mark.parametrize(
    "end", ["answered", "no_action", "max_turns", "max_tokens", "context_full"]
)
def test_every_end_comes_back(tmp_path, end):
    wanted = replace(trajectory(), end=end, answer=None, turns=())
    Archive(tmp_path).append("a", [Group(RECORD, (wanted,))])
    [found] = Archive(tmp_path).read("a")
    assert_same(found.trajectories[0], wanted)


def test_pictures_in_bytes_are_stored_once(tmp_path):
    data = bytes(range(256)) * 100
    records = [replace(RECORD, id=str(n), picture=Picture(data=data)) for n in range(3)]
    archive = Archive(tmp_path)
    for record in records:
        archive.append("a", [group(0, 1, record=record)])
    [file] = (tmp_path / "pictures").iterdir()
    assert file.name == hashlib.sha256(data).hexdigest()
    assert file.read_bytes() == data
    for found, wanted in zip(archive.read("a"), records, strict=True):
        assert found.record == replace(wanted, picture=Picture(path=str(file)))
    assert (tmp_path / "a.jsonl").stat().st_size < len(data)


def test_a_picture_that_has_a_path_is_only_referred_to(tmp_path):
    Archive(tmp_path).append("a", [group(0)])
    assert not (tmp_path / "pictures").exists()


def test_a_last_line_cut_anywhere_is_reported_and_skipped(tmp_path, caplog):
    archive = Archive(tmp_path)
    file = tmp_path / "a.jsonl"
    archive.append("a", [group(0)])
    whole = file.stat().st_size
    archive.append("a", [group(1)])
    data = file.read_bytes()
    for size in [whole + 1, whole + 2, *range(whole + 3, len(data) - 1, 97), len(data) - 2]:
        file.write_bytes(data[:size])
        caplog.clear()
        [found] = archive.read("a")
        assert found.trajectories[0].rollout == 0
        [message] = caplog.messages
        assert "a.jsonl, line 2: no whole group, skipped" in message
    file.write_bytes(data[:-1])  # only the newline is lost
    assert len(list(archive.read("a"))) == 2


def test_appending_after_a_crash_loses_only_what_the_crash_cut(tmp_path, caplog):
    archive = Archive(tmp_path)
    file = tmp_path / "a.jsonl"
    archive.append("a", [group(0), group(1)])
    file.write_bytes(file.read_bytes()[:-40])
    archive.append("a", [group(2)])
    assert [one.trajectories[0].rollout for one in archive.read("a")] == [0, 2]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "line",
    [
        *[b"\n", b"\0\0\0\n", b"null\n", b"[1]\n", b"{}\n", b'{"version": 1}\n', b"\xff\xfe\n"],
        b'{"version": 1, "record": {}, "trajectories": []}\n',
        b'{"version": 1, "record": {"picture": {}}, "trajectories": []}\n',
    ],
)
def test_lines_that_are_no_groups_are_skipped(tmp_path, caplog, line):
    archive = Archive(tmp_path)
    archive.append("a", [group(0)])
    file = tmp_path / "a.jsonl"
    file.write_bytes(line + file.read_bytes())
    [found] = archive.read("a")
    assert found.record == RECORD
    assert "line 1" in caplog.text


def test_damaged_arrays_are_skipped(tmp_path, caplog):
    archive = Archive(tmp_path)
    archive.append("a", [group(0), group(1)])
    file = tmp_path / "a.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    entry = json.loads(first)
    packed = entry["trajectories"][0]["arrays"]
    for damaged in (packed[:-8], packed[4:], "!" + packed[1:], packed[:40] + "AAAA" + packed[44:]):
        entry["trajectories"][0]["arrays"] = damaged
        file.write_bytes(json.dumps(entry).encode() + b"\n" + second)
        [found] = archive.read("a")
        assert found.trajectories[0].rollout == 1
    assert len(caplog.messages) == 4


def test_another_version_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"version": 2}\n')
    with pytest.raises(ValueError, match="line 1: version 2"):
        list(Archive(tmp_path).read("a"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Group(RECORD, (trajectory(record="other"),)), "its own group"),
        (Group(replace(RECORD, picture=Picture("x", b"x")), ()), "both"),
        (Group(RECORD, (replace(trajectory(), ids=np.zeros(20)),)), "ids is float64"),
        (Group(RECORD, (replace(trajectory(), sampled=np.zeros(19, bool)),)), "sampled is bool"),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path, wrong, words):
    archive = Archive(tmp_path)
    archive.append("a", [group(0)])
    with pytest.raises(ValueError, match=words):
        archive.append("a", [wrong])
    assert len(list(archive.read("a"))) == 1


@pytest.mark.parametrize("part", ["", "a/b", "/a", "../a"])
def test_a_part_stays_in_the_folder(tmp_path, part):
    with pytest.raises(ValueError, match="named like a file"):
        Archive(tmp_path).append(part, [])


def test_reading_streams(tmp_path):
    archive = Archive(tmp_path)
    archive.append("a", [group(n) for n in range(50)])
    groups = archive.read("a")
    assert next(groups).trajectories[0].rollout == 0
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert len(list(groups)) < 49


def test_a_trajectory_is_compact(tmp_path):
    """A 4,000-token episode of 2,700 placeholders and 700 samples at temperature 1."""
    rng = np.random.default_rng(0)
    wanted = trajectory(tokens=4000)
    ids = wanted.ids.copy()
    ids[300:3000] = 151655
    sampled = np.arange(4000) >= 3300
    logprobs = np.where(sampled, -rng.exponential(size=4000), 0).astype(np.float32)
    wanted = replace(wanted, ids=ids, sampled=sampled, logprobs=logprobs, policy_logprobs=logprobs)
    Archive(tmp_path).append("a", [Group(RECORD, (wanted,))])
    assert (tmp_path / "a.jsonl").stat().st_size < 10_000 < 4000 * 13 / 5


def test_an_episode_can_be_replayed_from_the_archive_alone(tmp_path):
    original = PIL.Image.effect_noise((640, 480), 64).convert("RGB")
    original.save(tmp_path / "1.png")
    zoom = Zoom(ImageProcessor().with_tokens(128))
    toolbox, frame = Toolbox((zoom,)), Frame((640, 480), (308, 224))
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [%s]}}</tool_call>'
    texts = [call % "10, 20, 100, 90", call % "90, 20, 1, 9", "<answer>B</answer>"]
    first = toolbox.validate(read_turn(texts[0]), frame).execute(original)
    turns = (
        Turn(0, 5, texts[0], call=True, crop=first.crop),
        Turn(7, 9, texts[1], call=True, fault="reversed_box"),
        Turn(12, 20, texts[2]),
    )
    lived = replace(trajectory(), turns=turns, original=(640, 480), shown=(308, 224), answer="B")
    record = replace(RECORD, picture=Picture(data=(tmp_path / "1.png").read_bytes()))
    Archive(tmp_path).append("a", [Group(record, (lived,))])

    [found] = Archive(tmp_path).read("a")
    [again] = found.trajectories
    frame = Frame(again.original, again.shown)
    seen = PIL.Image.open(found.record.picture.path)
    observation = toolbox.validate(read_turn(again.turns[0].text), frame).execute(seen)
    assert astuple(observation.crop) == astuple(again.turns[0].crop)
    np.testing.assert_array_equal(observation.picture, first.picture)
    fault = toolbox.validate(read_turn(again.turns[1].text), frame)
    assert fault.cause == again.turns[1].fault
    assert read_turn(again.turns[2].text) == Answer(again.answer)


@pytest.mark.seconds
def test_a_foreign_line_cannot_fill_the_memory(tmp_path, caplog):
    """Each trajectory inflates to 200 MB of nothing, a thousand times what the line holds."""
    archive = Archive(tmp_path)
    archive.append("p", [group(0), group(0)])
    first, second = (tmp_path / "p.jsonl").read_bytes().splitlines()
    entry = json.loads(first)
    [kept, *_] = entry["trajectories"]
    kept["arrays"] = base64.b64encode(zlib.compress(bytes(13 << 24), 9)).decode()
    entry["trajectories"] = [kept] * 40
    (tmp_path / "p.jsonl").write_bytes(json.dumps(entry).encode() + b"\n" + second + b"\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(list(archive.read("p"))) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20
    assert "line 1: no whole group, skipped" in caplog.text
