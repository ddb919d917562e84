"""The programs of rollouts and updates, for `device.py`."""

import statistics
import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from device_measure import (
    Record,
    Size,
    asked_bytes,
    held_bytes,
    least,
    peaks,
    record_memory,
    share,
    sides,
    weights,
)

from lfpc_jax.model import spec
from lfpc_jax.model.tuning import tuning

# ---------------------------------------------------------------- rollouts


def rollouts(size: Size, slots: int, record: Record) -> None:
    """Encode and prefill prompts with pictures, then decode from the middle of a row on."""
    from lfpc_jax.distributed.mesh import make_mesh
    from lfpc_jax.plan import counts
    from lfpc_jax.plan.rollout import rollout_programs
    from lfpc_jax.processing.positions import mrope_positions
    from lfpc_jax.rollout.items import Beginning, LiveRow, Prompt
    from lfpc_jax.rollout.sampling import Sampling
    from lfpc_jax.rollout.slots import Slots

    cfg, chip, shapes = size.cfg, peaks(), size.rollouts(slots)
    params = weights(cfg)
    engine = Slots(
        cfg, shapes, Sampling(), stops=np.ones((2, cfg.text.vocab), np.uint8),
        allowed=np.ones(cfg.text.vocab, bool), processor=cfg.vision.processor,
        unstacked=tuning().unstacked,
    )  # fmt: skip
    engine.load(params)
    rng = np.random.default_rng(0)
    rows, columns = sides(size.image_tokens)
    seen = rows * columns
    factor = cfg.vision.patch * cfg.vision.merge
    ids = np.full(seen + size.text, cfg.image_token, np.int32)
    ids[seen:] = rng.integers(0, min(cfg.image_token, cfg.text.vocab), size.text)
    positions, _ = mrope_positions(ids, [(rows, columns)], image_token_id=cfg.image_token)

    def prompt(row: int) -> Prompt:
        pixels = rng.integers(0, 256, (rows * factor, columns * factor, 3), dtype=np.uint8)
        return Prompt(row, ids, positions, engine.visual(pixels, shapes.image_windows))

    with engine.allocated():
        together = min(shapes.prefill_rows, shapes.prefix_count)
        prompts = [prompt(row) for row in range(together)]
        held = held_bytes(params, engine._state)
        taken = []
        for _ in range(4):
            before = dict(engine.seconds)
            engine.prefill(prompts)
            taken.append({k: v - before.get(k, 0.0) for k, v in engine.seconds.items()})
        windows = len(prompts[0].visual.patches)
        for name, flops, moved in (
            ("encode", counts.vision_forward(cfg, together * windows, windows),
             counts.vision_bytes(cfg)),
            ("prefill", counts.text_forward(cfg, together * len(ids), len(ids) / 2, logits=0),
             counts.text_bytes(cfg)),
        ):  # fmt: skip
            seconds = statistics.median(each[name] for each in taken[1:])
            record(f"{name} of {together} prompts", value=seconds * 1e3, unit="ms",
                   share=share(flops, seconds, chip.flops),
                   beside=least(flops, moved, chip))  # fmt: skip
        for first in range(0, shapes.prefix_count, together):
            left = range(first, min(first + together, shapes.prefix_count))
            engine.prefill([replace(p, row=row) for p, row in zip(prompts, left)])
        engine.begin([
            Beginning(row, row // size.members, 5, len(ids), 10**6, np.array([0, row], np.uint32))
            for row in range(slots)
        ])  # fmt: skip
        speeds = []
        for call in range(size.own // size.chunk - 1):
            written = call * size.chunk
            live = [LiveRow(row, row // size.members, written) for row in range(slots)]
            before = engine.seconds["decode"]
            _, drawn = engine.decode(live)
            if (drawn.numbers != size.chunk).any():
                raise RuntimeError(f"rows stopped early: {drawn.numbers}")
            speeds.append((engine.seconds["decode"] - before, written + size.chunk / 2))
    # The first call of each span compiles; of the others the middle one counts.
    seconds, own = sorted(speeds)[len(speeds) // 2]
    step = seconds / size.chunk
    context = shapes.prefix_count * len(ids) + slots * own
    moved = counts.text_bytes(cfg) + context * counts.token_bytes(cfg)
    flops = counts.text_forward(cfg, slots, len(ids) + own)
    record(f"decode, {slots} slots, {own:.0f} own tokens a row", value=slots / step,
           unit="tokens/s", share=share(moved, step, chip.hbm),
           beside=f"{step * 1e3:.2f} ms a step; {least(flops, moved, chip)}")  # fmt: skip
    mesh = make_mesh(1, 1, 1, devices=jax.local_devices()[:1])
    plans = rollout_programs(cfg, mesh, shapes, Sampling())
    asked = {program.name: asked_bytes(program) for program in plans
             if program.name in ("encode", "prefill", "decode")}  # fmt: skip
    record_memory(record, held + max(asked.values()))


# ---------------------------------------------------------------- an update


def mini_batch_of(size: Size, shards: int = 1, most: int | None = None) -> Any:
    """Episodes that look once, packed: a prompt that its group shares, half of what is sampled, a
    crop, and the rest."""
    from lfpc_jax.grpo.packing import Item, SeenPicture, pack
    from lfpc_jax.trajectory import Trajectory

    cfg, rng = size.cfg, np.random.default_rng(0)
    factor = cfg.vision.patch * cfg.vision.merge
    words = min(cfg.image_token, cfg.text.vocab)

    def picture(key: Any, tokens: int) -> SeenPicture:
        rows, columns = sides(tokens)
        pixels = rng.integers(0, 256, (rows * factor, columns * factor, 3), dtype=np.uint8)
        return SeenPicture(key, pixels)

    def placeholders(tokens: int) -> np.ndarray:
        rows, columns = sides(tokens)
        return np.full(rows * columns, cfg.image_token)

    items = []
    for group in range(most or size.groups * shards):
        shown = picture(group, size.image_tokens)
        prompt = [placeholders(size.image_tokens), rng.integers(0, words, size.text)]
        for number in range(size.members):
            half = size.sampled // 2
            said = [rng.integers(0, words, half) for _ in range(2)]
            parts = [*prompt, said[0], placeholders(size.crop_tokens), said[1]]
            ids = np.concatenate(parts).astype(np.int32)
            sampled = np.repeat([False, False, True, False, True], [len(part) for part in parts])
            logprobs = np.where(sampled, -np.log(words), 0).astype(np.float32)
            trajectory = Trajectory(
                str(group), number, ids, sampled, logprobs, logprobs, (0, 0), (0, 0), (),
                "answered", None,
            )  # fmt: skip
            crop = picture((group, number), size.crop_tokens)
            weights = sampled.astype(np.float32) / (sampled.sum() * size.groups * size.members)
            begins = len(prompt[0]) + len(prompt[1])
            items.append(Item(trajectory, (shown, crop), 1.0 - 2 * (number % 2), weights, begins))
    return pack(
        items, size.updates(), cfg.vision.processor, shards=shards, image_token=cfg.image_token
    )


def update(size: Size, record: Record) -> None:
    """Whole updates on all chips of the host. What is trained follows from their memory."""
    from lfpc_jax.distributed.mesh import make_mesh
    from lfpc_jax.grpo.learner import Learner
    from lfpc_jax.grpo.objective import Objective
    from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer
    from lfpc_jax.model.attention_splash import LANES, needed_blocks
    from lfpc_jax.model.parameters import LoRA, Trainable
    from lfpc_jax.plan import counts
    from lfpc_jax.plan.update import PlannedUpdate

    devices, chip, shapes = jax.local_devices(), peaks(), size.updates()
    cfg = replace(size.cfg, remat="full")
    mesh = make_mesh(1, -1, 1, devices=devices)
    count = sum(x.size for x in jax.tree.leaves(spec.abstract(cfg, cfg.dtype)))
    limit = (devices[0].memory_stats() or {}).get("bytes_limit", 2**40)
    # Masters, moments, sums of gradients and a copy to compute with; the rest for activations.
    whole = 18 * count / len(devices) < 0.75 * limit
    trainable = Trainable() if whole else Trainable(lora=LoRA())
    record("trained", value="everything" if whole else "LoRA of rank 16")
    learner = Learner(
        cfg, make_optimizer(OptimizerSettings(), updates=1), objective=Objective(),
        trainable=trainable, allowed=np.ones(cfg.text.vocab, bool), mesh=mesh,
        unstacked=tuning().unstacked,
    )  # fmt: skip
    mini_batch = mini_batch_of(size, learner.shards)
    segments = np.concatenate([rows.tokens.segments for rows in mini_batch.rows])
    prefix = np.concatenate([rows.tokens.prefix for rows in mini_batch.rows])
    needed = needed_blocks(segments, prefix, LANES, LANES, causal=True, xp=np)
    keys = float(needed.sum()) * LANES**2 / segments.size
    micro, bins = len(mini_batch.rows), len(mini_batch.bins)
    work = counts.TextWork.of(cfg, shapes, shapes.places, keys)
    flops = micro * work.learn
    flops += bins * counts.vision_forward(cfg, shapes.windows, shapes.span)
    if learner.trains_tower:
        flops += bins * counts.vision_backward(cfg, shapes.windows, shapes.span)
    trained = sum(counts.trained_bytes(cfg, trainable, name) for name in ("text", "vision"))
    moved = counts.passes("full") * micro * counts.text_bytes(cfg) + 10 * trained / len(devices)

    state = learner.start(weights(cfg, mesh=mesh), jax.random.key(0))
    placed = learner.place(mini_batch)
    tokens, taken = mini_batch.filling.tokens, []
    for _ in range(4):
        start = time.perf_counter()
        state, metrics, _ = learner.update(state, placed)
        norm = float(metrics["gradient_norm"])
        taken.append(time.perf_counter() - start)
    if not np.isfinite(norm):
        raise RuntimeError(f"the gradient's norm is {norm}")
    seconds = statistics.median(taken[1:])
    record("compilation and first update", value=taken[0], unit="s")
    record(
        f"update, {micro} micro-batches of rows, {bins} of pictures",
        value=tokens / seconds,
        unit="tokens/s",
        share=share(flops, seconds, chip.flops),
        beside=f"{seconds:.2f} s; {least(flops, moved, chip)}",
    )
    planned = PlannedUpdate.of(
        cfg, mesh, shapes, pictures=bins, objective=Objective(), trainable=trainable
    )
    usual = {"update pictures", "update", "update pictures back", "optimizer"}
    most = max(
        sum(program.held.values()) + program.beside + asked_bytes(program)
        for program in planned.updating()
        if program.name in usual
    )
    record_memory(record, most + micro * planned.rows_bytes)
