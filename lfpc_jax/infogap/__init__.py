"""The information gap: how small an image may be shown before its answer is lost."""
