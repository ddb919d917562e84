"""An OpenAI-compatible server over the rollout engine, and a page to try a model."""
