"""Files written whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

TEMPORARY = ".orchestrator.tmp"


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Returns the name under which `path` is written first; nobody else's files end like it."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")


def sweep(folder: Path, parts: Iterable[str]) -> None:
    """Removes the temporary files that processes killed while writing left in `folder` and its
    `parts`.

    The caller holds the folder's lock: whoever else writes there would lose a file.
    """
    for place in (folder, *(folder / part for part in parts)):
        for left in place.glob(f"*{TEMPORARY}"):
            left.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file so that it is either whole or absent: temporary name, sync, rename."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Lets one process of this machine at a time do what is inside; the lock file is gone
    afterwards.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # whoever held it has removed it meanwhile: that file locks nobody out
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
