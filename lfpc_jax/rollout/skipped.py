"""Records that an engine could not show: why, and how that is logged."""

import logging
import re
from collections import Counter
from collections.abc import Iterable

log = logging.getLogger(__name__)

_OF_ONE_RECORD = re.compile(r"'[^']*'|\S*/\S*|\d[\d,.]*")
"""What differs between two reasons of the same cause: quotations, paths and numbers."""


class PromptTooLong(ValueError):
    """A prompt has more text than the largest program for prompts holds."""

    def __init__(self, text: int, buckets: tuple[int, ...]) -> None:
        super().__init__(
            f"{text} text tokens of a prompt are more than the largest bucket of "
            f"rollout.prompt_text {buckets}; a bucket of {text} would hold them"
        )
        self.text = text


class SkippedLog:
    """Logs a line for each cause when it is new, and again when its count has doubled. A record
    counts once, however often it is asked."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def tell(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Logs records that were skipped, given by name and reason."""
        examples: dict[str, tuple[str, str]] = {}
        for name, reason in skipped:
            if name in self._seen:
                continue
            self._seen.add(name)
            cause = _OF_ONE_RECORD.sub("", reason)
            self._counts[cause] += 1
            examples.setdefault(cause, (name, reason))
        for cause, (name, reason) in examples.items():
            count = self._counts[cause]
            if count < 2 * self._told[cause]:
                continue
            self._told[cause] = count
            so_far = f" ({count} such records so far)" if count > 1 else ""
            log.warning("record %r skipped: %s%s", name, reason, so_far)
