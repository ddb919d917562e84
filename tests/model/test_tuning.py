"""What suits each kind of device, against what is known to."""

import jax
import pytest

from lfpc_jax.model import tuning as module
from lfpc_jax.model.tuning import cpu_vendor, tuning, update_options
from support import absent


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


def test_under_a_mesh_it_is_that_of_its_devices():
    """A plan for a GPU is made on a CPU, and its programs are traced under a mesh of GPUs."""
    for platform in ("gpu", "tpu", "cpu"):
        with absent.mesh(platform):
            assert tuning() == tuning(platform)


def test_the_environment_names_another_kernel(monkeypatch):
    monkeypatch.setenv("LFPC_KERNEL", "xla")
    assert tuning("gpu").kernel == tuning("tpu").kernel == "xla"
    assert (tuning("gpu").dtype, tuning("tpu").unstacked) == ("bfloat16", False)
    monkeypatch.setenv("LFPC_KERNEL", "auto")
    assert tuning("tpu").kernel == "splash"
    monkeypatch.setenv("LFPC_KERNEL", "flash")
    with pytest.raises(ValueError, match=r"LFPC_KERNEL=flash .* choose one of auto, xla, cudnn"):
        tuning("gpu")


@pytest.mark.compiles
def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    assert update_options("tpu") is None
    monkeypatch.setitem(tuning("cpu").update_options, "xla_no_such_option", 1)
    update_options.cache_clear()
    assert update_options("cpu") is None
    update_options.cache_clear()


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("vendor", "without_ynn"), [("GenuineIntel", True), ("AuthenticAMD", False), ("", True)]
)
def test_products_are_computed_by_what_is_faster_on_the_cpu(monkeypatch, vendor, without_ynn):
    monkeypatch.setattr(module, "cpu_vendor", lambda: vendor)
    update_options.cache_clear()
    options = update_options("cpu")
    update_options.cache_clear()
    assert options["xla_cpu_prefer_vector_width"] == 512
    assert (options.get("xla_cpu_experimental_ynn_fusion_type") == "") == without_ynn


def test_the_cpus_vendor_is_read_from_the_systems_list(tmp_path):
    listing = tmp_path / "cpuinfo"
    assert cpu_vendor(listing) == ""
    listing.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert cpu_vendor(listing) == ""
    listing.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n")
    assert cpu_vendor(listing) == "GenuineIntel"
