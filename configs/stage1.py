"""Stage I, learn to focus: Qwen2.5-VL-7B on images downsampled until they no longer suffice.

    python launch/select_resolution.py data/focus data/focus-answer --model Qwen2.5-VL-7B-Instruct
    python launch/train.py --config stage1.py [--data.validation FOLDER]

`data/focus` is a set in our layout of the paper's sources: PixelReasoner (2.7k), Chain-of-Focus
(2.1k) and ThinkLite-VL, images and question-answer pairs alone (see docs/data.md).

The config has no set to validate on. Without one of yours there are no validation figures, nothing
shows what crops are worth as it trains (`validation/gap`), and no checkpoint is kept as the best.

A turn samples at most 2,048 tokens. How many all five do is limited by the context alone: of 8,192
places the prompt takes 1,024 and its text, some 400, and each crop at most 1,024 and some 40. That
leaves 6,700 without a crop and 2,500 with four of full size; an episode that needs more ends with
`context_full` (end/context_full). `--rollout.capacity 16384` holds five whole turns.

Hardware: the paper had one node of 8 x A100 80 GB and gives 418.5 A100-hours in total, 2.5 of them
selecting: 52 hours of the node. Before you pay, `launch/plan.py` compiles it for your slice.
Expect (paper, 1,024 tokens): 69.9 on HR-Bench 8K, 74.4 on 4K, 78.0 on V*, and a fall of 18.5, 10.5
and 11.0 points when crops become noise.
"""

from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.grpo.updater import UpdateSettings
from lfpc_jax.run.config import DataSettings, ModelSettings, RolloutSettings, Source, TrainConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        steps=80,
        model=ModelSettings(path="Qwen2.5-VL-7B-Instruct"),
        data=DataSettings(train=(Source("data/focus-answer"),), validation=()),
        rollout=RolloutSettings(
            prompts=256, rollouts=16, slots=256, max_turns=5, turn_tokens=2048, capacity=8192
        ),
        update=UpdateSettings(mini_batch=32, rows=2),
        optimizer=OptimizerSettings(learning_rate=1e-6),
    )
