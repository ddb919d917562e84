"""Altered crops: what is shown, pixel by pixel, and the engine's programs untouched."""

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, altered, applies, fitting
from lfpc_jax.processing.geometry import Box, Frame
from lfpc_jax.rollout.dialogue import Opening, View
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.trajectory import Crop, Picture
from support import small

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(left, right, size=(200, 100)):
    """A picture with two plain halves, as PNG bytes."""
    image = PIL.Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    out = io.BytesIO()
    image.save(out, "PNG")
    return Picture(data=out.getvalue())


def opened(record, shown=None):
    """The opening of a record, its view as large as the original unless `shown`."""
    original = PIL.Image.open(io.BytesIO(record.picture.data)).convert("RGB")
    view = np.asarray(original) if shown is None else shown
    nothing = np.zeros(1, np.int32), np.zeros((3, 1), np.int32)
    return Opening(record, *nothing, View(view, original))


def alter(name, record, box, *, records=(), shown=None, seed=0, earlier=()):
    """What a call gives and what is shown in its place, behind crops of the `earlier` boxes."""
    opening = opened(record, shown)
    assert opening.view is not None
    region = small.ZOOM.validate({"bbox_2d": list(box)}, opening.view.frame)
    request = Ready(small.ZOOM, region)
    seen = request.execute(opening.view.original)
    before = [Crop(box, box) for box in earlier]
    return seen, alteration(name, records, seed=seed)(request, seen, opening, before)


@pytest.fixture
def one():
    return small.record(0, id="a", picture=halves(RED, RED))


def test_noise_is_the_same_every_time_and_another_for_another_record(one):
    box = (10.0, 10.0, 90.0, 90.0)
    seen, first = alter("noise", one, box)
    assert first.picture.shape == seen.picture.shape
    assert first.crop == seen.crop
    assert 100 < first.picture.mean() < 155
    assert first.picture.std() > 60  # uniform bytes have 73.9
    np.testing.assert_array_equal(alter("noise", one, box)[1].picture, first.picture)
    for other in (
        alter("noise", replace(one, id="b"), box)[1],
        alter("noise", one, box, seed=1)[1],
    ):
        assert (other.picture != first.picture).mean() > 0.9


def test_blank_is_one_grey_near_the_mean(one):
    _, blank = alter("blank", one, (10, 10, 90, 90))
    assert np.unique(blank.picture.reshape(-1, 3), axis=0).tolist() == [[123, 117, 104]]
    mean, std = np.array(small.CROPS.mean), np.array(small.CROPS.std)
    assert np.abs((np.array([123, 117, 104]) / 255 - mean) / std).max() < 0.01


def test_other_shows_the_same_part_of_the_next_picture(one):
    """The right half of the original is asked for; of the other, twice as large, that is blue."""
    other = replace(one, id="b", picture=halves((0, 255, 0), BLUE, (400, 200)))
    seen, shown = alter("other", one, (110, 10, 190, 90), records=[one, other])
    assert shown.picture.shape == seen.picture.shape
    assert (seen.picture == RED).all()
    assert (shown.picture == BLUE).all()
    _, left = alter("other", one, (10, 10, 90, 90), records=[one, other])
    assert (left.picture == (0, 255, 0)).all()


def test_the_other_is_never_a_cycle_of_the_same_picture(one):
    cycles = [replace(one, id=f"a{i}") for i in range(4)]
    far = replace(one, id="z", picture=halves(BLUE, BLUE))
    for cycle in cycles:
        _, shown = alter("other", cycle, (10, 10, 90, 90), records=[*cycles, far])
        assert (shown.picture == BLUE).all()
    with pytest.raises(ValueError, match="4 records have 1 different"):
        alteration("other", cycles)


def test_the_other_passes_over_what_cannot_be_opened(one, caplog):
    broken = [replace(one, id=f"x{i}", picture=Picture(data=b"no%d" % i)) for i in range(3)]
    far = replace(one, id="z", picture=halves(BLUE, BLUE))
    _, shown = alter("other", one, (10, 10, 90, 90), records=[one, *broken, far], seed=3)
    assert (shown.picture == BLUE).all()
    with pytest.raises(ValueError, match="no picture but that of record 'a'"):
        alter("other", one, (10, 10, 90, 90), records=[one, *broken])


def test_downsampled_is_cut_from_the_view(one):
    """The view shows green where the original is red."""
    view = np.zeros((50, 100, 3), np.uint8)
    view[:, :50, 1] = 255
    seen, shown = alter("downsampled", one, (5, 5, 45, 45), shown=view)
    assert (seen.picture == RED).all()
    assert (shown.picture == (0, 255, 0)).all()
    assert shown.picture.shape == seen.picture.shape


