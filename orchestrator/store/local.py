"""A store in a folder: a local disk or a shared POSIX file system.

An object is prepared in `tmp/`, every file synced, and becomes visible by one rename of its folder.
Renaming onto an existing folder fails, so of two attempts that race the first wins.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from unlearn.core.paths import local_path

from ..base.errors import EnvironmentFault
from ..base.files import sha256_file, sync, write_synced
from ..base.values import Record
from .base import COMMIT_MARK, Attempt, CorruptObject, Mark, MissingObject, Store, commit_document, is_key, parse_commit
from .claims import ClaimBoard
from .seen import Seen, look

# The names that attempts, removals and claims have: nothing else is ever swept.
_OURS = {
    "tmp": re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}|removed-[0-9a-f]{32}"),
    "claims": re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{32}"),
}


class LocalStore(Store):
    """A store below `root`, which is created where it does not exist."""

    def __init__(self, root: str | Path):
        self.root = local_path(root).absolute()
        self.uri = str(self.root)
        self._verified: dict[tuple[str, str], tuple[int, int]] = {}
        # Of marks that were read: their time stamp, and the sizes they promise. Looking again costs
        # no parsing then.
        self._promised: dict[str, tuple[tuple[int, int], tuple[tuple[str, int], ...]]] = {}
        self._seen = Seen(self.root)
        try:
            for name in ("objects", "tmp", "aside", "claims"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"store {self.root}: cannot be created ({error.strerror}); choose another with --store"
            ) from None

    def _folder(self, key: str) -> Path:
        return self.root / "objects" / key[:2] / key

    def claim_board(self) -> ClaimBoard:
        return _Folder(self.root / "claims")

    def attempt(self, key: str) -> Attempt:
        folder = self.root / "tmp" / f"{key[:16]}-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise EnvironmentFault(f"store {self.root}: cannot be written ({error.strerror})") from None
        return Attempt(self, key, folder)

    def _commit(self, key: str, folder: Path, meta: Record) -> bool:
        try:
            for path in folder.iterdir():
                sync(path)
            write_synced(folder / COMMIT_MARK, json.dumps(commit_document(key, folder, meta), sort_keys=True).encode())
            sync(folder)
            target = self._folder(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(3):
                try:
                    os.rename(folder, target)
                    sync(target.parent)
                    return True
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                if self.mark(key) is not None:  # sets a torn object aside, which frees the name
                    return False
            raise OSError(errno.EEXIST, "the object's name stays taken")
        except OSError as error:
            raise EnvironmentFault(
                f"store {self.root}: cannot be written ({error.strerror}); free some space or choose another --store"
            ) from error

    def has(self, key: str) -> bool:
        promised = self._promised.get(key)
        if promised is not None:
            stamp, sizes = promised
            folder = f"{self.root}/objects/{key[:2]}/{key}"
            with contextlib.suppress(OSError):
                if _stamp(f"{folder}/{COMMIT_MARK}") == stamp and _as_promised(folder, sizes):
                    return True
        return self.mark(key) is not None

    def committed(self, keys: Iterable[str]) -> set[str]:
        """Returns those of `keys` that are committed.

        Every mark is read, and parsed where its bytes are not those that were parsed before.
        """
        found = set()
        listed: dict[str, set[str]] = {}
        for key in keys:
            start = key[:2]
            if start not in listed:
                try:
                    listed[start] = set(os.listdir(self.root / "objects" / start))
                except OSError:
                    listed[start] = set()
            if key in listed[start] and (self._is_seen(key) or self.has(key)):
                found.add(key)
        self._seen.save(listed)
        return found

    def _is_seen(self, key: str) -> bool:
        """Whether an object is whole that was found whole before; False where it is to be
        parsed."""
        folder = f"{self.root}/objects/{key[:2]}/{key}"
        try:
            looked = look(f"{folder}/{COMMIT_MARK}")
            sizes = self._seen.sizes(key, looked.digest)
            if sizes is None:
                mark = self.mark(key)
                promised = self._promised.get(key)
                if mark is None or promised is None:
                    return False
                if promised[0] == looked.stamp:
                    self._seen.add(key, looked.digest, promised[1])
                return True
            if not _as_promised(folder, sizes):
                return False
        except OSError:
            return False
        self._promised[key] = (looked.stamp, sizes)
        return True

    def mark(self, key: str) -> Mark | None:
        folder = self._folder(key)
        try:
            text = (folder / COMMIT_MARK).read_bytes()
        except FileNotFoundError:
            if not folder.exists():
                return None
            try:  # once more: it may have been committed between the two looks
                text = (folder / COMMIT_MARK).read_bytes()
            except FileNotFoundError:
                self.set_aside(key, "no commit mark")
                return None
        except NotADirectoryError:
            self.set_aside(key, "not a folder")
            return None
        try:
            mark = parse_commit(key, text)
            for name, entry in mark["files"].items():
                size = (folder / name).stat().st_size
                if size != entry["size"]:
                    raise ValueError(f"{name} has {size} bytes instead of {entry['size']}")
        except FileNotFoundError as error:
            self.set_aside(key, f"{Path(error.filename).name} is missing")
            return None
        except ValueError as error:
            self.set_aside(key, str(error))
            return None
        with contextlib.suppress(OSError):
            sizes = tuple((name, int(entry["size"])) for name, entry in mark["files"].items())
            self._promised[key] = (_stamp(folder / COMMIT_MARK), sizes)
        return mark

    def fetch(self, key: str, name: str) -> Path:
        mark = self.mark(key)
        if mark is None or name not in mark["files"]:
            raise MissingObject(key, name)
        path = self._folder(key) / name
        try:
            stamp = _stamp(path)
        except FileNotFoundError:
            raise MissingObject(key, name) from None
        # One checksum for each file and process: its time stamp tells whether it was touched since.
        if self._verified.get((key, name)) != stamp:
            try:
                found = sha256_file(path)
            except FileNotFoundError:
                raise MissingObject(key, name) from None
            if found != mark["files"][name]["sha256"]:
                # set aside and made again by somebody else meanwhile: look anew
                if self.mark(key) != mark:
                    raise MissingObject(key, name)
                self.set_aside(key, f"{name} does not match its checksum")
                raise CorruptObject(key, f"{name} does not match its checksum")
            self._verified[key, name] = stamp
        return path

    def folder(self, key: str) -> Path:
        mark = self.mark(key)
        if mark is None:
            raise MissingObject(key, "no commit mark")
        for name in mark["files"]:
            self.fetch(key, name)
        return self._folder(key)

    def set_aside(self, key: str, reason: str) -> None:
        target = self.root / "aside" / f"{key}-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.rename(self._folder(key), target)
            note = {"key": key, "reason": reason, "time": time.time()}
            write_synced(target.with_suffix(".json"), json.dumps(note).encode())

    def keys(self) -> Iterator[str]:
        objects = self.root / "objects"
        for start in sorted(os.listdir(objects)):
            # A part at a time: whoever looks at a few need not wait for all.
            for name in sorted(os.listdir(objects / start)) if (objects / start).is_dir() else ():
                if is_key(name) and (objects / start / name / COMMIT_MARK).is_file():
                    yield name

    def remove(self, key: str) -> None:
        doomed = self.root / "tmp" / f"removed-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._folder(key), doomed)  # it vanishes at once, then its bytes go
            shutil.rmtree(doomed, ignore_errors=True)

    def litter(self, older_than: float) -> list[str]:
        found = []
        for part, pattern in _OURS.items():
            for path in (self.root / part).iterdir():
                if not pattern.fullmatch(path.name):
                    continue  # nothing that we wrote
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > older_than:
                        found.append(f"{part}/{path.name}")
        return sorted(found)

    def clear(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def location(self, key: str, name: str) -> str:
        return str(self._folder(key) / name)


class _Folder(ClaimBoard):
    """Claims as files of a folder. A claim appears whole, by a hard link, and only where there is
    none."""

    def __init__(self, folder: Path):
        self.folder = folder

    def create(self, key: str, text: str) -> bool:
        temporary = self.folder / f".{uuid.uuid4().hex}"
        try:
            temporary.write_text(text)
            try:
                os.link(temporary, self.folder / key)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                    raise
                # A file system without hard links: the claim may be read half written, and then
                # counts as abandoned.
                with (self.folder / key).open("x") as file:
                    file.write(text)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise EnvironmentFault(f"store {self.folder.parent}: cannot be written ({error.strerror})") from None
        finally:
            temporary.unlink(missing_ok=True)

    def claimed(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if is_key(path.name)]

    def read(self, key: str) -> str | None:
        try:
            return (self.folder / key).read_text()
        except FileNotFoundError:
            return None

    def replace(self, key: str, text: str) -> None:
        temporary = self.folder / f".{uuid.uuid4().hex}"
        try:
            temporary.write_text(text)
            os.replace(temporary, self.folder / key)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, key: str, text: str) -> None:
        if self.read(key) != text:
            return
        # Somebody else may have removed it just now, and made a claim of their own. So we take the
        # file away before we look again. What is not ours to remove is put back.
        aside = self.folder / f".{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.folder / key, aside)
            if aside.read_text() != text:
                with contextlib.suppress(OSError):
                    os.link(aside, self.folder / key)
            aside.unlink()


def _as_promised(folder: str, sizes: tuple[tuple[str, int], ...]) -> bool:
    """Whether the files of an object have the sizes that its mark promises."""
    return all(os.stat(f"{folder}/{name}").st_size == size for name, size in sizes)


def _stamp(path: Path | str) -> tuple[int, int]:
    """Returns what changes when a file is written: its time of modification in nanoseconds and its
    size in bytes."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
