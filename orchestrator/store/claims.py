"""Claims: of several workers that want the same object, one makes it and the others wait or do
something else.

A claim is advisory. It saves work; correctness rests on the commit, where the first wins. So every
doubt (a holder that seems dead, a claim that cannot be read) is decided for working twice rather
than waiting for ever.

No clock of another machine is trusted. A claim carries a beat that its holder raises. It counts
as abandoned when an observer has seen the same beat for `ABANDONED_SECONDS` of its own monotonic
clock. A holder on the same machine is looked up among the processes, so that what a killed worker
held is free at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from abc import ABC, abstractmethod
from types import TracebackType

from ..base.processes import is_running, process_start, process_table

BEAT_SECONDS = 10.0
ABANDONED_SECONDS = 60.0


class ClaimBoard(ABC):
    """Where claims are written: four operations on small texts, by key."""

    @abstractmethod
    def create(self, key: str, text: str) -> bool:
        """Writes a claim where there is none; returns whether it did. Of several at once exactly
        one does."""

    @abstractmethod
    def claimed(self) -> list[str]:
        """Returns the keys that are claimed, abandoned ones included."""

    @abstractmethod
    def read(self, key: str) -> str | None:
        """Returns the claim's text, None where there is none. Raises where that cannot be told:
        that is not the same."""

    @abstractmethod
    def replace(self, key: str, text: str) -> None:
        """Overwrites a claim."""

    @abstractmethod
    def delete(self, key: str, text: str) -> None:
        """Removes the claim if it still says `text`."""


class Claims:
    """Takes and gives back claims on a board; one for each process, since it remembers what it saw
    others hold."""

    def __init__(self, board: ClaimBoard):
        self.board = board
        self._seen: dict[str, tuple[str, float]] = {}

    def take(self, key: str) -> Claim | None:
        """Returns a claim on `key`, or None while another worker that seems alive holds it."""
        claim = Claim(self.board, key)
        if self.board.create(key, claim.text):
            return self._taken(claim)
        try:
            text = self.board.read(key)
            # written after all: its answer was lost and the request repeated
            if text == claim.text:
                return self._taken(claim)
            if text is not None:
                if not self._abandoned(key, text):
                    return None
                self.board.delete(key, text)
        except OSError:  # a moment's hiccup of the storage: whoever waits looks again
            return None
        return self._taken(claim) if self.board.create(key, claim.text) else None

    def held(self) -> list[str]:
        """Returns the keys that a living worker holds. It watches claims for one beat where their
        holders are on other machines.
        """
        before = {key: self.board.read(key) for key in self.board.claimed()}
        lookup = {key: _holder_lives(text) for key, text in before.items() if text is not None}
        if None in lookup.values():
            time.sleep(1.5 * BEAT_SECONDS)
        return [
            key
            for key, lives in lookup.items()
            if lives or (lives is None and self.board.read(key) not in (before[key], None))
        ]

    def _taken(self, claim: Claim) -> Claim:
        self._seen.pop(claim.key, None)
        claim.start()
        return claim

    def _abandoned(self, key: str, text: str) -> bool:
        if _holder_lives(text) is False:
            return True
        before, since = self._seen.get(key, ("", 0.0))
        now = time.monotonic()
        if before != text:
            self._seen[key] = (text, now)
            return False
        return now - since > ABANDONED_SECONDS


def _holder_lives(text: str) -> bool | None:
    """Whether the holder of a claim lives; None for one on another machine. What cannot be read has
    none.
    """
    try:
        holder = json.loads(text)["holder"]
        return is_running(holder["pid"], holder["started"]) if holder["machine"] == process_table() else None
    except (ValueError, KeyError, TypeError):
        return False


class Claim:
    """A claim that this process holds, as a context manager; its beat is raised by a thread until
    it is given back."""

    def __init__(self, board: ClaimBoard, key: str):
        self.board = board
        self.key = key
        self._identity = uuid.uuid4().hex
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="claim")

    @property
    def text(self) -> str:
        """What the claim says now."""
        return self._says(self._beat)

    def _says(self, beat: int) -> str:
        holder = {"machine": process_table(), "pid": os.getpid(), "started": process_start(os.getpid())}
        return json.dumps({"claim": self._identity, "beat": beat, "holder": holder})

    def start(self) -> None:
        """Begins to raise the beat."""
        self._thread.start()

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            # A storage that fails for a while is no reason to stop working: at worst another worker
            # does the same.
            with contextlib.suppress(Exception):
                if self._identity not in (self.board.read(self.key) or ""):
                    return  # taken over by somebody who thought us dead
                self.board.replace(self.key, self._says(self._beat + 1))
                self._beat += 1

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            text = self.board.read(self.key)
            if text is not None and self._identity in text:
                self.board.delete(self.key, text)
