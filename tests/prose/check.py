"""Which files are checked, by which rules, and what offends.

Two rules: a sentence has at most 25 words, and a line of prose at most 100 columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .sentences import sentences, words
from .texts import Block, read

ROOT = Path(__file__).parents[2]
WORDS = 25
COLUMNS = 100

# Results are written by programs; the log's tables are, in part.
GENERATED = tuple(
    f"docs/results/{name}" for name in ("chaos", "cifar10-mini", "demo", "league", "reproduce", "verdicts")
)
MARKDOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "clusters/**/*.md")
PROGRAM = ("orchestrator/**/*.py", "unlearn/**/*.py", "attack/**/*.py", "orchestrator/recipes/**/*.yaml")

# The files that are not yet in plain English. A file may leave the list; none may join it.
NOT_YET = Path(__file__).parent / "not_yet.txt"


@dataclass(frozen=True)
class Offence:
    """One sentence or line that is too long."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"  {self.line}: {self.what}"


def offences(path: Path) -> list[Offence]:
    """Returns what offends in one file, in the order of its lines."""
    text = read(path)
    found = [
        Offence(number, f"{len(line)} columns (at most {COLUMNS})")
        for number, line in text.lines
        if len(line) > COLUMNS and " " in line.strip().lstrip("-*# ")
    ]
    long = [(block, sentence) for block in text.blocks for sentence in _sentences(block) if words(sentence) > WORDS]
    found += [Offence(b.line, f"{words(s)} words (at most {WORDS}): {_short(s)}") for b, s in long]
    return sorted(found, key=lambda offence: offence.line)


def _sentences(block: Block) -> Iterator[str]:
    parts = (
        block.text.replace(";", "\n").replace("\\n", "\n").split("\n") if block.message else block.text.split("\x00")
    )
    for part in parts:
        yield from sentences(part)


def _short(sentence: str) -> str:
    return sentence if len(sentence) <= 90 else sentence[:87].rstrip() + "…"


def files(patterns: tuple[str, ...]) -> list[str]:
    """Returns the names of files that match, relative to the root, sorted, without generated ones."""
    names = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(name for name in names if not name.startswith(GENERATED))


def not_yet() -> list[str]:
    """Returns the files that need not pass yet."""
    return NOT_YET.read_text(encoding="utf-8").split()
