"""The model card of a run's export: what the model is, how to ask it, how good it is, and how it
was trained.

The run's assets hold the card of the model that the run began with. Only what that card says about
the licence is copied. What the Hub reads of a card (the base model, if that is on the Hub, the
library and the task) stands at its beginning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfpc_jax.cropvlm.proposing import OUTLINE
from lfpc_jax.jsonfile import expecting, read_object
from lfpc_jax.remote.hub import HubName
from lfpc_jax.report import metrics
from lfpc_jax.rollout.asking import FILE, Asking
from lfpc_jax.run.dialogues import prompt_of
from lfpc_jax.run.folder import RunFolder, run_of

NAME = "README.md"
_PRIVATE = ("judge", "wandb_project")
"""Settings that name servers or accounts; a card leaves them out, and of a target what is about its
server."""
_OF_SERVERS = ("url", "cache", "key_variable", "patience")

_ABOUT = {
    "zoom": "A Qwen2.5-VL that lfpc_jax has trained to look closer before it answers",
    "box": "A crop network: a Qwen2.5-VL that lfpc_jax has trained to propose the part of an image "
    "in which another model, the target, finds the answer to a question. It answers no question",
}

_IN_PYTHON = """From Python:

```python
import lfpc_jax

session = lfpc_jax.Session.load("FOLDER")
group = session.ask("FILE", "TEXT")
print(group.trajectories[0].answer)
```

The folder is a Qwen2.5-VL like any other, for `transformers` (`Qwen2_5_VLForConditionalGeneration`)
and for servers. These write the calls of the tool as text; whoever asks them cuts the crops."""

_IN_TRANSFORMERS = """In plain transformers:

```python
import PIL.Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

folder, file, question = "FOLDER", "FILE", "TEXT"
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder, max_pixels={image_tokens} * 28 * 28)
image = PIL.Image.open(file).convert("RGB")
text = question[:1].upper() + question[1:] + "\\n{outline}"
messages = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": text}}]}}]
prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(text=[prompt], images=[image], return_tensors="pt")
ids = model.generate(**inputs, do_sample=False, max_new_tokens={turn_tokens})
written = processor.batch_decode(
    ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
)[0]
x1, y1, x2, y2 = (float(number) for number in written.strip(" \\n[].").split(","))
width, height = image.size
crop = image.crop((x1 * width / 100, y1 * height / 100, x2 * width / 100, y2 * height / 100))
```

The text is `[x1, y1, x2, y2].`: the left, upper, right and lower edge of the box, in hundredths of
the image's width and height. It may be no box; then the code above fails, and lfpc_jax shows the
target the image alone. lfpc_jax also grows a box to 28 pixels a side, and cuts the whole pixels
that it touches."""


def card(run: RunFolder, step: int, asking: Asking) -> str:
    """The card of the model after `step`, as Markdown."""
    with expecting("settings of a run", run.settings):
        return _card(run, step, asking)


def _card(run: RunFolder, step: int, asking: Asking) -> str:
    settings = read_object(run.settings)
    parts = [
        "\n".join(("---", *_licence(run.assets / NAME), *_for_the_hub(run, asking), "---")),
        f"# {run.path.resolve().name}, step {step}",
        f"{_ABOUT[asking.dialogue]}: the weights after step {step} of {settings['steps']}.",
        _table(("what", "value"), [("began with", _began_with(run)), *_training(settings)]),
        "## How to ask it",
        f"It was trained with these settings. lfpc_jax's commands read them from `{FILE}`:",
        _table(("what", "value"), _asked(asking)),
        *_ways(asking),
        _prompt(asking),
        "## Validation",
        _validation(run, step, settings),
        "## Settings",
        "All settings, except those that name servers or accounts.",
        _json(_public(settings)),
    ]
    return "\n\n".join(parts) + "\n"


def _ways(asking: Asking) -> Iterator[str]:
    """Commands and code that ask the model."""
    target = " --target ANSWERING_MODEL" if asking.dialogue == "box" else ""
    command = f"lfpc ask --model FOLDER{target} --image FILE --question TEXT"
    yield f"```\n{command}\n```"
    if asking.dialogue == "zoom":
        yield _IN_PYTHON
    if asking.dialogue == "box":
        yield _IN_TRANSFORMERS.format(
            image_tokens=asking.image_tokens, turn_tokens=asking.turn_tokens, outline=OUTLINE
        )


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in settings.items() if name not in _PRIVATE}
    if target := shown.get("target"):
        shown["target"] = {n: value for n, value in target.items() if n not in _OF_SERVERS}
    return shown


def _licence(base: Path) -> Iterator[str]:
    """The lines on the licence from the base model's card."""
    lines = base.read_text(errors="replace").splitlines() if base.is_file() else []
    inside = False
    head = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    for line in head:
        inside = line.startswith("license") or (inside and line[:1] in (" ", "-"))
        if inside:
            yield line


