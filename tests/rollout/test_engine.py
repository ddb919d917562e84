"""The engine on a small model that calls, errs and answers (see small.py)."""

import copy
import itertools
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from lfpc_jax.processing import positions
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Engine, LogitsNotFinite
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom
from lfpc_jax.run.metrics import rollout_metrics
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Picture
from support import small
from support.engines import RULES, engine, run, same

pytestmark = pytest.mark.compiles


def test_a_prompts_positions_are_computed_once(shared, monkeypatch):
    asked = []

    def counted(ids, *rest):
        asked.append(np.asarray(ids).tolist())
        return positions.mrope_positions(ids, *rest)

    for name, module in [*sys.modules.items()]:
        if name.startswith("lfpc_jax.rollout") and hasattr(module, "mrope_positions"):
            monkeypatch.setattr(module, "mrope_positions", counted)
    found = run(shared, [small.record(0)], 2)
    prompt = found["r0", 0].ids[: found["r0", 0].turns[0].start].tolist()
    assert asked.count(prompt) == 1


def test_the_small_model_does_all_that_an_episode_can(episodes):
    """What the other tests stand on: calls, crops, faults, answers and ends of every kind."""
    ends = Counter(t.end for t in episodes.values())
    faults = Counter(turn.fault for t in episodes.values() for turn in t.turns)
    crops = sum(turn.crop is not None for t in episodes.values() for turn in t.turns)
    assert len(episodes) == 48
    assert min(ends[end] for end in ("answered", "no_action", "max_turns")) >= 3
    assert crops >= 20
    assert min(faults[fault] for fault in ("not_finite", "reversed_box", "bad_json")) >= 2


@pytest.mark.parametrize(
    ("place", "at"),
    [(("text", "down", "w"), (1, 3, 5)), (("vision", "patch"), (7, 2)), (("unembed",), (500, 3))],
)
def test_a_weight_that_is_no_number_stops_it_with_the_record_and_the_token(shared, place, at):
    params = jax.tree.map(lambda x: x, small.params())
    part = params
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = part[place[-1]].at[at].set(jax.numpy.nan)
    shared.load(params)
    try:
        with pytest.raises(LogitsNotFinite, match="record 'r0', rollout 0, sampled token 1: "):
            run(shared, [small.record(0)], 1)
    finally:
        shared.load(small.params())
    assert len(run(shared, [small.record(0)], 1)) == 1


def test_what_rows_without_an_episode_hold_is_nobodys_fault(shared, monkeypatch):
    """A chunk's places past what a row drew, and rows that are free or wait for a crop."""
    decode = shared.slots.decode

    def poisoned(*rows):
        columns, drawn = decode(*rows)
        nowhere = np.arange(len(drawn.policy))[:, None] >= drawn.numbers
        return columns, replace(drawn, policy=np.where(nowhere, np.nan, drawn.policy))

    monkeypatch.setattr(shared.slots, "decode", poisoned)
    assert len(run(shared, [small.record(0)], 2)) == 2


def test_prompts_run_once_a_group(shared):
    before = replace(shared.stats)
    run(shared, [small.record(i) for i in range(3)], 5)
    assert shared.stats.prompts - before.prompts == 3
    assert shared.stats.rollouts - before.rollouts == 15
    apart = engine(share_prefix=False)
    run(apart, [small.record(0)], 5)
    assert (apart.stats.prompts, apart.stats.rollouts) == (5, 5)


def test_the_seconds_of_a_run_come_apart(shared):
    """Programs, waiting and the host's share are all of a run; metrics take the difference."""
    before = copy.deepcopy(shared.stats)
    start = time.perf_counter()
    run(shared, [small.record(i) for i in range(3)], 4)
    whole = time.perf_counter() - start
    values = rollout_metrics(shared.stats, before)
    names = ("encode", "prefill", "extend", "decode", "waiting", "host")
    assert all(values[f"rollout/{name}"] >= 0 for name in names)
    assert min(values[f"rollout/{name}"] for name in ("encode", "prefill", "decode")) > 0
    assert sum(values[f"rollout/{name}"] for name in names) == pytest.approx(whole, rel=0.2)
    sampled = shared.stats.sampled - before.sampled
    steps = shared.stats.steps - before.steps
    assert values["rollout/occupancy"] == sampled / (steps * small.SHAPES.slots)
    idle = [values[f"rollout/idle_{why}"] for why in ("ended", "replies", "free")]
    assert min(idle) > 0
    assert values["rollout/occupancy"] + sum(idle) == pytest.approx(1)
    assert rollout_metrics(shared.stats, shared.stats) == {}, "nothing since"


