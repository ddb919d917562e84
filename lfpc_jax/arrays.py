"""Types of arrays and of trees of arrays. They are only for annotations and are not checked."""

from typing import Any

Array = Any
"""A NumPy array on the host, a JAX array on the device, or a tracer or `ShapeDtypeStruct`."""

Tree = Any
"""Nested dicts, tuples and dataclasses whose leaves are arrays, such as parameters."""
