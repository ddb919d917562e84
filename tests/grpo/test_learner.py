"""Updates against PyTorch's autograd through transformers' model, and against one another."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.items import counts
from lfpc_jax.grpo.learner import HOST
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
from lfpc_jax.grpo.packing import Row, deal, lay_out, pack
from lfpc_jax.model import spec
from lfpc_jax.shapes import TrainShapes
from support import ported, random_groups, reference
from support.learners import (
    ADAM,
    LAST,
    MANY,
    PACKED,
    SHARED,
    close,
    copied,
    every,
    ids_of,
    items,
    learner,
    off_policy,
    packed,
    scored,
    scores,
    three_steps,
    with_others,
)

pytestmark = pytest.mark.compiles
ALONE = TrainShapes(64, 1, places=64, windows=16, span=16)
EVERY_TERM = Objective(clip_low=0.1, clip_high=0.3, kl=0.2, entropy=0.5, importance_cap=1.2)


def alone(cfg, found, shapes, shards):
    """As `packed`, with every episode in a row of its own."""
    rows = []
    for item in items(found):
        rows.append(Row(shapes.row_tokens))
        rows[-1].put(item, shapes.shared)
    mini_batch = lay_out(
        deal(rows, shards), shapes, ported.processor(cfg), image_token=cfg.image_token
    )
    assert all(batch.tokens.segments.max() == 1 for batch in mini_batch.rows)
    return mini_batch


def torch_loss(hf, found, objective, aggregate, temperature):
    """The mean over sampled tokens, episode by episode, of the published formulas; logits are
    divided by the temperature, as verl's are."""
    number, tokens = np.array([*map(counts, found)]).sum(axis=0).tolist()
    loss = torch.zeros((), dtype=torch.float64)
    for one in found:
        for trajectory, crops, advantage in zip(one.trajectories, one.crops, one.advantages):
            if np.isnan(advantage):
                continue
            shown = [] if one.image is None else [one.image]
            prompt = reference.Prompt(trajectory.ids, [*shown, *crops])
            inputs = reference.model_inputs([prompt], len(trajectory.ids))
            logits = hf(**inputs, use_cache=False).logits[0].double()
            logits = logits[:, : reference.IMAGE] / temperature
            at = torch.tensor(np.flatnonzero(trajectory.sampled))
            ids = torch.tensor(trajectory.ids[at].astype(np.int64))
            every = logits[at - 1].log_softmax(-1)
            logprobs = every.gather(1, ids[:, None])[:, 0]
            old, other = (
                logprobs.detach() + torch.tensor(off)
                for off in off_policy(advantage, trajectory.ids[at])
            )
            ratio = (logprobs - old).exp()
            clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
            gain = torch.minimum(ratio * advantage, clipped * advantage)
            if objective.importance_cap is not None:
                sampler = torch.tensor(trajectory.logprobs[at])
                gain = gain * (old - sampler).exp().clamp(max=objective.importance_cap)
            gain = gain - objective.kl * ((other - logprobs).exp() - (other - logprobs) - 1)
            gain = gain - objective.entropy * (every.exp() * every).sum(-1)
            share = tokens if aggregate == "token" else number * len(at)
            loss = loss - gain.sum() / share
    return loss


def torch_gradients(hf, cfg, found, objective, aggregate, temperature):
    """The loss, and its gradients as a tree of the package's parameters."""
    hf.zero_grad()
    loss = torch_loss(hf, found, objective, aggregate, temperature)
    loss.backward()
    gradients = {
        reference.published_name(name): torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in hf.named_parameters()
    }

    def theirs(param):
        layers = [param.from_hf(gradients[name].numpy()) for name in param.hf_names]
        return np.stack(layers) if param.stack else layers[0]

    return loss.item(), jax.tree.map(theirs, spec.spec_tree(cfg), is_leaf=spec.is_param)


@pytest.mark.parametrize(
    ("aggregate", "shapes", "objective", "temperature", "unstacked"),
    [
        ("token", PACKED, Objective(), 1.0, False),
        ("sequence", PACKED, EVERY_TERM, 0.7, False),
        ("token", MANY, Objective(), 1.0, False),
        ("token", SHARED, Objective(), 0.7, True),
    ],
)
def test_loss_and_gradients_equal_torchs(
    model, aggregate, shapes, objective, temperature, unstacked
):
    """Of the whole tree, vision tower included."""
    hf, cfg, params = model
    found = scored()
    loss, expected = torch_gradients(hf, cfg, found, objective, aggregate, temperature)
    made = learner(cfg, objective, optimizer=LAST, temperature=temperature, unstacked=unstacked)
    state = made.start(copied(params), jax.random.key(0))
    all_of_them = objective.kl > 0  # those without an advantage have a gradient then
    mini_batch = packed(cfg, found, shapes, aggregate=aggregate, all_of_them=all_of_them)
    assert len(mini_batch.rows) < len(items(found)), "nothing was packed"
    assert (len(mini_batch.bins) > 1) == (shapes == MANY)
    mini_batch = with_others(made, mini_batch, state)
    after, metrics, _ = made.update(state, made.place(mini_batch))
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(metrics["clipped_high"]) > 0.05
    assert float(metrics["clipped_low"]) > 0.05
    close(after.moments.trace, expected, 1e-4)
    whole = hf.named_parameters()
    norm = np.sqrt(sum((p.grad.double() ** 2).sum().item() for _, p in whole))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)


