"""What docs/metrics.md has entries for."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
_ENTRY = r"^\| `([^`]+)` \|"


def of_runs() -> set[str]:
    """The metrics of training and validation, as `group/name`; NAME stands for a user's own."""
    return {name for name in re.findall(_ENTRY, PAGE.read_text(), re.MULTILINE) if "/" in name}


def under(heading: str) -> list[str]:
    """The entries below the heading that begins so, up to the next heading."""
    [section] = re.findall(
        rf"^#+ {re.escape(heading)}.*?$(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return re.findall(_ENTRY, section, re.MULTILINE)