def _for_the_hub(run: RunFolder, asking: Asking) -> Iterator[str]:
    """The other lines that stand before a card."""
    if name := HubName.parse(Path(_chain(run)[-1].named_model)):
        yield f"base_model: {name.repo}"
    yield "library_name: transformers"
    yield "pipeline_tag: image-text-to-text"
    yield f"tags: [lfpc, {'crop-network' if asking.dialogue == 'box' else 'tool-use'}]"


def _began_with(run: RunFolder) -> str:
    """The model that the run began with, the one that that began with, and so on, as far as their
    folders still exist."""
    models = []
    for current in _chain(run):
        step, commit = current.began_at, current.began_commit
        models.append(
            f"`{current.named_model}`"
            + ("" if step is None else f", step {step}")
            + (f", commit `{commit}`" if commit else "")
        )
    return ", which began with ".join(models)


def _chain(run: RunFolder) -> list[RunFolder]:
    """The run, the run that it began with, and so on."""
    runs, visited = [], set()
    current: RunFolder | None = run
    while current is not None and current.path.resolve() not in visited:
        visited.add(current.path.resolve())
        runs.append(current)
        current = run_of(Path(current.named_model))
    return runs


def _training(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, rollout, rewards = (settings[name] for name in ("model", "rollout", "rewards"))
    yield "stage", settings["stage"]
    yield "trained on", _sets(settings["data"]["train"])
    if settings["stage"] == "grpo":
        shares = ("accuracy", "format", "tool", "grounding")
        if rollout.get("dialogue") == "box":
            shares = ("accuracy", "likelihood", "valid", "grounding")
        yield "reward", ", ".join(f"{name} {rewards[name]:g}" for name in shares)
        yield "prompts and rollouts a step", f"{rollout['prompts']} x {rollout['rollouts']}"
    yield "learning rate", f"{settings['optimizer']['learning_rate']:g}"
    if target := settings.get("target"):
        yield "target", f"`{target['model'] or target['path']}`, shown `{target['presentation']}`"
    lora = model["lora"]
    what = "all weights" if model["train_vision"] else "all but the vision tower"
    if lora is not None:
        what = f"LoRA factors of rank {lora['rank']}, merged in"
    if lora is not None and lora.get("base", "same") == "int8":
        what += "; they were trained on its weights rounded to int8, and added to its own"
    yield "trained", what
    yield "seed", str(settings["seed"])


def _sets(sources: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"`{source['path']}` (weight {source['weight']:g})" for source in sources)


def _asked(asking: Asking) -> Iterator[tuple[str, str]]:
    if asking.dialogue == "box":
        yield "it writes", "`[x1, y1, x2, y2].`, in hundredths of the image's sides"
        yield "tokens of the image, at most", f"{asking.image_tokens:,}"
        yield "tokens of the target's crop, at most", f"{asking.crop_tokens:,}"
        yield "tokens of its turn, at most", f"{asking.turn_tokens:,}"
        return
    yield "boxes are written", asking.convention
    yield "tokens of the shown image, at most", f"{asking.image_tokens:,}"
    yield "tokens of a crop, at most", f"{asking.crop_tokens:,}"
    yield "turns, at most", str(asking.max_turns)
    yield "tokens sampled in a turn, at most", f"{asking.turn_tokens:,}"
    limit = f"{asking.episode_tokens:,}" if asking.episode_tokens else "what the context holds"
    yield "over all turns, at most", limit


def _prompt(asking: Asking) -> str:
    known = "The prompt around its questions and pictures:"
    unknown = "Its run did not record the prompt. This version of lfpc_jax uses:"
    text = asking.prompt or prompt_of(asking)
    return f"{known if asking.prompt else unknown}\n\n```\n{text}```"


def _validation(run: RunFolder, step: int, settings: Mapping[str, Any]) -> str:
    """The figures of the last validation that is not newer than the weights."""
    curves, _ = metrics.read(run.path / "metrics.jsonl")
    known = {
        curve.name: {at: value for at, value in zip(curve.steps, curve.values) if at <= step}
        for curve in curves
        if curve.kind == "validation"
    }
    last = max((at for values in known.values() for at in values), default=None)
    if last is None:
        return "None: the run has no validation up to this step."
    rows = [(name, f"{values[last]:.4g}") for name, values in known.items() if last in values]
    data = settings["data"]
    return (
        f"After step {last}, on up to {data['validation_records']} records of "
        f"{_sets(data['validation'])}:\n\n{_table(('measure', 'value'), rows)}"
    )


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> str:
    every = [head, ("---", "---"), *rows]
    return "\n".join(f"| {name} | {value} |" for name, value in every)


def _json(value: Any) -> str:
    return f"```json\n{json.dumps(value, indent=2)}\n```"
