"""Reads and writes weights: Hugging Face folders, Orbax stores and a run's checkpoints."""
