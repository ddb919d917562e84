"""LFPC in JAX: a Qwen2.5-VL that looks before it answers, trained and run in one XLA code path."""

import os

# transformers advises at import to install PyTorch. Only its tokenizers and configs are used here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
