"""A local target's answers: transformers' own, in order, with a reason for what cannot be asked."""

import gc
import weakref
from dataclasses import replace

import jax
import numpy as np
import pytest

from lfpc_jax.cropvlm.local import LocalTarget, Needs
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.showing import Showing, read_answer
from lfpc_jax.cropvlm.target import Question, Said
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.evaluation.alter import alteration
from lfpc_jax.model import spec
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout import engine
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.run.models import load_model
from lfpc_jax.trajectory import Picture
from support import small
from support.small_torch import banned, inputs, theirs

pytestmark = pytest.mark.compiles

TOKENS = 16
SETTINGS = TargetSettings(image_tokens=32, crop_tokens=16, answer_tokens=TOKENS, slots=4)
SIZES = ((300, 200), (120, 480), (640, 90), (224, 224))
BOX = (10.0, 20.0, 100.0, 80.5)


def showing(presentation="both", **changes) -> Showing:
    dialogue = small.dialogue()
    settings = replace(SETTINGS, presentation=presentation)
    made = Showing.within(settings, dialogue.tokenizer, dialogue.chat, dialogue.processor)
    return replace(made, **changes)


def questions():
    """Pictures and crops of several shapes, and one question without a crop each."""
    asked = []
    for number, (width, height) in enumerate(SIZES):
        record = small.record(number, picture=small.picture(number, width, height))
        boxes = (
            (0.0, 0.0, width / 2, height / 3),
            None,
            (width / 4, 5.0, width / 2, float(height)),
            BOX,
        )
        asked.append(Question(record, boxes))
    return asked


def target(dialogue=None, shapes=small.SHAPES, *, params=None, **options) -> LocalTarget:
    """With room for every presentation."""
    made = LocalTarget(
        small.config(),
        dialogue or showing(),
        shapes,
        answer_tokens=TOKENS,
        identity=lambda: {"weights": "w", "assets": "a"},
        unstacked=False,
        **options,
    )
    made.load(small.params(0, 0.0) if params is None else params)
    return made


@pytest.fixture(scope="module")
def shared() -> LocalTarget:
    made = target()
    made.warm_up()
    return made


@pytest.fixture
def asked(shared):
    """The shared target, as it was before each test."""
    shared.dialogue = showing()
    return shared


def generated(dialogue: Showing, question: Question) -> tuple[str, ...]:
    """A plain loop over transformers' generate, with the whole conversation as its prompt."""
    tokenizer, answers = dialogue.tokenizer, []
    for box in question.boxes:
        full, crop = dialogue.pictures(question.record, box)
        shown = [picture for picture in (full, crop) if picture is not None]
        [place] = dialogue.show(Question(question.record, (box,))).places
        opening = dialogue.show(Question(question.record, (box,))).openings[place.opening]
        ids = np.concatenate([opening.ids, opening.follow[place.follow]().ids])
        out = theirs(0, 0.0).generate(
            **inputs(ids, shown),
            do_sample=False,
            max_new_tokens=TOKENS,
            suppress_tokens=np.flatnonzero(banned()).tolist(),
            eos_token_id=[tokenizer.im_end, tokenizer.endoftext],
        )
        written = out[0, len(ids) :].numpy().astype(np.int32)
        if written[-1] in (tokenizer.im_end, tokenizer.endoftext):
            written = written[:-1]
        answers.append(read_answer(tokenizer.decode(written)))
    return tuple(answers)


@pytest.fixture(scope="module")
def by_transformers():
    return [generated(showing(), question) for question in questions()]


def texts(answers):
    answers = list(answers)
    assert all(said.fault == "" for of_question in answers for said in of_question)
    return [tuple(said.answer for said in of_question) for of_question in answers]


def test_greedy_answers_equal_transformers_generate(asked, by_transformers):
    answers = texts(asked.answers(questions()))
    assert answers == by_transformers
    assert len(set(answers[0])) == len(questions()[0].boxes), "the crops matter to the answers"


def test_the_crop_alone_equals_transformers_generate(asked):
    asked.dialogue = showing("crop")
    wanted = [generated(asked.dialogue, question) for question in questions()[:2]]
    assert texts(asked.answers(questions()[:2])) == wanted


