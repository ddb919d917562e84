"""Weights in and out: Hugging Face folders and Orbax stores."""
