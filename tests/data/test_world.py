"""The synthetic world: reproducible, unbiased, alive in the original and dead in the small view."""

import io
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import PIL.Image
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import RidgeClassifier

from lfpc_jax.data import canvas, contact, questions
from lfpc_jax.data.audit import audit
from lfpc_jax.data.marks import VOCABULARIES, Kind, draw_plate
from lfpc_jax.data.pictures import original, shrink
from lfpc_jax.data.scene import COLOURS, EASY, FIT, MICRO, Scene, WorldSettings, plan
from lfpc_jax.data.world import World
from lfpc_jax.processing.geometry import Box, Frame, crop_box, grow

TINY = WorldSettings(
    size=(224, 224), objects=(3, 5), object_side=(36, 52), shapes=("block",), clutter=3
)
KINDS: tuple[Kind, ...] = tuple(VOCABULARIES)
STRIPES = VOCABULARIES["stripes"]


def scenes(settings: WorldSettings, count: int) -> list[Scene]:
    return [plan(settings, 0, "train", index) for index in range(count)]


def test_a_scene_is_a_function_of_settings_seed_split_and_index():
    world = World(TINY, 3, "train", 10)
    again = World(TINY, 3, "train", 99)[7]
    digest = again.id.split("/")[1]
    assert digest != World(replace(TINY, clutter=4), 3, "train", 10)[7].id.split("/")[1]
    assert world[7] == again
    assert world[-3] == again
    assert [entry.id for entry in world[6:9]] == [
        f"world/{digest}/train/3/{i:07d}" for i in (6, 7, 8)
    ]
    others = (World(TINY, 3, "heldout", 10)[7], World(TINY, 4, "train", 10)[7], world[6])
    assert len({entry.picture.data for entry in (again, *others)}) == 4
    with pytest.raises(IndexError, match="scene 10 of a world of 10"):
        world[10]


def test_every_record_passes_the_audit():
    """Boxes are nested and inside, answers are letters of the options, ids differ."""
    settings = replace(TINY, kinds=KINDS, patches=(1, 2), shapes=tuple(FIT), size=(280, 224))
    records = audit(World(settings, 0, "train", 60), name="world", max_share=0.0).records
    for entry in records:
        assert len(entry.targets) == {"single": 1, "cross": 2}[entry.category]
        assert all(len(nest) == 3 for nest in entry.targets)
        assert 2 <= len(entry.options) == len(set(entry.options)) <= 4


def test_objects_do_not_overlap_and_names_are_unique():
    settings = replace(TINY, objects=(6, 9), shapes=("block", "disc"))
    for scene in scenes(settings, 40):
        names = [thing.name for thing in scene.things]
        assert len(set(names)) == len(names) >= 6
        for i, one in enumerate(scene.things):
            for other in scene.things[:i]:
                a, b = one.box, other.box
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        for thing in scene.things:
            side = thing.mark_box[2] - thing.mark_box[0]
            assert settings.mark_side[0] <= side <= settings.mark_side[1]


ASKED = 1200
SPREAD = 5 * np.sqrt(0.25 / ASKED)
"""Five standard deviations of a share."""


def asked_about(category: str, options: int) -> list[questions.SceneQuestion]:
    rng = np.random.default_rng(0)
    names = ("red block", "blue block")
    if category == "single":
        return [questions.about_one(names[0], STRIPES, 2, options, rng) for _ in range(ASKED)]
    return [questions.about_two(names, STRIPES, 1, options, rng) for _ in range(ASKED)]


@pytest.mark.parametrize("category", ["single", "cross"])
def test_yes_is_as_often_right_as_no(category):
    said = Counter(question.right for question in asked_about(category, 2))
    assert abs(said["yes"] / ASKED - 0.5) < SPREAD


