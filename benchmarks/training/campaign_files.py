"""What a campaign writes, so that a file that exists is whole, and what it says about how far it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Writes a file under a temporary name, syncs and renames it: a file that exists is whole, after a crash too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    save(temporary)
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_json(content: Any, path: Path) -> None:
    """For `write`."""
    path.write_text(json.dumps(content, indent=1))


class Progress:
    """What is done, and how long the rest will take by the times of what was done in this run."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}  # name -> kind; works of one kind take about as long as each other
        self.total = 0
        self.seconds: dict[str, list[float]] = {}

    def expect(self, name: str, kind: str, done: bool) -> None:
        """Counts one work in."""
        self.total += 1
        if not done:
            self.waiting[name] = kind

    def done(self, name: str, seconds: float, text: str) -> None:
        """Prints a line about a work that is finished."""
        self.seconds.setdefault(self.waiting.pop(name, ""), []).append(seconds)
        print(f"[{self.total - len(self.waiting)}/{self.total}] {name}: {text}; {self.left()}", flush=True)

    def left(self) -> str:
        """The time that remains; of a kind that has not been seen yet the mean of all others is taken."""
        every = [second for seconds in self.seconds.values() for second in seconds]
        if not every:
            return f"{len(self.waiting)} left"
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in self.seconds.items()}
        rest = sum(means.get(kind, sum(every) / len(every)) for kind in self.waiting.values())
        return f"about {rest / 3600:.1f} h left" if rest > 5400 else f"about {rest / 60:.1f} min left"
