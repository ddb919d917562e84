"""Data: readers of the public sets, our own layout, the pipeline and the synthetic world."""
