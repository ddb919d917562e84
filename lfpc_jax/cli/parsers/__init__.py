"""The flags of each command, in modules that import neither JAX nor transformers.

So `--help` and wrong flags are answered at once. A default or a choice that such a library's module
decides is written again here; `tests/cli/test_help.py` compares them.
"""