@pytest.fixture(scope="module")
def on_a_mesh(model):
    return learner(model[1], optimizer=LAST, mesh=make_mesh(2, 2, 2))


def group(seed, name, size, **more):
    rng = np.random.default_rng(seed)
    rewards = tuple(float(number) for number in range(size))
    return random_groups.rewarded(random_groups.group(rng, name, size, **more), rewards)


def many_pictures():
    """An episode with five pictures, a group without any, and two groups that show one picture."""
    shows = group(2, "first", 3)
    others = replace(shows, record=replace(shows.record, id="second"), trajectories=tuple(
        replace(t, record="second", ids=np.where(t.sampled, t.ids % 200 + 7, t.ids))
        for t in shows.trajectories
    ))  # fmt: skip
    return [group(1, "five", 2, crops=4), group(3, "blind", 2, picture=False), shows, others]


def blind():
    return [group(4, "a", 3, picture=False), group(5, "b", 2, picture=False)]


@pytest.mark.long
@pytest.mark.parametrize("case", ["many pictures", "one row", "no pictures"])
def test_gradients_on_shards_of_all_kinds_equal_torchs(model, on_a_mesh, case):
    """Four shards: some show a picture that others show, too, and some have no row at all."""
    hf, cfg, params = model
    found = {"many pictures": many_pictures(), "one row": [group(6, "c", 2)],
             "no pictures": blind()}[case]  # fmt: skip
    _, expected = torch_gradients(hf, cfg, found, Objective(), "token", 1.0)
    shapes = TrainShapes(104, 1, places=60, windows=6, span=6, shared=True)
    every_item = [
        replace(item, pictures=(replace(item.pictures[0], key="common"), *item.pictures[1:]))
        if item.trajectory.record in ("first", "second") else item
        for item in items(found)
    ]  # fmt: skip
    mini_batch = pack(
        every_item, shapes, ported.processor(cfg), shards=4, image_token=cfg.image_token
    )
    empty = [not rows.any() for rows in mini_batch.rows[0].weights.reshape(4, -1)]
    shown = [key for bins in mini_batch.bins for bin_ in bins for key in bin_.first]
    if case == "many pictures":
        assert max(len(item.pictures) for item in every_item) == 5
        assert shown.count("common") == 2, "on two of the shards"
    assert any(empty) == (case != "many pictures")
    assert bool(shown) == (case != "no pictures")
    state = on_a_mesh.start(
        jax.device_put(copied(params), spec.shardings(cfg, on_a_mesh.mesh)), jax.random.key(0)
    )
    mini_batch = with_others(on_a_mesh, mini_batch, state)
    after, _, _ = on_a_mesh.update(state, on_a_mesh.place(mini_batch))
    close(after.moments.trace, expected, 1e-4)


@pytest.fixture(scope="module")
def expected(model):
    _, cfg, params = model
    return three_steps(cfg, params)


def micro_batches(cfg, shapes, lay=packed):
    """How many of rows and of pictures there are on one device, and their sizes."""
    mini_batch = lay(cfg, scored(), shapes, 1)
    places = {rows.at.shape[1] for rows in mini_batch.rows}
    spans = {bins[0].span for bins in mini_batch.bins}
    return len(mini_batch.rows), len(mini_batch.bins), places, spans


BEFORE = {
    "loss": (-2.6847379, -2.7484889, -2.8125138),
    "gradient_norm": (0.61853284, 0.38747412, 0.35743037),
    "entropy": (5.5981894, 5.6035271, 5.6122942),
}
CHANGES = {
    ("embed",): 0.94778323,
    ("text", "down", "w"): 0.90863909,
    ("text", "k", "w"): 0.28961760,
    ("text", "norm1"): 0.09473941,
    ("vision", "patch"): 0.80544097,
    ("vision", "layers", "qkv", "w"): 0.04963107,
    ("vision", "layers", "down", "w"): 0.03143981,
    ("vision", "merger", "fc2", "b"): 0.07608555,
}
"""What three updates were, and the norms of parameters' changes, when an update was one program
that encoded a micro-batch's pictures with its rows: measured with that code, commit e94be67."""


