"""GRPO: advantages, packing, the loss, and one sharded update."""