@pytest.mark.parametrize("category", ["single", "cross"])
@pytest.mark.parametrize("options", [3, 4])
def test_an_option_is_not_betrayed_by_its_likeness_to_the_others(category, options):
    rng = np.random.default_rng(1)
    guessed = 0
    for question in asked_about(category, options):
        texts = [str(text) for text in rng.permutation((question.right, *question.wrong))]
        guessed += most_alike(texts) == question.right
    assert abs(guessed / ASKED - 1 / options) < SPREAD


def most_alike(options: list[str]) -> str:
    """The option that shares the most halves with the others; the first of equals."""
    halves = [option.split(", ") for option in options]

    def likeness(mine: list[str]) -> int:
        return sum(a == b for other in halves for a, b in zip(mine, other))

    return options[max(range(len(halves)), key=lambda place: likeness(halves[place]))]


def test_the_right_letter_is_any():
    settings = replace(TINY, single_options=(4, 4), cross_options=(4, 4))
    letters = Counter(scene.answer for scene in scenes(settings, 400))
    assert max(abs(count / 400 - 0.25) for count in letters.values()) < 5 * np.sqrt(0.19 / 400)


def test_either_half_alone_leaves_two_of_four_options():
    rng = np.random.default_rng(0)
    for _ in range(200):
        question = questions.about_one("red block", STRIPES, 2, 4, rng)
        left, right = question.marks[0]
        assert question.right == f"{left}, {right}"
        texts = [text.split(", ") for text in (question.right, *question.wrong)]
        assert sum(first == left for first, _ in texts) == 2
        assert sum(second == right for _, second in texts) == 2


def test_same_or_not_is_what_the_marks_are():
    rng = np.random.default_rng(0)
    for _ in range(100):
        one = questions.about_one("red block", VOCABULARIES["letters"], 2, 2, rng)
        left, right = one.marks[0]
        assert one.right == ("yes" if left == right else "no")
        two = questions.about_two(("red block", "blue disc"), VOCABULARIES["signs"], 2, 2, rng)
        first, second = two.marks
        assert two.right == ("yes" if first == second else "no")
        assert sum(a != b for a, b in zip(first, second)) in (0, 1)


