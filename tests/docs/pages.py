"""The pages that users read, and the code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in DOCS.glob("*.md"))]
"""What is in docs/reference is written from the code, with nothing to run in it."""

SHELL = ("", "sh", "bash", "console")
FENCE = re.compile(r"^```(.*)$")


class Block(NamedTuple):
    """A block of code: its page, the number of its first line, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a block for a shell, each in one line and without its prompt."""
        found: list[str] = []
        joined = self.text.replace("\\\n", " ")
        for line in joined.splitlines():
            if self.language == "console" and not line.startswith("$ "):
                continue  # what a command prints
            if command := line.removeprefix("$ ").strip():
                found.append(" ".join(command.split()))
        return found


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, top to bottom."""
    found: list[Block] = []
    language, first, lines = "", 0, None
    for number, line in enumerate(read(page).splitlines(), 1):
        fence = FENCE.match(line)
        if fence is None:
            if lines is not None:
                lines.append(line)
        elif lines is None:
            language, first, lines = fence[1].strip(), number + 1, []
        else:
            found.append(Block(page, first, language, "\n".join(lines) + "\n"))
            lines = None
    assert lines is None, f"{page}: a block is not closed"
    return found


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
