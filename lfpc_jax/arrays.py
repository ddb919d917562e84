"""Types of arrays, trees of arrays, boxes and sizes, for annotations. Arrays and trees are not
checked."""

from typing import Any

Array = Any
"""A NumPy array on the host, a JAX array on the device, or a tracer or `ShapeDtypeStruct`."""

Tree = Any
"""Nested dicts, tuples and dataclasses whose leaves are arrays, such as parameters."""

Box4 = tuple[float, float, float, float]
"""x1, y1, x2, y2, in pixels of the original image unless stated otherwise."""

Nests = tuple[tuple[Box4, ...], ...]
"""For each thing that must be seen, its nested boxes, the smallest first."""

Size = tuple[int, int]
"""Width and height."""
