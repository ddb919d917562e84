"""What is left out, with which reason, and when that stops a run."""

import io

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.data.audit import audit, check
from lfpc_jax.data.pictures import measured, original, shrink
from lfpc_jax.data.rejected import Rejected, TooManyLost, Unusable, parted, summary
from lfpc_jax.trajectory import Picture
from support.pictured import dialogue, jpeg, record

NEST = ((10.0, 10.0, 20.0, 20.0), (5.0, 5.0, 40.0, 40.0))


def encoded(image: PIL.Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png() -> bytes:
    return encoded(PIL.Image.new("RGB", (30, 20), "red"), "PNG")


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"picture": Picture(data=jpeg()[:-500])}, "unreadable picture", "truncated"),
        ({"picture": Picture(data=png()[:60])}, "unreadable picture", "embedded bytes"),
        ({"picture": Picture(data=b"no image")}, "unreadable picture", "8 embedded bytes"),
        ({"picture": Picture(path="/nowhere/a.jpg")}, "missing picture", "/nowhere/a.jpg"),
        ({"picture": Picture(), "targets": (NEST,)}, "box outside picture", "no picture"),
        ({"picture": Picture(data=jpeg(402, 2))}, "too narrow", "402x2"),
        ({"question": " \n"}, "empty question", r"' \\n'"),
        ({"answer": ""}, "empty answer", "''"),
        ({"options": ("x", "y"), "answer": "C"}, "wrong options", "'C' is not one of"),
        ({"options": ("x", " "), "answer": "A"}, "wrong options", "is empty"),
        ({"targets": (((0.0, 0.0, 65.0, 9.0),),)}, "box outside picture", "in 64x48"),
        ({"targets": (((-0.5, 0.0, 9.0, 9.0),),)}, "box outside picture", "in 64x48"),
        ({"targets": (((9.0, 0.0, 9.0, 9.0),),)}, "box outside picture", "in 64x48"),
        ({"targets": (((0.0, 0.0, float("nan"), 9.0),),)}, "box outside picture", "nan"),
        ({"targets": (NEST, ())}, "box outside picture", "no box"),
        ({"targets": (NEST[::-1],)}, "boxes not nested", "is not inside"),
    ],
)
def test_every_fault_has_its_reason(changes, reason, detail):
    with pytest.raises(Unusable, match=detail) as caught:
        check(record(**changes))
    assert caught.value.reason == reason


def test_a_sound_record_passes():
    check(record(options=("x", "y"), answer="B", targets=(NEST, NEST[:1])))
    check(record(targets=(((0.0, 0.0, 64.0, 48.0),),)))
    check(record(picture=Picture()))


def test_losses_are_kept_in_order_and_counted():
    bad = Rejected("row 3", "video", "clip.mp4")
    sound = [record(f"r{i}") for i in range(5)]
    empty = record("r9", question="")
    kept = audit([*sound[:2], bad, empty, *sound[2:], sound[0]], name="set", max_share=0.5)
    assert kept.records == tuple(sound)
    assert [loss.reason for loss in kept.rejected] == ["video", "empty question", "duplicate id"]
    assert kept.rejected[0] is bad
    assert summary(kept.rejected) == "1 video, 1 empty question, 1 duplicate id"


def test_what_is_unsuited_by_design_is_kept_apart_and_no_part_of_the_share():
    """PixelReasoner's videos are a large part of its rows: its images alone are measured."""
    images = [record(f"r{i}") for i in range(99)] + [record("bad", question="")]
    unsuited = [Rejected(f"v{i}", "video", "clip.mp4") for i in range(60)]
    unsuited += [Rejected(f"s{i}", "several pictures", "2 of them") for i in range(5)]
    kept = audit([*unsuited, *images], name="set", max_share=0.01)
    assert len(kept.records) == 99
    lost, apart = parted(kept.rejected)
    assert summary(lost) == "1 empty question"
    assert summary(apart) == "60 video, 5 several pictures"
    with pytest.raises(TooManyLost, match="set: 1 of 100 records") as caught:
        audit([*unsuited, *images], name="set", max_share=0.009)
    assert caught.value.rejected == lost


def test_a_set_of_nothing_but_videos_says_so():
    with pytest.raises(ValueError, match=r"no records \(left out: 3 video\)"):
        audit([Rejected(f"v{i}", "video", "") for i in range(3)], name="set")


def test_a_set_that_loses_more_than_its_share_stops_with_the_list():
    entries = [record(f"r{i}") for i in range(95)]
    entries += [record(f"bad{i}", question="") for i in range(5)]
    assert len(audit(entries, name="set", max_share=0.05).rejected) == 5
    with pytest.raises(TooManyLost, match="set: 5 of 100 records cannot be used") as caught:
        audit(entries, name="set", max_share=0.04)
    assert len(caught.value.rejected) == 5
    assert "bad4: empty question" in str(caught.value)


def test_a_set_without_records_is_refused():
    with pytest.raises(ValueError, match="no records"):
        audit([], name="set")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_whatever_breaks_a_file_is_a_loss(kind):
    """Bytes overwritten and files cut at random; with EXIF Pillow is least careful."""
    rng = np.random.default_rng(0)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x829A] = 6, "a harbour", 0.5
    noise = PIL.Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    whole = encoded(noise, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    lost = 0
    for _ in range(600):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(min(200, len(data)), size=3)] = rng.integers(256, size=3)
        cut = len(data) if rng.random() < 0.8 else rng.integers(len(data))
        try:
            original(Picture(data=data[:cut].tobytes()))
        except Unusable:
            lost += 1
    assert lost > 60


def test_sizes_are_of_the_upright_picture():
    """A phone's portrait is stored lying down; boxes are measured on it upright."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = encoded(PIL.Image.new("RGB", (64, 48)), "JPEG", exif=exif)
    assert measured(Picture(data=data)) == (48, 64)
    assert original(Picture(data=data)).size == (48, 64)
    check(record(picture=Picture(data=data), targets=(((0.0, 50.0, 40.0, 64.0),),)))


def test_formats_without_a_known_ending_are_decoded():
    gif = encoded(PIL.Image.new("P", (30, 20)), "GIF")
    assert measured(Picture(data=gif)) == (30, 20)
    webp = encoded(PIL.Image.fromarray(np.arange(2700, dtype=np.uint8).reshape(30, 30, 3)), "WEBP")
    with pytest.raises(Unusable, match="unreadable"):
        measured(Picture(data=webp[: len(webp) // 2]))


def test_a_whole_picture_may_have_more_behind_it():
    """Phones append films to their photographs."""
    assert measured(Picture(data=jpeg() + bytes(2**17))) == (64, 48)


def test_the_gap_is_taken_before_the_resize(tmp_path):
    picture = Picture(data=jpeg(448, 224))
    talk = dialogue(tmp_path, image_tokens=256)
    whole = talk.open(record(picture=picture)).view
    assert whole.original.size == (448, 224)
    assert whole.shown.shape == (224, 448, 3)
    gap = talk.open(record(picture=picture, longest_side=112)).view
    assert gap.original.size == (448, 224)
    assert gap.shown.shape == (56, 112, 3)
    expected = talk.processor.resize(shrink(original(picture), 112))
    np.testing.assert_array_equal(gap.shown, expected)
    assert talk.open(record(picture=picture, longest_side=9999)).view.shown.shape[1] == 448
