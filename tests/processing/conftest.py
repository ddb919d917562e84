from pathlib import Path

import pytest

from lfpc_jax.processing.tokenizer import Tokenizer
from support.qwen_vocabulary import write_model_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen's tokenizer, a chat template and the image processor's settings."""
    return write_model_folder(tmp_path_factory.mktemp("qwen"), "merges")


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(model_folder)
