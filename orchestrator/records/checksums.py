"""Checksums of the files that a run derives from its store, so that the same command notices damage
and writes them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..base.files import sha256_file, write_synced

FILE = "checksums.json"


class Checksums:
    """`checksums.json` in an output folder: relative path → SHA-256 of the file as it was written.

    Damaged itself, it knows no file, and all of them are written again.
    """

    def __init__(self, root: Path):
        self.root = root

    def _known(self) -> dict[str, str]:
        try:
            document = json.loads((self.root / FILE).read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def intact(self, paths: Iterable[Path]) -> bool:
        """Whether every file is the one that was recorded."""
        known = self._known()
        return all(self._matches(path, known.get(self._name(path))) for path in paths)

    def damaged(self, path: Path) -> bool:
        """Whether the file was recorded and is another now."""
        recorded = self._known().get(self._name(path))
        return recorded is not None and not self._matches(path, recorded)

    def recorded(self) -> list[Path]:
        """Returns the paths of all files that were recorded."""
        return [self.root / name for name in self._known()]

    def record(self, paths: Iterable[Path]) -> None:
        """Takes the files as they are; forgets those that are gone."""
        known = {name: value for name, value in self._known().items() if (self.root / name).is_file()}
        known |= {self._name(path): sha256_file(path) for path in paths}
        write_synced(self.root / FILE, json.dumps(known, indent=1, sort_keys=True).encode())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @staticmethod
    def _matches(path: Path, recorded: str | None) -> bool:
        try:
            return recorded is not None and sha256_file(path) == recorded
        except OSError:
            return False