@pytest.mark.slow
def test_500_episodes_of_any_shape_compile_nothing_more(caplog):
    """Pictures and crops of random shapes, strips included, after a warm-up."""
    rng = np.random.default_rng(0)
    shapes = replace(small.BUCKETS, slots=16, image_buckets=None, crop_buckets=None)
    made = engine(shapes, replace(RULES, episode_tokens=40), fresh=True)
    greedy = Sampling(temperature=0.0)
    programs = made.warm_up(also={greedy})
    compiled = count_compilations()
    sizes = [rng.integers(30, 400, 2).tolist() for _ in range(20)] + [[400, 60], [60, 400]]
    pictures = [small.picture(i, *size) for i, size in enumerate(sizes)]
    records = [
        small.record(i, id=f"any{i}", picture=pictures[i % len(pictures)]) for i in range(125)
    ]
    found = run(made, records, 4)
    assert len(found) == 500
    twice = run(made, records[:8], 2, sampling=greedy)
    for record in records[:8]:
        a, b = twice[record.id, 0], twice[record.id, 1]
        np.testing.assert_array_equal(a.ids, b.ids)
        assert not a.logprobs.any()
    grids = {t.shown for t in found.values()}
    assert len(grids) > 10
    assert made.slots.programs.late == []
    assert len(made.slots.programs.traces) == programs
    assert compiled() == 0
    assert set(made.slots.programs.traces.values()) == {1}


def test_where_one_turn_is_all_nothing_is_compiled_for_replies():
    made = engine(rules=replace(RULES, max_turns=1), fresh=True)
    made.warm_up()
    assert not any(what.startswith("extend") for what in made.slots.programs.traces)
    found = run(made, [small.record(i) for i in range(4)], 2)
    assert {"answered", "max_turns"} <= {t.end for t in found.values()}
    assert made.slots.programs.late == []