@pytest.mark.long
def test_updates_are_what_they_were_with_pictures_in_every_micro_batch(model):
    _, cfg, params = model
    made = learner(cfg, EVERY_TERM, optimizer=ADAM)
    state = made.start(copied(params), jax.random.key(0))
    mini_batch = packed(cfg, scored(), SHARED, all_of_them=True)
    found = []
    for _ in range(3):
        placed = made.place(with_others(made, mini_batch, state))
        state, metrics, _ = made.update(state, placed)
        found.append(metrics)
    for name, values in BEFORE.items():
        assert [float(each[name]) for each in found] == pytest.approx(values, rel=1e-5), name
    after = jax.device_get(made.computing(state))
    for path, norm in CHANGES.items():
        new, old = after, params
        for name in path:
            new, old = new[name], old[name]
        change = np.linalg.norm(np.float64(new) - np.float64(old))
        assert change == pytest.approx(norm, rel=1e-4), path


@pytest.mark.long
def test_alone_equals_packed(model, expected):
    _, cfg, params = model
    assert micro_batches(cfg, ALONE, alone)[0] == 7
    close(three_steps(cfg, params, ALONE, lay=alone), expected, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("mesh", [None, pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_shared_prompts_change_nothing_but_their_cost(model, expected, mesh):
    _, cfg, params = model
    mesh = mesh and make_mesh(*mesh)
    close(three_steps(cfg, params, SHARED, mesh), expected, 1e-5)
    tokens = [packed(cfg, scored(), replace(shapes, row_tokens=400)).filling.tokens
              for shapes in (PACKED, SHARED)]  # fmt: skip
    assert tokens[1] < 0.8 * tokens[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1, "row_tokens": 64, "windows": 4, "span": 4, "shared": True},
        {"rows": 3, "row_tokens": 128, "windows": 12, "span": 12},
        {"rows": 1, "places": 10, "windows": 4, "span": 1},  # crowded rows; pictures as strips
    ],
)
def test_any_micro_batches_of_rows_and_pictures_are_the_same_update(model, expected, changes):
    _, cfg, params = model
    shapes = replace(PACKED, **changes)
    assert micro_batches(cfg, shapes)[:2] != micro_batches(cfg, PACKED)[:2]
    assert ("places" in changes) == (micro_batches(cfg, shapes)[2] == {10, 96})
    close(three_steps(cfg, params, shapes), expected, 1e-5)


@pytest.mark.long
def test_a_mesh_changes_nothing(model, expected):
    _, cfg, params = model
    close(three_steps(cfg, params, mesh=make_mesh(2, 2, 2)), expected, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize("mesh", [None, (2, 2, 2)])
def test_what_is_watched_are_means_over_the_tokens_that_are_there(model, mesh):
    """Of all micro-batches and shards; an episode without an advantage is not there."""
    _, cfg, params = model
    made = learner(cfg, mesh=mesh and make_mesh(*mesh))
    state = made.start(jax.device_put(copied(params), spec.shardings(cfg, made.mesh)),
                       jax.random.key(0))  # fmt: skip
    mini_batch = packed(cfg, scored(), shards=made.all_shards)
    assert len(mini_batch.rows) == (1 if mesh else 2)
    mini_batch = with_others(made, mini_batch, state)
    _, metrics, _ = made.update(state, made.place(mini_batch))
    weights, advantages, old, sampler = (
        every([getattr(rows, name) for rows in mini_batch.rows], mini_batch).astype(np.float64)
        for name in ("weights", "advantages", "old", "sampler")
    )
    assert 0.5 < weights.sum() < 0.95
    expected = np.average(np.abs(old - sampler), weights=weights)
    assert float(metrics["sampler_apart"]) == pytest.approx(expected, rel=1e-5)
    ids = every([ids_of(rows) for rows in mini_batch.rows], mini_batch)
    off, _ = off_policy(advantages, ids)  # the ratio is exp(-off)
    high = np.average((np.exp(-off) > 1.2) & (advantages > 0), weights=weights)
    assert high > 0.05
    assert float(metrics["clipped_high"]) == pytest.approx(high, rel=1e-5)


def test_the_rows_of_a_batch_come_back_as_they_were_placed(model):
    _, cfg, params = model
    made = learner(cfg, mesh=make_mesh(1, 2, 4))
    shapes = replace(PACKED, rows=1, row_tokens=64, places=10)
    mini_batch = packed(cfg, scored(), shapes, shards=2)
    local = made.local(made.place(mini_batch))
    assert {rows.at.shape[1] for rows in mini_batch.rows} == {10, 64}
    jax.tree.map(np.testing.assert_array_equal, local.rows, mini_batch.rows)
    for found in scores(made, params, mini_batch):
        np.testing.assert_array_equal(made.local_rows(found), np.asarray(found))


@pytest.mark.long
def test_moments_on_the_host_change_nothing(model):
    """They are there between updates, and what two updates of Adam do is the same to the bit."""
    _, cfg, params = model
    found = []
    for on_host in (False, True):
        made = learner(cfg, optimizer=optax.adam(1e-2), moments_on_host=on_host)
        state = made.start(copied(params), jax.random.key(0))
        mini_batch = packed(cfg, scored(), SHARED)
        mini_batch = made.place(
            mini_batch.having("old", [rows.sampler for rows in mini_batch.rows])
        )
        for _ in range(2):
            kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.moments)}
            assert kinds == {HOST if on_host else "device"}
            assert {x.sharding.memory_kind for x in jax.tree.leaves(state.trained)} == {"device"}
            state, _, _ = made.update(state, mini_batch)
        like = made.abstract_state()
        for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
            assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
            assert x.sharding.memory_kind == y.sharding.memory_kind
        found.append(jax.device_get((state.trained, state.moments)))
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.long
def test_masters_and_moments_stay_float32_where_the_model_computes_in_bfloat16(model):
    """They begin at values of bfloat16 and move by less than it can hold; the gradient, by Adam's
    first moment, is float32's but for rounding. Without clips, which rounding could flip."""
    _, cfg, params = model
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    mini_batch = packed(cfg, scored())
    mini_batch = mini_batch.having("old", [rows.sampler for rows in mini_batch.rows])
    settings = OptimizerSettings(learning_rate=1e-7, clip_norm=1e9)
    losses, gradients = [], []
    for dtype in ("float32", "bfloat16"):
        made = learner(
            replace(cfg, dtype=dtype),
            Objective(clip_low=1.0, clip_high=1e9),
            optimizer=make_optimizer(settings, 1),
        )
        state = made.start(copied(params), jax.random.key(0))
        state, metrics, _ = made.update(state, made.place(mini_batch))
        losses.append(float(metrics["loss"]))
        gradients.append(jax.device_get(optax.tree.get(state.moments, "mu")))
    kept = state.trained, *(optax.tree.get(state.moments, name) for name in ("mu", "nu"))
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    computing = jax.tree.leaves(made.computing(state))
    assert {x.dtype for x in computing} == {jnp.dtype("bfloat16")}
    moved, seen = (
        np.concatenate([np.ravel(a != b) for a, b in zip(jax.tree.leaves(params), now)])
        for now in (jax.tree.leaves(state.trained), computing)
    )
    assert moved.mean() > 0.9
    assert seen.mean() < 0.01  # biases near 0
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    close(gradients[1], gradients[0], 0.03)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(model):
    _, cfg, params = model
    made = learner(cfg, optimizer=optax.adam(1e-2))
    state = made.start(copied(params), jax.random.key(0))
    sound = made.place(with_others(made, packed(cfg, scored()), state))
    first, *rest = sound.rows
    first = replace(first, advantages=first.advantages.at[0, 0].set(jnp.nan))
    broken = replace(sound, rows=(first, *rest))
    state, _, _ = made.update(state, sound)
    before = jax.device_get((state.trained, state.moments))
    for count in (1, 2):
        state, metrics, _ = made.update(state, broken)
        assert int(metrics["refused"]) == int(state.refused) == count
    close(jax.device_get((state.trained, state.moments)), before, 0.0)
    state, metrics, _ = made.update(state, sound)
    assert int(metrics["refused"]) == 0
    assert (int(state.updates), int(state.ever_refused)) == (2, 2)


