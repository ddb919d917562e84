"""What a report had to leave out, and why: shown on the page and in the terminal, never fatal."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`where` names the file, and the line or episode in it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
