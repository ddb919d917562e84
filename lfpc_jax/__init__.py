"""LFPC in JAX: a Qwen2.5-VL that looks before it answers, trained and run in one XLA code path."""
