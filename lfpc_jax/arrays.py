"""The types of arrays and of trees of them. Annotations alone use both: neither is checked."""

from typing import Any

Array = Any
"""NumPy's on the host, JAX's on the device; or, planned or traced, what stands for one."""

Tree = Any
"""Nested dicts, tuples and dataclasses whose leaves are arrays: parameters above all."""