@pytest.mark.long
@pytest.mark.parametrize("sides", [(2, 1, 2)], ids=str)
def test_a_mesh_changes_no_answer(by_transformers, sides):
    mesh = make_mesh(*sides, devices=jax.devices()[:4])
    shapes = replace(small.SHAPES, slots=8, prefill_rows=2, extend_rows=4)
    params = jax.device_put(small.params(0, 0.0), spec.shardings(small.config(), mesh))
    on_mesh = target(shapes=shapes, params=params, mesh=mesh)
    assert texts(on_mesh.answers(questions())) == by_transformers


def test_no_presentation_compiles_anything_more(asked):
    before = list(asked.engine.slots.programs.late)
    for presentation in ("both", "crop", "image", "zoom"):
        asked.dialogue = showing(presentation)
        assert len(texts(asked.answers(questions()))) == len(SIZES)
    assert asked.engine.slots.programs.late == before


def test_a_box_of_none_and_no_tool_show_the_full_image(asked):
    both = texts(asked.answers(questions()))
    asked.dialogue = showing("image")
    image = texts(asked.answers(questions()))
    asked.dialogue = replace(showing(), toolbox=Toolbox(()))
    assert texts(asked.answers(questions())) == image
    for of_both, of_image in zip(both, image, strict=True):
        assert set(of_image) == {of_both[1]}


def test_the_zoom_tools_conversation_without_a_box_is_the_direct_question(asked):
    asked.dialogue = showing("zoom")
    zoomed = texts(asked.answers(questions()))
    asked.dialogue = replace(showing("zoom"), toolbox=Toolbox(()))
    direct = texts(asked.answers(questions()))
    assert [answers[1] for answers in zoomed] == [answers[0] for answers in direct]


def test_an_alteration_of_the_dialogue_alters_the_answers(asked):
    plain = texts(asked.answers(questions()))
    asked.dialogue = replace(asked.dialogue, alter=alteration("blank"))
    blank = texts(asked.answers(questions()))
    assert [a[1] for a in plain] == [a[1] for a in blank]
    assert plain != blank
    with pytest.raises(ValueError, match="a target's dialogue is a Showing, not Dialogue"):
        asked.dialogue = small.dialogue()


def test_answers_keep_their_order_and_faults_their_reason(asked):
    fine = questions()
    gone = replace(fine[1].record, picture=Picture(path="/nowhere/gone.png"))
    spells = replace(fine[1].record, question="a <|im_end|>")
    strip = small.record(9, picture=small.picture(9, 3000, 20))
    faulty = [
        Question(gone, (BOX, None)),
        Question(spells, (None,)),
        Question(strip, (None, None)),
        Question(fine[0].record, ((5.0, 5.0, 5.0, 9.0), BOX, (float("nan"), 0.0, 1.0, 1.0))),
        Question(fine[0].record, ()),
    ]
    order = [faulty[0], fine[0], faulty[1], fine[0], faulty[2], faulty[3], fine[3], faulty[4]]
    wanted = texts(asked.answers(fine))
    answers = list(asked.answers(order))
    assert [len(each) for each in answers] == [len(question.boxes) for question in order]
    assert texts([answers[1], answers[3], answers[6]]) == [wanted[0], wanted[0], wanted[3]]
    assert [said.answer for number in (0, 2, 4) for said in answers[number]] == [None] * 5
    assert all("gone.png" in said.fault for said in answers[0])
    assert "spells the special token" in answers[2][0].fault
    assert answers[4][0].fault == answers[4][1].fault != ""
    empty, said, unknown = answers[5]
    assert (said.answer, said.fault) == (wanted[0][3], "")
    assert "covers nothing" in empty.fault
    assert "finite" in unknown.fault


def test_what_does_not_fit_is_a_fault_and_no_answer(asked):
    fine = questions()[0]
    long = replace(fine.record, question="Is the 7 red? " * 60)
    [first, second, third] = asked.answers([fine, Question(long, (BOX, None)), fine])
    assert first == third
    for said in second:
        assert said.answer is None
        assert said.fault.startswith("context_full: the question and its answer do not fit the 352")
    asked.dialogue = showing("zoom")
    [said] = next(asked.answers([Question(long, (BOX,))]))
    assert "text tokens of a prompt" in said.fault, "there the question is in the left part"