def views(factor: int, tint: float, count: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """Plates with two striped halves as a view `factor` times smaller, and the left direction."""
    ground = [tint * level + (1 - tint) * 128 for level in COLOURS["blue"]]
    rng = np.random.default_rng(0)
    features, directions = [], []
    for _ in range(count):
        side = int(rng.integers(20, 27))
        mark = questions.any_mark(STRIPES, 2, rng)
        scene = PIL.Image.new("RGB", (48, 48), COLOURS["blue"])
        plate = PIL.Image.fromarray(draw_plate("stripes", mark, side, 2, 6.0, rng, ground))
        scene.paste(plate, (8 + int(rng.integers(4)), 8 + int(rng.integers(4))))
        encoded = io.BytesIO()
        scene.save(encoded, "JPEG", quality=95, subsampling=0)
        small = PIL.Image.open(encoded).resize((48 // factor,) * 2, PIL.Image.Resampling.BICUBIC)
        grey = np.asarray(small.convert("L"), float) - np.mean(ground)
        steps = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
        parts = (grey, np.abs(grey), *steps, steps[0].sum(1), steps[1].sum(0))
        features.append(np.concatenate([part.ravel() for part in parts]))
        directions.append(mark[0])
    return np.array(features), np.array(directions)


def legibility(factor: int, tint: float) -> float:
    """How often a trained classifier reads the left half's direction; by chance 0.25."""
    features, directions = views(factor, tint)
    half = len(directions) // 2
    trees = ExtraTreesClassifier(60, min_samples_leaf=2, random_state=0)
    trees.fit(features[:half], directions[:half])
    return float(trees.score(features[half:], directions[half:]))


@pytest.mark.long
@pytest.mark.parametrize("tint", [0.0, 0.5])
def test_stripes_live_in_the_original_and_die_where_a_period_is_a_pixel(tint):
    assert legibility(1, tint) > 0.85
    assert legibility(4, tint) < 0.31


def test_a_tinted_plate_lies_between_grey_and_its_object():
    for scene in scenes(replace(MICRO, tint=0.25), 10):
        pixels = np.asarray(canvas.paint(scene)).astype(float)
        for thing in scene.things:
            x1, y1, x2, y2 = (int(edge) for edge in thing.mark_box)
            expected = 0.25 * np.array(COLOURS[thing.colour]) + 0.75 * 128
            np.testing.assert_allclose(pixels[y1:y2, x1:x2].mean((0, 1)), expected, atol=4)


@pytest.mark.parametrize("kind", ["colours", "spots"])
def test_coloured_marks_average_to_the_grey_of_their_plate(kind):
    rng = np.random.default_rng(0)
    for hue in VOCABULARIES[kind].values:
        plates = [draw_plate(kind, (hue,), 24, 2, 6.0, rng) for _ in range(200)]
        means = np.mean([plate.mean((0, 1)) for plate in plates], axis=0)
        np.testing.assert_allclose(means, 128, atol=1.5)
        swing = np.mean([plate.astype(float).std((0, 1)) for plate in plates])
        assert swing > 25


def looks(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the best crop shows of each scene, what its view shows there, and the answer."""
    crops, seen, answers = [], [], []
    for entry in world:
        assert entry.longest_side == 48
        image = original(entry.picture)
        view = shrink(image, entry.longest_side)
        mark, thing, _ = (Box(*box) for box in entry.targets[0])
        crop = image.crop(crop_box(grow(mark, 28, image.size), image.size))
        frame = Frame(image.size, view.size)
        place = crop_box(frame.to(grow(thing, 80, image.size), "original", "shown"), view.size)
        crops.append(np.asarray(crop.resize((14, 14), PIL.Image.Resampling.BICUBIC), float).ravel())
        seen.append(np.asarray(view.crop(place).resize((10, 10)), float).ravel())
        answers.append(entry.answer)
    return np.array(crops), np.array(seen), np.array(answers)


@pytest.mark.long
def test_the_easy_world_is_read_from_a_crop_and_guessed_from_the_view():
    """A linear reader already learns most of it from 400 crops; nothing learns it from views."""
    crops, seen, answers = looks(World(EASY, 0, "train", 800))
    assert set(answers) == set(VOCABULARIES["spots"].values)

    def learned(reader, features: np.ndarray) -> float:
        scaled = (features - 128) / 64
        return reader.fit(scaled[:400], answers[:400]).score(scaled[400:], answers[400:])

    trees = partial(ExtraTreesClassifier, 60, min_samples_leaf=2, random_state=0)
    assert learned(RidgeClassifier(30.0), crops) > 0.7
    assert learned(trees(), crops) > 0.9
    assert learned(trees(), seen) < 0.25 + 4 * np.sqrt(0.19 / 400)


def test_the_easy_world_asks_one_question_of_one_thing():
    easy = [World(EASY, 0, split, 30)[i] for split in ("train", "heldout") for i in range(30)]
    assert {entry.question for entry in easy} == {"Which colour is the spot on the purple block?"}
    assert {entry.options for entry in easy} == {()}
    assert len(audit(easy, name="easy", max_share=0.0).records) == 60
    two = World(replace(EASY, classes=2), 0, "train", 60)
    assert {two.scene(i).answer for i in range(60)} == {"red", "green"}
    offered = World(replace(EASY, choices=True), 0, "train", 1)[0]
    assert offered.options["ABCD".index(offered.answer)] in VOCABULARIES["spots"].values


@pytest.mark.parametrize("roughness", [0.0, 0.3])
def test_a_sloped_ground_tells_the_place(roughness):
    settings = replace(TINY, clutter=0, roughness=roughness, slope=60.0)
    off_by = []
    for scene in scenes(settings, 30):
        pixels = np.asarray(canvas.paint(scene)).astype(float)
        red, green, blue = np.moveaxis(pixels, 2, 0)
        for corner, (x, y) in {(0, 0): (-1, -1), (-1, 0): (-1, 1), (0, -1): (1, -1)}.items():
            found = np.array([(red - blue)[corner], (green - blue)[corner]])
            off_by.append(found - 60 * np.array([x, y]))
    apart = np.abs(np.array(off_by)).mean()
    assert apart < 35  # tones of a ground differ by up to 18 a channel, rough ones by more
    plain = np.asarray(canvas.paint(plan(replace(settings, slope=0.0), 0, "train", 0)))
    assert np.ptp(plain[0, :, 0].astype(int)) < 60


def test_signs_have_equal_ink():
    rng = np.random.default_rng(0)
    ink = [
        np.mean([draw_plate("signs", (sign,), 24, 2, 6.0, rng).mean() for _ in range(100)])
        for sign in VOCABULARIES["signs"].values
    ]
    assert np.ptp(ink) < 1.0


def test_every_kind_can_fill_four_options():
    assert all(len(set(words.values)) >= 4 for words in VOCABULARIES.values())


def test_photographs_lie_behind_the_scene(photographs):
    settings = replace(TINY, photographs=str(photographs), objects=(2, 2), clutter=0)
    drawn, real = (
        np.asarray(canvas.paint(plan(each, 0, "train", 5)), int) for each in (TINY, settings)
    )
    assert real.shape == drawn.shape == (224, 224, 3)
    assert np.abs(real - drawn).mean() > 10
    empty = replace(settings, photographs=str(photographs / "none"))
    with pytest.raises(ValueError, match="no photographs; put files of"):
        canvas.paint(plan(empty, 0, "train", 5))


@pytest.mark.seconds
def test_an_8k_scene_has_its_size_and_its_marks():
    settings = replace(TINY, size=(7680, 4320), object_side=(120, 320), mark_side=(36, 72))
    entry = World(settings, 0, "heldout", 1)[0]
    image = PIL.Image.open(io.BytesIO(entry.picture.data or b""))
    assert image.size == (7680, 4320)
    mark = np.asarray(image.crop(entry.targets[0][0]).convert("L"), float)
    assert mark.std() > 15


def test_settings_that_cannot_be_met_are_refused():
    for changes, message in (
        ({"objects": (3, 30)}, "objects 3..30"),
        ({"object_side": (100, 120), "objects": (2, 5)}, "have only 1 x 1 places"),
        ({"colours": ("red", "mauve", "blue", "green", "pink")}, "mauve"),
        ({"single_options": (2, 5)}, "single_options 2..5"),
        ({"cross_share": 1.5}, "cross_share 1.5"),
        ({"roughness": -0.1}, "roughness -0.1"),
        ({"tint": 1.1}, "tint 1.1"),
        ({"longest_side": 0}, "longest_side 0"),
        ({"classes": 1}, "classes 1..1"),
        ({"classes": 3, "patches": (1, 2)}, "single_options 2..4 must lie within 2..3"),
        ({"size": (40_000, 448)}, "size 448..40000 must lie within 16..32768"),
        ({"cycles": math.nan}, "cycles nan and longest_side None must be positive"),
        ({"slope": math.inf}, "slope inf must be finite"),
        ({"objects": (1, 4)}, "objects 1..4 must lie within 2.."),
    ):
        with pytest.raises(ValueError, match=message):
            replace(TINY, **changes)


def test_settings_are_json():
    assert json.loads(json.dumps(asdict(TINY)))["mark_side"] == [20, 26]


def test_the_contact_sheet_has_a_strip_a_scene():
    for share, width in ((0.0, 992), (1.0, 1488)):
        drawn = scenes(replace(TINY, cross_share=share), 3)
        sheet = contact.sheet(drawn, [one.targets for one in drawn], shown_side=56)
        assert sheet.size == (width, 3 * 286)
