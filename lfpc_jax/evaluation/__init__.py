"""What a model can do, and whether its crops have anything to do with it."""
