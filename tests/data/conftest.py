"""Pictures and records for the data room's tests."""

import io
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.trajectory import Picture, Record


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A small picture that differs from those of other seeds."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def record(name: str = "r", **changes) -> Record:
    whole = {"question": "What is it?", "answer": "a", "picture": Picture(data=jpeg())}
    return Record(id=name, **(whole | changes))


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """Real photographs that scikit-learn and scikit-image bring along."""
    import skimage
    import sklearn.datasets

    folder = tmp_path_factory.mktemp("photographs")
    for path in sklearn.datasets.load_sample_images().filenames:
        shutil.copy(path, folder)
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"):
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder
