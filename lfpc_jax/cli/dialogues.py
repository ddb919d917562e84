"""The dialogue of a model's folder with the zoom tool, as every command holds it."""

from pathlib import Path

from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.rollout.zoom import Zoom


def zooming(
    assets: Path, *, image_tokens: int, crop_tokens: int, convention: Convention = "shown"
) -> Dialogue:
    """`assets` holds tokenizer, chat template and processor files; tokens are budgets."""
    tokenizer = Tokenizer.from_folder(assets)
    processor = ImageProcessor.from_folder(assets)
    return Dialogue(
        tokenizer,
        ChatTemplate.from_folder(assets, tokenizer),
        processor.with_tokens(image_tokens),
        Toolbox((Zoom.within(crop_tokens, processor, convention),)),
    )
