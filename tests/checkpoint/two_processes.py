"""One of two processes with four devices each: load, store, restore under another mesh, export.

    two_processes.py PORT INDEX HF_DIR OUT

Prints how many bytes of weights it has read.
"""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from lfpc_jax.checkpoint import folder, huggingface, store
from lfpc_jax.checkpoint.tensorfile import TensorFile
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config


def main(port: str, index: str, hf: Path, out: Path) -> None:
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    assert len(jax.devices()) == 8
    read = []
    original = TensorFile.read

    def counting(self, *args):
        tensor = original(self, *args)
        read.append(tensor.nbytes)
        return tensor

    TensorFile.read = counting
    cfg = config.from_folder(hf)
    source = folder.open_folder(hf, cfg)
    params = huggingface.load(source, cfg, mesh=make_mesh(1, 1, 8))
    store.save(params, out / "orbax", assets_from=hf, origin=source.origin)
    stored = store.open_store(out / "orbax")
    params = store.restore(stored, cfg, mesh=make_mesh(2, 2, 2))
    huggingface.save(params, out / "back", cfg=cfg, assets_from=stored.assets, origin=stored.origin)
    print(sum(read), source.nbytes, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
