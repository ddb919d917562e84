"""The dialogue that every command holds with a model: its folder's tokenizer and template, with the
zoom tool, or that of a crop network or of its target."""

from pathlib import Path

from lfpc_jax.cropvlm import proposing, showing
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.processing.chat import ChatTemplate
from lfpc_jax.processing.geometry import Convention
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.rollout.asking import Asking, prompt_text, toolbox
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox

_OBSERVATION = 256
"""Tokens of text in which a crop comes back, or a refusal, at most."""


def after_prompt(rules: Rules, crop_tokens: int) -> int:
    """The most tokens that can follow a prompt: all that may be sampled, and all replies of the
    tool."""
    return rules.most_sampled + (rules.max_turns - 1) * (crop_tokens + _OBSERVATION)


def dialogue_as(asking: Asking, assets: Path) -> Dialogue:
    """The dialogue with a model that is to be asked so. `assets` holds the tokenizer, the chat
    template and the processor files."""
    budgets = {"image_tokens": asking.image_tokens, "crop_tokens": asking.crop_tokens}
    if asking.dialogue == "box":
        return proposing.proposing(assets, **budgets)
    if asking.dialogue == "target":
        settings = TargetSettings(image_tokens=asking.image_tokens, crop_tokens=asking.crop_tokens)
        return showing.Showing.from_folder(assets, settings, asking.convention)
    return zooming(assets, **budgets, convention=asking.convention)


def prompt_of(asking: Asking) -> str:
    """All the text that this dialogue puts around questions and pictures, as this code has it."""
    if asking.dialogue == "box":
        return proposing.prompt_text()
    if asking.dialogue == "target":
        return showing.prompt_text()
    return prompt_text(asking.convention)


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
