import pytest

from support import hf_folders


@pytest.fixture
def hf(tmp_path):
    """An untied, sharded folder in bfloat16, for a test to spoil."""
    return hf_folders.write(tmp_path / "hf", sharded=True)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """The same folders, made once, by their properties; not to be changed."""
    made = {}

    def folder(**properties):
        name = "-".join(f"{k}={v}" for k, v in sorted(properties.items()))
        if name not in made:
            made[name] = hf_folders.write(tmp_path_factory.mktemp("kept") / "hf", **properties)
        return made[name]

    return folder
