"""What a report left out, and why. Problems are listed on the page and in the terminal."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`where` names the file, and the line or episode in it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
