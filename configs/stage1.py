"""Stage I, learn to focus: train on images downsampled until they no longer suffice.

    lfpc select data/focus data/focus-answer --model Qwen2.5-VL-7B-Instruct
    lfpc train --config stage1.py [--data.validation FOLDER]

`stage1.py:3b` trains Qwen2.5-VL-3B (select with that model, too), `stage1.py:3b-24gb` and its like
train on one GPU, and `stage1.py:micro` trains the small world's model, on the data that
`lfpc demo` makes. `configs/common.py` has the settings.

`data/focus` is a set in our layout of the paper's sources: PixelReasoner (2.7k), Chain-of-Focus
(2.1k) and ThinkLite-VL. It has their images and question-answer pairs alone (docs/data.md).

The paper's sizes have no set to validate on. Unless you give one, there are no validation figures,
nothing shows what crops are worth during training (`validation/gap`), and no checkpoint is kept as
the best.

A turn samples at most 2,048 tokens. All five turns together are limited only by the context of
8,192 tokens. The prompt takes 1,024 for the image and some 400 for its text; each crop takes at
most 1,024 and some 40. That leaves 6,700 tokens without a crop and 2,500 with four of full size. An
episode that needs more ends with `context_full` (metric end/context_full). A
`--rollout.capacity 16384` holds five whole turns.

Hardware:
- 7b: the paper used one node of 8 x A100 80 GB, for 418.5 A100-hours in total (2.5 of them for the
  selection), which is 52 hours of the node. Let `lfpc plan` compile it for your slice first.
- 3b: 4 GPUs of 80 GB, or a TPU v5e:4x4 with `--mesh.tensor 2 --rollout.slots 32` (docs/scaling.md).
- 3b-24gb, 7b-24gb, 3b-48gb, 7b-48gb, 3b-80gb, 7b-80gb, 7b-141gb: one GPU with that memory; the
  table in docs/training.md has what each holds and takes.
- micro: two CPU cores, some minutes.

Expect:
- 7b (paper, 1,024 tokens): 69.9 on HR-Bench 8K, 74.4 on 4K, 78.0 on V*. Accuracy falls by 18.5,
  10.5 and 11.0 points when crops are replaced by noise.
- 3b: the paper has no figures. validation/gap, the accuracy that is lost when crops are blank,
  should rise and end above that of `baseline.py:3b`.
- micro: crops that contain the target, and a validation/accuracy of 0.6 to 0.8, which falls to
  chance when crops are replaced by noise.
"""

from configs import common
from lfpc_jax.run.config import TrainConfig


def get_config(size: str = "7b") -> TrainConfig:
    return common.stage1(size)
