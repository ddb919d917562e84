"""The check before trust. Kernels run in their interpreters or stand-ins here: right ones pass, and
each that is rigged to be wrong is refused with the numbers."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lfpc_jax.cropvlm.likelihood import Likelihoods
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import (
    attention_check,
    attention_cudnn,
    attention_reach,
    attention_splash,
)
from lfpc_jax.model.attention import ChosenKernel
from lfpc_jax.model.attention_check import LIMIT, Case, KernelDiffers, check
from lfpc_jax.model.config import published
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.run.building import learner_of
from lfpc_jax.run.config import TrainConfig
from support import cudnn_stand_in, small, tpu_slices
from support.engines import RULES

pytestmark = pytest.mark.compiles


def model(kernel):
    """A model with heads as wide as the published ones', and fewer of them."""
    cfg = published("3b", kernel=kernel)
    text = replace(cfg.text, width=256, heads=2, kv_heads=1)
    return replace(cfg, text=text, vision=replace(cfg.vision, width=80, heads=1, out=256))


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Kernels as a CPU can run them. What was checked before counts for nothing."""
    attention_check._checked.cache_clear()
    monkeypatch.setattr(attention_cudnn, "_forward", cudnn_stand_in.forward)
    monkeypatch.setattr(attention_cudnn, "_backward", cudnn_stand_in.backward)
    of_rows = partial(attention_cudnn.cudnn, implementation="xla")
    monkeypatch.setattr(attention_cudnn, "cudnn", of_rows)
    monkeypatch.setattr(
        attention_splash, "splash", partial(attention_splash.splash, interpret=True)
    )
    monkeypatch.setattr(attention_reach, "reach", partial(attention_reach.reach, interpret=True))
    yield
    attention_check._checked.cache_clear()


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
@pytest.mark.parametrize("purpose", ["rollouts", pytest.param("updates", marks=pytest.mark.slow)])
def test_what_is_right_passes(kernel, purpose):
    """By a wide margin, so that rounding on another device is not refused."""
    checked = [
        case
        for case in attention_check.cases(model(kernel), purpose)
        if case.choice.kernel != "xla"
    ]
    assert len(checked) == (3 if (kernel, purpose) == ("splash", "rollouts") else 2)
    for case in checked:
        errors = case.errors(jax.devices()[0], kernel)
        assert max(errors.values()) < LIMIT / 3, (case.name, errors)
        assert len(errors) == (4 if purpose == "updates" else 1)


cudnn_rows, cudnn_packed = attention_cudnn.cudnn, attention_cudnn.packed


def ignoring_segments(q, k, v, segments, prefix, *, causal):
    return cudnn_packed(q, k, v, (segments > 0).astype(jnp.int32), None, causal=causal)


def without_a_prompt_for_one_token(q, k, v, segments, prefix, *, causal):
    out = cudnn_packed(q, k, v, segments, prefix, causal=causal)
    if prefix is None:
        return out
    alone = cudnn_packed(q, k, v, segments, None, causal=causal)
    return out.at[0, 206].set(alone[0, 206])


def seeing_ahead(q, k, v, **masks):
    return cudnn_rows(q, k, v, **{**masks, "causal": False}, implementation="xla")


def not_numbers_behind_the_end(q, k, v, *, causal, lengths, valid):
    out = cudnn_rows(q, k, v, causal=causal, lengths=lengths, valid=valid, implementation="xla")
    if lengths is None:
        return out
    return jnp.where((jnp.arange(q.shape[1]) < lengths[:, None])[..., None, None], out, jnp.nan)


def with_large_gradients_of_keys(*args, **options):
    dq, dk, dv = cudnn_stand_in.backward(*args, **options)
    return dq, dk * 1.25, dv


def reading_a_key_too_many(lengths, values, visits=attention_reach.visits):
    return visits(lengths + 1, values)


RIGGED = {
    "packed rows as if they were one": (
        "cudnn", "scores", attention_cudnn, "packed", ignoring_segments,
        r"cudnn, packed rows with shared prompts: values [1-9].*; cudnn, packed pictures: values",
    ),
    "later tokens seen": (
        "cudnn", "rollouts", attention_cudnn, "cudnn", seeing_ahead, "cudnn, prompts: values",
    ),
    "not finite behind a row's end": (
        "cudnn", "rollouts", attention_cudnn, "cudnn", not_numbers_behind_the_end,
        "cudnn, prompts: values inf",
    ),
    "decode reads a key too many": (
        "splash", "rollouts", attention_reach, "visits", reading_a_key_too_many,
        r"most 0\.06: reach, decode with shared prompts: values",
    ),
}  # fmt: skip
SLOWLY = {
    "a token that does not see its prompt": (
        "cudnn", "scores", attention_cudnn, "packed", without_a_prompt_for_one_token,
        r"at most 0\.06: cudnn, packed rows with shared prompts: values [\d.]+\. Set LFPC",
    ),
    "a gradient a quarter too large": (
        "cudnn", "updates", attention_cudnn, "_backward", with_large_gradients_of_keys,
        r"keys' gradient 0\.2\d,",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "purpose", "module", "name", "rigged", "told"),
    [*RIGGED.values(), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOWLY.values())],
    ids=[*RIGGED, *SLOWLY],
)
def test_what_is_wrong_is_refused(monkeypatch, kernel, purpose, module, name, rigged, told):
    monkeypatch.setattr(module, name, rigged)
    with pytest.raises(KernelDiffers, match=told):
        check(model(kernel), purpose)


def of_an_engine(cfg, mesh):
    return Engine(cfg, small.dialogue(), small.SHAPES, RULES, mesh=mesh)


def of_updates(cfg, mesh):
    return learner_of(TrainConfig(), cfg, small.dialogue(), mesh)


def of_likelihoods(cfg, mesh):
    return Likelihoods(cfg, mesh=mesh)


@pytest.mark.parametrize(
    ("made", "purpose"),
    [(of_an_engine, "rollouts"), (of_updates, "updates"), (of_likelihoods, "scores")],
)
def test_what_runs_kernels_checks_them_first(monkeypatch, made, purpose):
    """A kernel that differs is found before anything is made, on the first device of the mesh."""
    seen = []

    def cases(cfg, purpose):
        def compute(kernel, x):
            seen.append(purpose)
            return {"values": x if kernel == "xla" else 1.5 * x}

        x = np.ones((2, 3, 4), np.float32)
        yield Case("rigged", ChosenKernel("cudnn", ""), compute, (x,))

    mesh = make_mesh(2, 1, 1, devices=jax.devices()[2:4])
    made(small.config(), mesh)
    monkeypatch.setattr(attention_check, "cases", cases)
    attention_check._checked.cache_clear()
    with pytest.raises(KernelDiffers, match=r"cudnn, rigged: values 0\.5\. Set LFPC_KERNEL=xla"):
        made(small.config(kernel="cudnn"), mesh)
    assert set(seen) == {purpose}


def test_a_kernel_that_does_not_run_is_named(monkeypatch):
    def missing(kernel, x):
        if kernel != "xla":
            raise NotImplementedError("no such\n  kernel on this chip")
        return {"values": x}

    case = Case("rigged", ChosenKernel("cudnn", ""), missing, (np.ones((2, 3, 4), np.float32),))
    monkeypatch.setattr(attention_check, "cases", lambda *_: iter([case]))
    told = r"cudnn, rigged: does not run \(no such kernel on this chip\)\. Set LFPC_KERNEL=xla"
    with pytest.raises(KernelDiffers, match=told):
        check(model("cudnn"), "scores")


def test_devices_that_are_only_described_are_not_asked():
    mesh = make_mesh(1, 8, 1, devices=tpu_slices.devices("v5e:2x4"))
    for purpose in ("rollouts", "scores", "updates"):
        check(model("splash"), purpose, mesh)
    assert attention_check._checked.cache_info().currsize == 0
