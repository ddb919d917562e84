"""How likely a target finds the right answer with each box in view.

    likelihoods = Likelihoods(cfg, mesh=mesh)
    for question, values in zip(questions, likelihoods(params, showing, questions)): ...

The right answer is written after each box's conversation, and all of them are scored by packed rows
(`grpo.packing`). What all boxes of a question share, the full image included, lies once in a row.
The image, and every distinct crop, is encoded once on each shard that needs it. Only the answers'
tokens have logits.

A log-likelihood is that of the model alone: at temperature 1, over its whole vocabulary, as
transformers computes it. The sampler bans the placeholders of vision, so its probabilities of the
same tokens are larger by as much as the model would give those.

A question's values depend on nothing but the question, the weights and the mesh: micro-batches hold
boxes of one question, and their shape follows from it. So a run that was interrupted, or shared
between processes, gives the same bytes. Shapes are rounded so that similar questions share
programs. Several processes each score their own questions on their own devices.
"""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32

from lfpc_jax.arrays import Array, Tree
from lfpc_jax.cropvlm.showing import Pixels, Showing, Shown
from lfpc_jax.cropvlm.target import NOT_SHOWN, Likelihood, Question
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo.packing import Item, MiniBatch, SeenPicture, deal, fill, lay_out
from lfpc_jax.grpo.scorer import Scorer
from lfpc_jax.model import attention_check
from lfpc_jax.model.config import ModelConfig, TextConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.dialogue import ToolReply
from lfpc_jax.rollout.engine import LogitsNotFinite
from lfpc_jax.shapes import TrainShapes, scoring_micro_batches, scoring_shapes, windows_for
from lfpc_jax.trajectory import Batch, Trajectory

log = logging.getLogger(__name__)

MICRO_BATCH = 32768
"""The tokens of a micro-batch on each shard, unless said otherwise."""


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A question's items, and for each box the number of its item, or its fault."""

    question: Question
    showing: Showing
    items: tuple[Item, ...]
    boxes: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A prepared question whose micro-batches are being computed: the rows of each, and the
    log-probabilities of the answers' tokens."""

    prepared: _Prepared
    micro_batches: tuple[tuple[Batch, Array], ...]


class Likelihoods:
    """Scores the right answers of questions. It holds no parameters."""

    def __init__(
        self,
        cfg: ModelConfig,
        *,
        mesh: Mesh | None = None,
        micro_batch: int = MICRO_BATCH,
        shared: bool = True,
        workers: int = 2,
    ) -> None:
        """`mesh` is of this process's devices; by default of the first. A micro-batch has at most
        `micro_batch` tokens on each shard, or one row. `shared` is turned off only to measure what
        it is worth."""
        attention_check.check(cfg, "scores", mesh)
        self.cfg, self.workers = cfg, workers
        self.micro_batch, self.shared = micro_batch, shared
        self.scorer = Scorer(
            cfg,
            allowed=np.ones(cfg.text.vocab, bool),
            mesh=mesh or make_mesh(devices=jax.local_devices()[:1]),
            unstacked=tuning().unstacked,
        )
        self._compiled: set[TrainShapes] = set()

    def __call__(
        self, params: Tree, showing: Showing, questions: Iterable[Question]
    ) -> Iterator[tuple[Likelihood, ...]]:
        """For each question, in order, the log-likelihood of its record's answer for each of its
        boxes. `params` lie on the mesh, in the dtype that is computed with; their layers are
        stacked or not.

        A picture that cannot be read, and a text, a box or a shape that cannot be shown, are faults
        of the boxes that they concern."""
        params = self.scorer.laid_out(params)
        asked: _Asked | None = None
        with ThreadPoolExecutor(self.workers, "likelihoods") as pool:
            for question in questions:
                before, asked = asked, self._ask(params, self._prepare(question, showing, pool))
                if before is not None:
                    yield self._read(before)
            if asked is not None:
                yield self._read(asked)

    # ------------------------------------------------------------ what is scored

    def _prepare(self, question: Question, showing: Showing, pool: ThreadPoolExecutor) -> _Prepared:
        """One item for each distinct conversation. What follows an opening is made by `pool`."""
        try:
            shown = showing.show(question)
            answer = showing.answer_ids(question.record)
            follows = [follow for opening in shown.openings for follow in opening.follow]
            replies = [*pool.map(lambda follow: follow(), follows)]
        except Unusable as error:
            return _Prepared(question, showing, (), (str(error),) * len(question.boxes))
        except ValueError as error:
            fault = f"{NOT_SHOWN}: {error}"
            return _Prepared(question, showing, (), (fault,) * len(question.boxes))
        items = _items(shown, replies, answer, question.record.id)
        return _Prepared(question, showing, items, _numbers(shown))

    # ------------------------------------------------------------ how

    def _ask(self, params: Tree, prepared: _Prepared) -> _Asked:
        """Packs a question's items and dispatches their micro-batches."""
        if not prepared.items:
            return _Asked(prepared, ())
        mini_batch = self._packed(prepared.items, prepared.showing.processor)
        placed = self.scorer.place(mini_batch)
        embeddings = self.scorer.embeddings(params, placed)
        logprobs = self.scorer.logprobs(params, placed, embeddings)
        return _Asked(prepared, tuple(zip(mini_batch.rows, logprobs, strict=True)))

    def _packed(self, items: Sequence[Item], processor: ImageProcessor) -> MiniBatch:
        windows = [
            windows_for(*processor.grid_of(picture.pixels), processor.window)
            for picture in {p.key: p for item in items for p in item.pictures}.values()
        ]
        shards = self.scorer.shards
        shapes = scoring_shapes(
            [(item.begins, len(item.trajectory.ids)) for item in items],
            windows,
            keys=keys_of(self.cfg.text),
            shared=self.shared,
            shards=shards,
        )
        rows = fill(items, shapes)
        shapes = scoring_micro_batches(
            shapes,
            windows,
            rows=len(rows),
            counting=max(row.counting for row in rows),
            tokens=self.micro_batch,
            shards=shards,
        )
        self._note(shapes)
        return lay_out(deal(rows, shards), shapes, processor, image_token=self.cfg.image_token)

    def _read(self, asked: _Asked) -> tuple[Likelihood, ...]:
        """Waits for a question's log-probabilities and adds up those of each box."""
        prepared = asked.prepared
        totals = np.zeros(len(prepared.items))
        counts = np.zeros(len(prepared.items), int)
        for rows, logprobs in asked.micro_batches:
            here = rows.weights > 0
            numbers = rows.advantages[here].astype(int)
            np.add.at(totals, numbers, np.asarray(logprobs, np.float64)[here])
            np.add.at(counts, numbers, 1)
        return tuple(
            Likelihood(None, fault=item)
            if isinstance(item, str)
            else Likelihood(_finite(totals[item], prepared.question, number), int(counts[item]))
            for number, item in enumerate(prepared.boxes)
        )

    def _note(self, shapes: TrainShapes) -> None:
        """Logs what is compiled, once for each pair of programs."""
        if shapes not in self._compiled:
            self._compiled.add(shapes)
            log.info(
                "compiling the likelihoods' programs number %d: %d rows of %d tokens, up to %d "
                "tokens of answers in a row; %d windows in spans of %d",
                len(self._compiled),
                shapes.rows,
                shapes.row_tokens,
                shapes.places,
                shapes.windows,
                shapes.span,
            )


