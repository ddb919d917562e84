"""What suits each kind of device, against what is known to."""

import jax
import pytest

from lfpc_jax.model.tuning import tuning, update_options


@pytest.mark.parametrize(
    ("platform", "dtype", "kernel", "unstacked"),
    [
        ("cpu", "float32", "xla", True),
        ("gpu", "bfloat16", "cudnn", False),
        ("tpu", "bfloat16", "splash", False),
        ("another", "bfloat16", "xla", False),
    ],
)
def test_a_platform_has_its_own(platform, dtype, kernel, unstacked):
    tuned = tuning(platform)
    assert (tuned.platform, tuned.dtype, tuned.kernel) == (platform, dtype, kernel)
    assert tuned.unstacked == tuned.positions_last == unstacked


def test_by_default_it_is_the_devices_own():
    assert tuning() == tuning(jax.default_backend())


@pytest.mark.compiles
def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    assert update_options("tpu") is None
    monkeypatch.setitem(tuning("cpu").update_options, "xla_no_such_option", 1)
    update_options.cache_clear()
    assert update_options("cpu") is None
    update_options.cache_clear()
