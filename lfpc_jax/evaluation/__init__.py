"""Evaluates models on benchmarks, and tests whether their crops matter."""
