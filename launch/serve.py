"""A model as an OpenAI-compatible server, with a page; see lfpc_jax/cli/serve.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("serve"))
