"""Files of a remote store on the local disk, named by their checksum; the longest unused are
cleared above a limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..base.errors import EnvironmentFault
from ..base.files import sha256_file
from ..base.scratch import ScratchFolder

LIMIT_GIB = 20.0  # ORCHESTRATOR_CACHE_GIB changes it
# so long what was just used is safe from being cleared: somebody may be about to open it
YOUNG_SECONDS = 3600.0
LOOK_SECONDS = 600.0  # between two looks at the size
ATTEMPTS = "attempts-"


class FileCache:
    """A folder of this user's alone, shared by all processes of the machine, below
    `ORCHESTRATOR_CACHE` or the temporary folder.

    `files/` holds files by checksum, `objects/` one object's files linked side by side,
    `attempts-*/` what each process is writing. That is cleared once that process is no more.

    **Raises:** `EnvironmentFault` where the folder belongs to somebody else, or the limit is no
    number.
    """

    def __init__(self) -> None:
        named = os.environ.get("ORCHESTRATOR_CACHE")
        # A folder that the user names may hold other things, which are none of ours to clear.
        self.path = (
            Path(named) / "orchestrator-cache"
            if named
            else Path(tempfile.gettempdir()) / f"orchestrator-cache-{os.getuid()}"
        )
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.stat().st_uid != os.getuid():
            raise EnvironmentFault(f"cache {self.path}: belongs to another user; name a folder with ORCHESTRATOR_CACHE")
        text = os.environ.get("ORCHESTRATOR_CACHE_GIB") or str(LIMIT_GIB)
        try:
            self._limit = float(text) * 2**30
        except ValueError:
            raise EnvironmentFault(f"ORCHESTRATOR_CACHE_GIB: {text!r} is not allowed; give GiB, such as 20") from None
        self._looked = -LOOK_SECONDS
        self._attempts: ScratchFolder | None = None

    def attempt(self, key: str) -> Path:
        """Returns a new folder to write an object of the store in."""
        if self._attempts is None:
            self._attempts = ScratchFolder(ATTEMPTS, self.path)
        return Path(tempfile.mkdtemp(prefix=f"{key[:12]}-", dir=self._attempts.path))

    def file(self, digest: str, download: Callable[[Path], object]) -> Path | None:
        """Returns the file with this SHA-256, downloaded where it is not here; None where what
        comes is another."""
        cached = self.path / "files" / digest[:2] / digest
        with contextlib.suppress(FileNotFoundError):  # not here, or cleared while one looks
            if sha256_file(cached) == digest:
                os.utime(cached)
                return cached
        self.trim()
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_name(f"{digest}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            download(temporary)
            if sha256_file(temporary) != digest:
                return None
            os.replace(temporary, cached)
            return cached
        finally:
            temporary.unlink(missing_ok=True)

    def folder(self, name: str) -> Path:
        """Returns a folder in which one object's files are linked side by side."""
        folder = self.path / "objects" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        return folder

    def trim(self) -> None:
        """Clears what was not used for longest until the rest fits the limit; looks at the size
        from time to time only.

        What was used within the hour stays, whatever the limit says.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for used, size, path in entries:
            if total <= self._limit or time.time() - used < YOUNG_SECONDS:
                break
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            total -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yields when each file and folder of links was used, the bytes that only it holds, and its
        path."""
        for path in [*self.path.glob("files/??/*"), *self.path.glob("objects/*")]:
            with contextlib.suppress(OSError):  # cleared meanwhile by another process
                state = path.stat()
                inside = [file.stat() for file in path.iterdir()] if path.is_dir() else []
                # A file with two names is counted by its checksum, until that name is gone.
                yield state.st_mtime, state.st_size + sum(f.st_size for f in inside if f.st_nlink == 1), path
