"""The shapes of an evaluation's engine."""

import jax
import PIL.Image
import pytest

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.cli import asking_flags, evaluate
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.run.dialogues import zooming
from lfpc_jax.run.engines import Engines
from lfpc_jax.run.models import LoadedModel
from lfpc_jax.shapes import Buckets, windows_for
from lfpc_jax.trajectory import Picture
from support import small


@pytest.mark.parametrize(
    ("tokens", "grid", "windows"), [(1024, (24, 42), 72), (16384, (96, 170), 1056)]
)
def test_the_papers_budgets_have_their_shapes(tmp_path, tokens, grid, windows):
    """An 8K picture takes 1,008 of 1,024 tokens and 16,320 of 16,384, in a bucket for no strip."""
    PIL.Image.new("L", (7680, 4320)).save(tmp_path / "8k.jpg")
    record = small.record(0, picture=Picture(str(tmp_path / "8k.jpg")))
    dialogue = zooming(small.folder(), image_tokens=tokens, crop_tokens=1024)
    found, text = dialogue.size(record)
    assert found == grid
    args = asking_flags.resolved(evaluate.parser().parse_args(["out"]), None)
    model = LoadedModel(small.config(), None, small.folder(), Origin(("float32",)))
    mesh = make_mesh(data=1, devices=jax.local_devices()[:1])
    shapes = Engines(args, model, mesh).shapes(tokens, Buckets((text,)))
    needed = windows_for(*grid, shapes.window)
    assert shapes.image_windows.fit(needed, "windows") == windows
    # Image, text, four crops with their replies, and all that may be sampled: two turns' worth,
    # unless all turns are to have their limit.
    for flags, sampled in ((), 4096), (("--episode-tokens", "0"), 5 * 2048):
        args = asking_flags.resolved(evaluate.parser().parse_args(["out", *flags]), None)
        capacity = Engines(args, model, mesh).shapes(tokens, Buckets((text,))).capacity
        assert capacity == tokens + text + 4 * (1024 + 256) + sampled
