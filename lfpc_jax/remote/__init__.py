"""Models behind an OpenAI-compatible server: one that judges, and one that answers."""