def test_truth_is_the_target_at_full_detail(one):
    """60x30 pixels in the right half, whatever is asked for, through the tool's own resize, which
    rounds to whole tokens: 56x28."""
    has = replace(one, picture=halves(RED, BLUE), targets=(((120.0, 40.0, 180.0, 70.0),),))
    for earlier in ((), ((0.0, 0.0, 50.0, 50.0),)):
        seen, right = alter("truth", has, (60, 60, 90, 90), earlier=earlier)
        assert right.picture.shape == (28, 56, 3)
        assert (right.picture == BLUE).all()
        assert right.crop == seen.crop  # what was asked for stays on record
    assert applies("truth", has)
    assert not applies("truth", one)
    with pytest.raises(ValueError, match="'a' has no targets"):
        alter("truth", one, (60, 60, 90, 90))


def test_of_two_targets_truth_shows_both_at_once_and_then_each(one):
    """One in each half. An episode that crops once has seen both; one that goes on sees them alone,
    the nearest first and none twice before the other."""
    two = replace(
        one,
        picture=halves(RED, BLUE),
        targets=(
            ((20.0, 20.0, 60.0, 60.0), (0.0, 0.0, 100.0, 100.0)),
            ((120.0, 40.0, 180.0, 70.0),),
        ),
    )
    left, right = (60.0, 60.0, 90.0, 90.0), (110.0, 60.0, 190.0, 90.0)
    for first in (left, right):
        _, both = alter("truth", two, first)
        # (20, 20) to (180, 70): 160x50 pixels, as 168x56, of which the middle parts the colours
        assert both.picture.shape == (56, 168, 3)
        assert (both.picture[:, :80] == RED).all()
        assert (both.picture[:, -80:] == BLUE).all()
    for asked, colour in (
        ((left, left), RED),
        ((left, right), BLUE),
        ((left, left, left), BLUE),  # the other one, however far
        ((left, right, right), RED),
        ((left, left, left, right), BLUE),  # anew
    ):
        *earlier, last = asked
        _, shown = alter("truth", two, last, earlier=earlier)
        assert (shown.picture == colour).all(), asked


def test_a_narrow_truth_grows_until_the_tool_takes_it():
    """1,000 by 2 pixels at a limit of 8: (1000 + 2) / 8 = 125.25 pixels at least, so 126."""
    frame = Frame((2000, 1000), (200, 100))
    assert fitting(small.ZOOM, Box(0, 100, 1000, 102), frame) == Box(0, 38, 1000, 164)
    assert fitting(small.ZOOM, Box(5, 5, 10, 10), frame) == Box(0, 0, 28, 28)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="no alteration of crops is called 'static'"):
        alteration("static")


@pytest.fixture(scope="module")
def engine():
    made = Engine(small.config(), small.dialogue(), small.SHAPES, Rules(episode_tokens=80),
                  unstacked=False)  # fmt: skip
    made.load(small.params())
    made.warm_up()
    return made


@pytest.mark.compiles
def test_the_same_programs_serve_every_alteration(engine):
    """Up to its first crop an episode is as it was; without one it is all the same."""
    records = [small.record(i, targets=(((10.0, 10.0, 50.0, 40.0),),)) for i in range(8)]

    def episodes():
        groups = engine.run(records, rollouts=3, seed=0)
        pairs = (pair for group in groups for pair in zip(group.trajectories, group.crops))
        return {(one.record, one.rollout): (one, crops) for one, crops in pairs}

    plain = episodes()
    assert sum(bool(crops) for _, crops in plain.values()) > 3
    traces = dict(engine.slots.programs.traces)
    for name in ALTERATIONS:
        with altered(engine, alteration(name, records)):
            found = episodes()
        changed = 0
        for key, (old, old_crops) in plain.items():
            new, new_crops = found[key]
            first = old.turns[0]
            np.testing.assert_array_equal(new.ids[: first.stop], old.ids[: first.stop])
            assert new.turns[0].crop == first.crop
            if not old_crops:
                np.testing.assert_array_equal(new.ids, old.ids)
            elif first.crop:
                changed += not np.array_equal(new_crops[0], old_crops[0])
        assert changed, name
    assert dict(engine.slots.programs.traces) == traces
    assert set(traces.values()) == {1}
    assert engine.dialogue.alter is None
