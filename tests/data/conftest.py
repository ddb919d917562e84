"""Real photographs for the data room's tests."""

import shutil
from pathlib import Path

import pytest


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