def test_equal_boxes_are_asked_once_and_the_full_image_is_prefilled_once(asked):
    before = replace(asked.engine.stats)
    record = questions()[0].record
    [answers] = asked.answers([Question(record, (BOX, None, BOX, None, BOX))])
    assert len(set(answers[::2])) == len(set(answers[1::2])) == 1
    assert asked.engine.stats.prompts - before.prompts == 1
    assert asked.engine.stats.rollouts - before.rollouts == 2


def test_questions_are_opened_as_they_are_needed_and_the_cache_lives_as_long_as_they(asked):
    """So memory does not grow with their number, and two engines never have caches at once."""
    opened = 0

    def endless():
        nonlocal opened
        while True:
            opened += 1
            yield questions()[opened % len(SIZES)]

    run = asked.answers(endless())
    assert asked.engine.slots._state is None
    for _ in range(5):
        next(run)
    assert asked.engine.slots._state is not None
    assert opened < 5 + 20
    run.close()
    assert asked.engine.slots._state is None
    assert len(list(asked.answers(questions()))) == len(SIZES)
    assert asked.engine.slots._state is None


def test_needs_are_exactly_what_questions_take():
    """A question as long as they say fits; one that is longer may not."""
    dialogue = showing()
    records = [question.record for question in questions()]
    needs = Needs.of(dialogue, [*records, replace(records[0], picture=Picture(path="gone.png"))])
    assert len(needs.prompts) == len({dialogue.size(record) for record in records})
    assert needs.following == max(dialogue.texts(record)[1] for record in records)
    for presentation in ("both", "crop", "image", "zoom"):
        dialogue = showing(presentation)
        needs = Needs.up_to(dialogue, 40)
        shapes = needs.shapes(replace(SETTINGS, presentation=presentation), 4, 1)
        question = "Is the 7 red? Or is it blue?"
        assert len(dialogue.tokenizer.encode(question)) <= 40
        left, following = dialogue.texts(replace(records[0], question=question))
        assert left <= shapes.prompt_text.sizes[-1]
        assert following <= needs.following
        pictures = shapes.image_tokens + shapes.crop_tokens
        assert left + following + pictures + TOKENS <= shapes.capacity
        wanted = {"crop": (1, 16), "image": (32, 1)}.get(presentation, (32, 16))
        assert (shapes.image_tokens, shapes.crop_tokens) == wanted


@pytest.mark.long
def test_from_a_folder(tmp_path, by_transformers, monkeypatch):
    """As commands do it: loaded, and warmed up for its questions alone. Layers stay stacked, which
    compiles in half the time."""
    monkeypatch.setattr(engine, "tuning", lambda: replace(tuning(), unstacked=False))
    folder = small.hf_folder(tmp_path / "hf")
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    model = load_model(folder, mesh=mesh)
    asked = questions()[:1]
    needs = Needs.of(showing(), [question.record for question in asked])
    made = LocalTarget.of(model, SETTINGS, needs=lambda dialogue: needs, mesh=mesh)
    programs = made.warm_up()
    identity, weights = model.identity, weakref.ref(jax.tree.leaves(model.params)[0])
    del model
    made.load(jax.device_put(small.params(0, 0.0), spec.shardings(small.config(), mesh)))
    gc.collect()
    assert weights() is None, "the first weights' memory is free"
    assert texts(made.answers(asked)) == by_transformers[:1]
    assert made.engine.slots.programs.late == []
    assert len(made.engine.slots.programs.traces) == programs
    assert made.identity.items() >= identity.items()
    identity = made.identity
    assert identity["presentation"] == "both"
    assert (identity["image_tokens"], identity["crop_tokens"]) == (32, 16)
    assert (identity["answer_tokens"], identity["dtype"]) == (TOKENS, "float32")


def test_sampled_answers_depend_on_the_seed_alone(asked, monkeypatch):
    monkeypatch.setattr(asked.engine.slots, "sampling", Sampling(temperature=1.0))
    first = list(asked.answers(questions(), seed=1))
    assert list(asked.answers(questions()[:2], seed=1)) == first[:2]
    assert list(asked.answers(questions(), seed=2)) != first
    assert all(isinstance(said, Said) for of_question in first for said in of_question)
