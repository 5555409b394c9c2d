"""Which commit marks of a local store have been checked, so that a hundred thousand of them are not
parsed at every start.

A mark is remembered by the SHA-256 of its bytes, so a flipped bit is noticed though its time stamp
is as before. The file is derived: without it, or where it is damaged, marks are parsed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base.files import write_synced

FILE = "seen.json"
VERSION = 1
WORTH = 1000  # so many new marks or more are worth writing the file again
BYTES = 1 << 16  # of a mark that are read at once


@dataclass(frozen=True)
class Look:
    """What one look at a mark gave: its time stamp (ns), its size and the SHA-256 of its bytes."""

    stamp: tuple[int, int]
    digest: str


def look(path: str) -> Look:
    """Reads a mark; raises `OSError` where there is none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        status, parts = os.fstat(descriptor), []
        while part := os.read(descriptor, BYTES):
            parts.append(part)
    finally:
        os.close(descriptor)
    return Look((status.st_mtime_ns, status.st_size), hashlib.sha256(b"".join(parts)).hexdigest())


class Seen:
    """Marks that were whole: key → the SHA-256 of its bytes, and the sizes of the files that it
    promises."""

    def __init__(self, root: Path):
        self._path = root / FILE
        self._known: dict[str, tuple[str, tuple[tuple[str, int], ...]]] | None = None
        self._new = 0

    def sizes(self, key: str, digest: str) -> tuple[tuple[str, int], ...] | None:
        """Returns the files that a mark with these bytes promises; None where it is not known."""
        known = self._load().get(key)
        return known[1] if known is not None and known[0] == digest else None

    def add(self, key: str, digest: str, sizes: tuple[tuple[str, int], ...]) -> None:
        """Remembers a mark that was parsed, and found whole."""
        self._load()[key] = (digest, sizes)
        self._new += 1

    def save(self, listed: Mapping[str, Collection[str]]) -> None:
        """Writes the file, where enough has come to it. A store that cannot be written to is read
        as before.

        **Arguments:** `listed`: the objects that are there, by the first two digits of their keys;
        others with these digits are gone, and are forgotten.
        """
        if self._new < WORTH:
            return
        known = {key: mark for key, mark in self._load().items() if key in listed.get(key[:2], (key,))}
        self._known = known
        shapes = {sizes: place for place, sizes in enumerate(dict.fromkeys(sizes for _, sizes in known.values()))}
        marks = {key: [digest, shapes[sizes]] for key, (digest, sizes) in known.items()}
        body = json.dumps({"version": VERSION, "shapes": list(shapes), "marks": marks}).encode()
        with contextlib.suppress(OSError):
            write_synced(self._path, body + hashlib.sha256(body).hexdigest().encode())
            self._new = 0

    def _load(self) -> dict[str, tuple[str, tuple[tuple[str, int], ...]]]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
                self._known = _parsed(self._path.read_bytes())
        return self._known


def _parsed(content: bytes) -> dict[str, tuple[str, tuple[tuple[str, int], ...]]]:
    body, check = content[:-64], content[-64:]
    if hashlib.sha256(body).hexdigest().encode() != check:
        raise ValueError("it does not match its checksum")
    document = json.loads(body)
    if document["version"] != VERSION:
        raise ValueError("it is of another version")
    shapes = [tuple((str(name), int(size)) for name, size in shape) for shape in document["shapes"]]
    return {key: (digest, shapes[place]) for key, (digest, place) in document["marks"].items()}
