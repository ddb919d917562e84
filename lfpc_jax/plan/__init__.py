"""Ahead-of-time compilation for device slices that are not there."""