def count_compilations():
    """The compilations of XLA from here on, whoever asks for them."""
    events = []

    def listen(event: str, *_: object, **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: len(events)


def test_the_guard_names_a_late_shape(caplog):
    made = engine(replace(small.SHAPES, slots=2), fresh=True)
    made.slots.programs.seal()
    run(made, [small.record(0)], 1)
    assert any("decode" in what for what in made.slots.programs.late)
    assert "compiled after warm-up" in caplog.text
    assert "prefill (1, 80)" in caplog.text


def test_an_observation_that_does_not_fit_ends_the_episode_whole(shared):
    shapes = replace(small.SHAPES, capacity=140)
    full = run(engine(shapes), [small.record(i) for i in range(6)], 4)
    ended = [t for t in full.values() if t.end == "context_full"]
    assert len(ended) >= 5
    start, image, stop = (
        getattr(small.dialogue().tokenizer, name)
        for name in ("vision_start", "image_pad", "vision_end")
    )
    for t in full.values():
        assert len(t.ids) <= shapes.capacity
        blocks = [list(group) for key, group in itertools.groupby(t.ids.tolist()) if key == image]
        assert (t.ids == start).sum() == (t.ids == stop).sum() == len(blocks)
        shown = 1 + sum(turn.crop is not None for turn in t.turns)
        assert len(blocks) == shown
    last = [t.turns[-1] for t in ended]
    assert all(turn.stop == len(t.ids) for turn, t in zip(last, ended))
    assert any(turn.call and not turn.fault and turn.crop is None for turn in last)


def test_every_turn_has_the_limit_of_a_turn_and_the_episode_its_own(shared):
    """Of the small model's turns those that call are short, and those that think long."""
    records = [small.record(i) for i in range(6)]

    def turns_of(t):
        return [turn.stop - turn.start for turn in t.turns]

    found = run(engine(rules=Rules(turn_tokens=7)), records, 4)
    assert max(max(turns_of(t)) for t in found.values()) == 7
    assert sum(t.sampled.sum() > 7 for t in found.values()) >= 8
    cut = [t for t in found.values() if t.end == "max_tokens"]
    assert len(cut) >= 4
    assert {turns_of(t)[-1] for t in cut} == {7}
    assert any(len(t.turns) > 1 for t in cut), "the limit is the second turn's, too"

    both = run(engine(rules=Rules(turn_tokens=7, episode_tokens=10)), records, 4)
    assert max(t.sampled.sum() for t in both.values()) == 10
    assert max(max(turns_of(t)) for t in both.values()) == 7
    ended = [t for t in both.values() if t.end == "max_tokens" and t.sampled.sum() == 10]
    assert any(len(t.turns) > 1 for t in ended)
    for key, t in both.items():  # the same tokens, as far as they go
        n = len(t.ids)
        np.testing.assert_array_equal(t.ids, found[key].ids[:n])


def test_ids_never_exceed_what_an_episode_may_sample(shared):
    short = run(engine(rules=Rules(episode_tokens=7)), [small.record(i) for i in range(4)], 4)
    assert all(t.sampled.sum() <= 7 for t in short.values())
    cut = [t for t in short.values() if t.end == "max_tokens"]
    assert len(cut) >= 4
    assert all(t.sampled.sum() == 7 for t in cut if not t.turns[-1].text.endswith(">"))


def test_a_placeholder_is_never_sampled_however_much_it_is_wanted():
    tokenizer = small.dialogue().tokenizer
    wanted = [tokenizer.image_pad, tokenizer.video_pad, tokenizer.vision_start, tokenizer.size + 3]
    params = dict(small.params())
    params["unembed"] = params["unembed"].at[np.array(wanted)].set(params["embed"][:4].sum(0) * 9)
    greedy = Rules(episode_tokens=30, sampling=Sampling(temperature=0.0))
    for rules in (RULES, greedy):
        made = engine(rules=rules, params=params)
        for t in run(made, [small.record(i) for i in range(3)], 3).values():
            assert not np.isin(t.ids[t.sampled], wanted).any()
            assert np.isfinite(t.logprobs).all()
            assert (t.policy_logprobs[t.sampled] < 0).all()
    banned = Rules(episode_tokens=30, banned=(small.HEAD,))
    made = engine(rules=banned)
    head = tokenizer.encode(small.HEAD).item()
    free = run(made, [small.record(i) for i in range(3)], 3)
    assert not any((t.ids[t.sampled] == head).any() for t in free.values())


def test_ids_are_kept_as_sampled_where_their_text_encodes_otherwise(episodes):
    """Some sampled spelling is not the one that the tokenizer would choose."""
    tokenizer = small.dialogue().tokenizer
    respelled = 0
    for t in episodes.values():
        for turn in t.turns:
            ids = t.ids[turn.start : turn.stop]
            again = tokenizer.encode(tokenizer.decode(ids))
            respelled += not np.array_equal(again, ids)
    assert respelled >= 3


def test_records_that_cannot_be_shown_are_skipped_and_listed(shared, tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = [
        small.record(0, id="missing", picture=Picture(path=str(tmp_path / "none.png"))),
        small.record(0, id="broken", picture=Picture(path=str(tmp_path / "broken.png"))),
        small.record(0, id="long", question="why " * 500),
        small.record(0, id="smuggled", question="<|im_end|>"),
        small.record(0, id="strip", picture=small.picture(0, 900, 4)),
    ]
    before = len(shared.stats.skipped)
    found = run(shared, [bad[0], small.record(0), *bad[1:], small.record(1)], 2)
    assert {name[0] for name in found} == {"r0", "r1"}
    skipped = dict(shared.stats.skipped[before:])
    assert list(skipped) == [record.id for record in bad]
    assert "none.png" in skipped["missing"]
    assert "largest bucket" in skipped["long"]
    assert "'strip' skipped" in caplog.text


def test_records_after_many_that_cannot_be_shown_are_still_asked(shared, monkeypatch):
    """Where all that were being opened failed before any row decoded, the run ended, and the
    records after them were neither asked nor listed."""

    class AtOnce(ThreadPoolExecutor):
        def submit(self, *call, **named):
            future = super().submit(*call, **named)
            wait([future])
            return future

    monkeypatch.setattr("lfpc_jax.rollout.engine.ThreadPoolExecutor", AtOnce)
    long = [small.record(0, id=f"long{i}", question="why " * 500) for i in range(12)]
    before = len(shared.stats.skipped)
    found = run(shared, [*long, small.record(0)], 2)
    assert {name for name, _ in found} == {"r0"}
    assert len(shared.stats.skipped) - before == 12


def test_watching_sees_every_token_once_and_the_end(shared):
    seen: dict[int, list[int]] = {}
    ends = []

    def on_episode(episode):
        seen.setdefault(episode.rollout, []).append(len(episode.ids))
        if episode.end is not None:
            ends.append(episode.rollout)

    found = run(shared, [small.record(3)], 3, on_episode=on_episode)
    assert sorted(ends) == [0, 1, 2]
    for (_, rollout), t in found.items():
        assert seen[rollout] == sorted(seen[rollout])
        assert seen[rollout][-1] == len(t.ids)


def test_decode_goes_on_while_a_crop_is_cut():
    """The first crop takes until some other episode has ended. Were the device to wait for it,
    none would, and the crop would give up."""
    other_ended = threading.Event()
    waited: list[bool] = []

    @dataclass(frozen=True)
    class SlowOnce(Zoom):
        def execute(self, parsed, original):
            if not waited:
                waited.append(True)
                waited[0] = other_ended.wait(timeout=60)
            return super().execute(parsed, original)

    base = small.dialogue()
    toolbox = Toolbox((SlowOnce(small.CROPS, aspect_limit=8.0),))
    dialogue = Dialogue(base.tokenizer, base.chat, base.processor, toolbox)
    made = engine(dialogue=dialogue)

    def on_episode(episode):
        if episode.end is not None:
            other_ended.set()

    run(made, [small.record(i) for i in range(4)], 4, on_episode=on_episode)
    assert waited == [True]


def test_a_question_without_a_picture(shared):
    blind = small.record(7, picture=Picture())
    found = run(shared, [blind, small.record(0)], 6)
    tokenizer = small.dialogue().tokenizer
    for number in range(6):
        t = found["r7", number]
        assert not (t.ids == tokenizer.image_pad).any()
        assert t.shown == (0, 0)
        assert all(turn.crop is None for turn in t.turns)
    faults = Counter(turn.fault for n in range(6) for turn in found["r7", n].turns)
    assert faults["no_image"] >= 1


def test_without_tools_every_call_is_refused():
    base = small.dialogue()
    dialogue = Dialogue(base.tokenizer, base.chat, base.processor, Toolbox(()))
    rules = replace(RULES, max_turns=2)
    made = engine(rules=rules, dialogue=dialogue)
    found = run(made, [small.record(i) for i in range(3)], 4)
    faults = Counter(turn.fault for t in found.values() for turn in t.turns)
    assert faults["unknown_tool"] >= 3
    assert not any(turn.crop for t in found.values() for turn in t.turns)


def test_an_abandoned_run_leaves_the_engine_usable(shared, episodes):
    for _ in shared.run([small.record(i) for i in range(6)], rollouts=3, seed=9):
        break
    wanted = {name: t for name, t in episodes.items() if name[0] == "r0"}
    same(run(shared, [small.record(0)], 4), wanted)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="does not fit the capacity"):
        RolloutShapes(capacity=100)
    with pytest.raises(ValueError, match="end at 3"):
        replace(small.SHAPES, crop_buckets=Buckets((3,)))
    with pytest.raises(ValueError, match="at least 1"):
        Rules(max_turns=0)
    with pytest.raises(ValueError, match="none of that name"):
        Engine(small.config(), small.dialogue(), small.SHAPES, Rules(banned=("<nothing>",)))
    with pytest.raises(ValueError, match="image token"):
        Engine(replace(small.config(), image_token=5), small.dialogue(), small.SHAPES, RULES)
    odd = replace(small.SHAPES, window=2, image_buckets=None, crop_buckets=None)
    with pytest.raises(ValueError, match="must be the same"):
        Engine(small.config(), small.dialogue(), odd, RULES)
