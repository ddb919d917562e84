"""From pictures and messages to arrays: numpy, PIL and tokenizers, no device code."""
