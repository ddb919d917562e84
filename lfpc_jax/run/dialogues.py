"""The dialogue that every command holds with a model: its folder's tokenizer and template, with the
zoom tool."""

from pathlib import Path

from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.asking import toolbox
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox

_OBSERVATION = 256
"""Tokens of text in which a crop comes back, or a refusal, at most."""


def after_prompt(rules: Rules, crop_tokens: int) -> int:
    """The most tokens that can follow a prompt: all that may be sampled, and all replies of the
    tool."""
    return rules.most_sampled + (rules.max_turns - 1) * (crop_tokens + _OBSERVATION)


def zooming(
    assets: Path, *, image_tokens: int, crop_tokens: int, convention: Convention = "shown"
) -> Dialogue:
    """The dialogue with the zoom tool. `assets` holds the tokenizer, the chat template and the
    processor files; budgets are in tokens."""
    tokenizer = Tokenizer.from_folder(assets)
    processor = ImageProcessor.from_folder(assets)
    return Dialogue(
        tokenizer,
        ChatTemplate.from_folder(assets, tokenizer),
        processor.with_tokens(image_tokens),
        toolbox(processor, crop_tokens, convention),
    )


def toolless(assets: Path, processor: ImageProcessor) -> Dialogue:
    """The dialogue without a tool; `processor` has the image budget."""
    tokenizer = Tokenizer.from_folder(assets)
    chat = ChatTemplate.from_folder(assets, tokenizer)
    return Dialogue(tokenizer, chat, processor, Toolbox(()))