@pytest.mark.long
def test_scores_and_entropy_equal_torchs(model):
    """The entropy is the update's: its mean over tokens, weighed as they are."""
    hf, cfg, params = model
    found = scored()
    made = learner(cfg, Objective(entropy=1.0))
    mini_batch = packed(cfg, found, all_of_them=True)
    ours = np.sort(every(scores(made, params, mini_batch), mini_batch))
    state = made.start(copied(params), jax.random.key(0))
    _, metrics, logprobs = made.update(state, made.place(mini_batch))
    theirs, entropies = [], []
    for item in items(found, all_of_them=True):
        prompt = reference.Prompt(item.trajectory.ids, [seen.pixels for seen in item.pictures])
        logits = reference.logits(hf, [prompt], len(prompt.ids))[0][:, : reference.IMAGE]
        at = np.flatnonzero(item.trajectory.sampled)
        all_of_them = torch.tensor(logits).double().log_softmax(-1).numpy()[at - 1]
        theirs += all_of_them[np.arange(len(at)), prompt.ids[at]].tolist()
        entropies += (-np.exp(all_of_them) * all_of_them).sum(-1).tolist()
    np.testing.assert_allclose(ours, np.sort(theirs), atol=1e-4)
    assert float(metrics["entropy"]) == pytest.approx(np.mean(entropies), abs=1e-5)
    np.testing.assert_allclose(np.sort(every(logprobs, mini_batch)), ours, atol=1e-5)