def _items(
    shown: Shown, replies: Sequence[ToolReply], answer: Int32[np.ndarray, "T"], record: str
) -> tuple[Item, ...]:
    """One item for each conversation, its number in place of its advantage, to find its tokens."""
    items: list[Item] = []
    coming = iter(replies)
    for number, opening in enumerate(shown.openings):
        full = [] if opening.view is None else [_seen(opening.view.shown)]
        for reply in itertools.islice(coming, len(opening.follow)):
            ids = np.concatenate([opening.ids, reply.ids, answer])
            right = np.arange(len(ids)) >= len(ids) - len(answer)
            nothing = np.zeros(len(ids), np.float32)
            trajectory = Trajectory(
                record=f"{record}, opening {number}",
                rollout=len(items),
                ids=ids,
                sampled=right,
                logprobs=nothing,
                policy_logprobs=nothing,
                original=(0, 0),
                shown=(0, 0),
                turns=(),
                end="answered",
                answer=None,
            )
            crop = [] if reply.picture is None else [_seen(reply.picture)]
            weights, begins = right.astype(np.float32), len(opening.ids)
            items.append(Item(trajectory, (*full, *crop), float(len(items)), weights, begins))
    return tuple(items)


def _seen(pixels: Pixels) -> SeenPicture:
    """Equal pictures have the same key, so that each is encoded once."""
    content = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
    return SeenPicture((pixels.shape, content), pixels)


def _numbers(shown: Shown) -> tuple[int | str, ...]:
    """For each box the number of its item, or the fault for which it has none."""
    first = np.cumsum([0, *(len(opening.follow) for opening in shown.openings)])
    return tuple(
        f"{NOT_SHOWN}: {place}"
        if isinstance(place, str)
        else int(first[place.opening]) + place.follow
        for place in shown.places
    )


def keys_of(text: TextConfig) -> float:
    """The keys at which attention costs a token as much as its products with a layer's weights."""
    attending = text.heads * text.head_dim
    projections = 2 * text.width * (attending + text.kv_heads * text.head_dim)
    return (projections + 3 * text.width * text.mlp) / (2 * attending)


def _finite(total: float, question: Question, number: int) -> float:
    if not np.isfinite(total):
        raise LogitsNotFinite(
            f"record {question.record.id!r}, box {question.boxes[number]}: the target's "
            f"log-likelihood of the right answer is {total}, so its logits are not finite; compute "
            "in float32, or take weights that are sound (they were finite when they were loaded)"
        )
    return float(total)
