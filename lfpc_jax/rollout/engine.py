"""The rollout engine: many crop-tool conversations at once over a fixed number of slots.

    engine = Engine(cfg, dialogue, shapes, rules)
    engine.load(params)
    for group in engine.run(records, rollouts=8, seed=0): ...

Prompts are prepared and crops are cut in worker threads; the device waits for them only when no row
can decode. A slot that falls free is refilled at once. What an episode samples depends on the
parameters, the seed, its record and its number alone, and never on slots, chunks or neighbours.
Records that cannot be shown are listed in `stats.skipped`, logged by cause, and left out. Logits
that are not finite raise `LogitsNotFinite`.

Groups come out as they end, so their order depends on lengths; the episodes in each are in order.
Several processes each run an engine of their own over `own_share` of the records.
"""

import itertools
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import jax
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.model import attention_check
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.asked import Alters, Asked, OnEpisode, OnSkipped, Scheduling
from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.episode import STOP_STRING, Rules
from lfpc_jax.rollout.finite import LogitsNotFinite
from lfpc_jax.rollout.preparing import Rest, largest_first
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.rollout.scheduler import Scheduler
from lfpc_jax.rollout.skipped import SkippedLog
from lfpc_jax.rollout.slots import Slots
from lfpc_jax.rollout.stats import Stats
from lfpc_jax.rollout.stops import stop_table
from lfpc_jax.rollout.vocabulary import allowed_ids, token_bytes
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Group, Record

__all__ = ["Engine", "LogitsNotFinite", "OnEpisode", "OnSkipped", "Stats", "own_share"]

T = TypeVar("T")
S = TypeVar("S", bound=Scheduler)


def own_share(records: Iterable[T]) -> Iterator[T]:
    """The records, or groups of them, of this process, out of a list that all processes have in the
    same order."""
    return itertools.islice(records, jax.process_index(), None, jax.process_count())


class Engine:
    """Rolls out records on a fixed number of slots. `refill`, `share_prefix` and `copies` (of its
    prompt in every row) are only set to measure what the other choice is worth."""

    def __init__(
        self,
        cfg: ModelConfig,
        dialogue: Dialogue,
        shapes: RolloutShapes,
        rules: Rules,
        *,
        mesh: Mesh | None = None,
        unstacked: bool | None = None,
        workers: int = 2,
        refill: bool = True,
        share_prefix: bool = True,
        copies: bool = False,
    ) -> None:
        attention_check.check(cfg, "rollouts", mesh)
        tokenizer, vocabulary = dialogue.tokenizer, cfg.text.vocab
        if tokenizer.image_pad != cfg.image_token:
            raise ValueError(
                f"the tokenizer's <|image_pad|> is {tokenizer.image_pad}, the model's image token "
                f"{cfg.image_token}; take both from one folder"
            )
        self.dialogue, self.rules = dialogue, rules
        self.workers = workers
        self.scheduling = Scheduling(workers, refill, share_prefix)
        self.slots = Slots(
            cfg,
            shapes,
            rules.sampling,
            stops=stop_table(
                token_bytes(tokenizer, vocabulary),
                (STOP_STRING, *rules.stops),
                (tokenizer.im_end, tokenizer.endoftext),
            ),
            allowed=allowed_ids(tokenizer, vocabulary, banned=rules.banned),
            processor=dialogue.processor,
            unstacked=tuning().unstacked if unstacked is None else unstacked,
            mesh=mesh,
            copies=copies,
        )
        self.shapes = self.slots.shapes
        self.stats = Stats(self.shapes.slots, parts=self.slots.seconds)
        self.skipped_log = SkippedLog()

    def scheduler(self, pool: ThreadPoolExecutor, asked: Asked, kind: type[S]) -> S:
        """A run of this engine. Its slots must be allocated while it lasts."""
        how = self.rules, self.scheduling, self.stats
        return kind(self.slots, self.dialogue, *how, pool, asked)

    def load(self, params: Tree, version: int | None = None) -> None:
        """Sets the parameters to sample from, with layers stacked. Tokens that they draw carry
        their `version`, if it is given."""
        self.slots.load(params, version)

    @property
    def loaded(self) -> bool:
        """Whether it has parameters to sample from."""
        return self.slots.loaded

    def unload(self) -> None:
        """Lets go of the parameters, so that their memory is free."""
        self.slots.unload()

    def warm_up(
        self,
        prompts: Collection[tuple[int, int]] | None = None,
        *,
        also: Collection[Sampling] = (),
        follows: bool = False,
        requests: bool = False,
    ) -> int:
        """Compiles every program, so that none compiles during a run, and returns how many there
        are. `prompts`, pairs of windows and text tokens (`Dialogue.size`, in their buckets), limits
        the programs for prompts to these; if beginnings are kept, these are theirs. Runs that
        sample as `also` says are prepared too, and with `follows` those of openings that go on in
        several ways. With `requests`, that of `RequestRun` is prepared, and no other."""
        replies = follows or requests or self.rules.max_turns > 1
        return self.slots.warm_up(prompts, replies=replies, also=also, each=requests)

    def start(self) -> Rest:
        """Compiles for `RequestRun` what answers any request with one bucket of everything, the
        largest. The rest is compiled beside its work, and until then everything is padded more."""
        return largest_first(self.slots)

    def run(
        self,
        records: Iterable[Record | Opening],
        *,
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None = None,
        on_skipped: OnSkipped | None = None,
        sampling: Sampling | None = None,
    ) -> Iterator[Group]:
        """Rolls out every record `rollouts` times (an opening with `follow`, as many times for each
        of these), and yields groups as they end. `on_episode` is called with every episode that has
        sampled, has been replied to, or has ended, and `on_skipped` with what cannot be shown and
        the reason. `sampling` replaces that of the rules."""
        groups = self.run_altered(
            records,
            lambda _: {},
            rollouts=rollouts,
            seed=seed,
            on_episode=on_episode,
            on_skipped=on_skipped,
            sampling=sampling,
        )
        with closing(groups):
            for _, group in groups:
                yield group

    def run_altered(
        self,
        records: Iterable[Record | Opening],
        alters: Alters,
        *,
        rollouts: int,
        seed: int,
        on_episode: OnEpisode | None = None,
        on_skipped: OnSkipped | None = None,
        sampling: Sampling | None = None,
    ) -> Generator[tuple[str, Group], None, None]:
        """Like `run`, and rolls out every record also with altered crops, once for each alteration
        that `alters` has for it by name. Groups come with that name, which is empty for those with
        crops as they are. The altered groups are those that `run` gives in a dialogue with that
        `alter`, but nothing up to an episode's first call is computed again."""
        start = time.perf_counter()
        told = on_episode or (lambda _: None), on_skipped or (lambda *_: None)
        with_seeds = ((record, seed) for record in records)
        asked = Asked(with_seeds, rollouts, sampling, *told, alters=alters)
        with ThreadPoolExecutor(self.workers, "rollout") as pool, self.slots.allocated():
            scheduler = self.scheduler(pool, asked, Scheduler)
            try:
                for ended in scheduler.groups():
                    yield ended.altered, ended.group
            finally:
                self.skipped_log.tell(scheduler.skipped)
        self.stats.seconds += time.perf_counter() - start
