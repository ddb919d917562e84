"""Episodes: the sampler on the device, the tools on the host, and what they leave on disk."""
