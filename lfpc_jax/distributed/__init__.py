"""Meshes and the table of sharding rules, and what processes tell each other."""
